# The CPU side of a torch installation, without the CUDA toolkit that TorchConfig.cmake asks for where torch
# is a CUDA build: a CPU build of ours serves both.
#
# Input: CMAKE_PREFIX_PATH, with what `torch.utils.cmake_prefix_path` prints or where LibTorch was unzipped;
# or Torch_DIR. Output: the target torch_cpu_library, Torch_VERSION, TORCH_INSTALL_PREFIX, TORCH_HAS_CUDA.

find_path(Torch_DIR TorchConfig.cmake PATH_SUFFIXES Torch share/cmake/Torch)
if(Torch_DIR)
  get_filename_component(TORCH_INSTALL_PREFIX "${Torch_DIR}/../../.." ABSOLUTE)
  file(STRINGS "${Torch_DIR}/TorchConfigVersion.cmake" _version_line REGEX "set\\(PACKAGE_VERSION " LIMIT_COUNT 1)
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" Torch_VERSION "${_version_line}")
  find_library(TORCH_CPU_LIBRARY torch_cpu PATHS "${TORCH_INSTALL_PREFIX}/lib" NO_DEFAULT_PATH)
  find_library(C10_LIBRARY c10 PATHS "${TORCH_INSTALL_PREFIX}/lib" NO_DEFAULT_PATH)
  if(EXISTS "${TORCH_INSTALL_PREFIX}/lib/libtorch_cuda.so")
    set(TORCH_HAS_CUDA ON)
  else()
    set(TORCH_HAS_CUDA OFF)
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TorchCpu
  REQUIRED_VARS Torch_DIR TORCH_CPU_LIBRARY C10_LIBRARY Torch_VERSION VERSION_VAR Torch_VERSION
  REASON_FAILURE_MESSAGE "set CMAKE_PREFIX_PATH to Python's torch.utils.cmake_prefix_path, or to where LibTorch was unzipped")

if(TorchCpu_FOUND AND NOT TARGET torch_cpu_library)
  add_library(torch_cpu_library INTERFACE)
  target_include_directories(torch_cpu_library SYSTEM INTERFACE
    "${TORCH_INSTALL_PREFIX}/include" "${TORCH_INSTALL_PREFIX}/include/torch/csrc/api/include")
  target_link_libraries(torch_cpu_library INTERFACE "${TORCH_CPU_LIBRARY}" "${C10_LIBRARY}")
endif()
