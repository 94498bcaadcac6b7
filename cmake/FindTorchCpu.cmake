# The CPU side of a torch installation, without the CUDA toolkit that TorchConfig.cmake asks for where torch
# is a CUDA build: a CPU build of ours serves both. It stands beside find_package(Torch) in one project.
#
# Input: CMAKE_PREFIX_PATH, with what `torch.utils.cmake_prefix_path` prints or where LibTorch was unzipped;
# or Torch_DIR. Output: the target TorchCpu::TorchCpu, Torch_VERSION, TORCH_INSTALL_PREFIX, and TORCH_OPENMP_LIBRARY,
# empty where torch brings none. TORCH_HAS_CUDA: whether torch is a CUDA build; then also the target
# TorchCpu::TorchCuda, torch's own CUDA libraries, and TORCH_CUDA_VERSION, empty where it is not said.

find_path(Torch_DIR TorchConfig.cmake PATH_SUFFIXES Torch share/cmake/Torch PATHS ${TorchCpu_FALLBACK_PATHS})
if(Torch_DIR)
  get_filename_component(TORCH_INSTALL_PREFIX "${Torch_DIR}/../../.." ABSOLUTE)
  set(_version_line "")
  if(EXISTS "${Torch_DIR}/TorchConfigVersion.cmake")
    file(STRINGS "${Torch_DIR}/TorchConfigVersion.cmake" _version_line REGEX "set\\(PACKAGE_VERSION " LIMIT_COUNT 1)
  endif()
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" Torch_VERSION "${_version_line}")
  # Not from the cache: they belong to the Torch_DIR of this run.
  unset(TORCH_CPU_LIBRARY CACHE)
  unset(C10_LIBRARY CACHE)
  find_library(TORCH_CPU_LIBRARY torch_cpu PATHS "${TORCH_INSTALL_PREFIX}/lib" NO_DEFAULT_PATH)
  find_library(C10_LIBRARY c10 PATHS "${TORCH_INSTALL_PREFIX}/lib" NO_DEFAULT_PATH)
  set(TORCH_OPENMP_LIBRARY "${TORCH_INSTALL_PREFIX}/lib/libgomp.so.1")
  if(APPLE OR NOT EXISTS "${TORCH_OPENMP_LIBRARY}")  # on macOS torch's own libraries bring it
    set(TORCH_OPENMP_LIBRARY "")
  endif()
  unset(TORCH_CUDA_LIBRARY CACHE)
  unset(C10_CUDA_LIBRARY CACHE)
  find_library(TORCH_CUDA_LIBRARY torch_cuda PATHS "${TORCH_INSTALL_PREFIX}/lib" NO_DEFAULT_PATH)
  find_library(C10_CUDA_LIBRARY c10_cuda PATHS "${TORCH_INSTALL_PREFIX}/lib" NO_DEFAULT_PATH)
  set(TORCH_HAS_CUDA OFF)
  set(TORCH_CUDA_VERSION "")
  if(TORCH_CUDA_LIBRARY AND C10_CUDA_LIBRARY)
    set(TORCH_HAS_CUDA ON)
    if(EXISTS "${TORCH_INSTALL_PREFIX}/version.py")
      file(STRINGS "${TORCH_INSTALL_PREFIX}/version.py" _version_line REGEX "^cuda.*=" LIMIT_COUNT 1)
      string(REGEX MATCH "[0-9]+\\.[0-9]+" TORCH_CUDA_VERSION "${_version_line}")
    endif()
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TorchCpu
  REQUIRED_VARS Torch_DIR TORCH_CPU_LIBRARY C10_LIBRARY Torch_VERSION VERSION_VAR Torch_VERSION
  REASON_FAILURE_MESSAGE "set CMAKE_PREFIX_PATH to Python's torch.utils.cmake_prefix_path, or to where LibTorch was unzipped")

if(TorchCpu_FOUND AND NOT TARGET TorchCpu::TorchCpu)
  add_library(TorchCpu::TorchCpu INTERFACE IMPORTED GLOBAL)
  target_include_directories(TorchCpu::TorchCpu SYSTEM INTERFACE
    "${TORCH_INSTALL_PREFIX}/include" "${TORCH_INSTALL_PREFIX}/include/torch/csrc/api/include")
  target_link_libraries(TorchCpu::TorchCpu INTERFACE "${TORCH_CPU_LIBRARY}" "${C10_LIBRARY}")
  # Torch's own OpenMP runtime, where it brings one, so that a program needs none from its system and has one
  # alone. As an option and not as a library, lest CMake warn of the other libgomp in projects that use OpenMP.
  if(TORCH_OPENMP_LIBRARY)
    target_link_options(TorchCpu::TorchCpu INTERFACE
      "LINKER:--push-state,--no-as-needed,${TORCH_OPENMP_LIBRARY},--pop-state")
  endif()
endif()
if(TorchCpu_FOUND AND TORCH_HAS_CUDA AND NOT TARGET TorchCpu::TorchCuda)
  add_library(TorchCpu::TorchCuda INTERFACE IMPORTED GLOBAL)
  target_link_libraries(TorchCpu::TorchCuda INTERFACE
    TorchCpu::TorchCpu "${TORCH_CUDA_LIBRARY}" "${C10_CUDA_LIBRARY}")
endif()
