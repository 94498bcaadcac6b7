// The row kernels for one instruction set. Free of torch and of the standard library's functions: a
// shared inline function compiled here could be linked into code that runs on older processors.
#include "backward.h"
#include "forward.h"
#include "index.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
std::int64_t workspace_bytes(const Shape& shape) {
  return Buffers<Compute<T>>(shape, nullptr).bytes;
}

template <typename T>
constexpr ElementKernels element_kernels() {
  return {sizeof(Compute<T>), workspace_bytes<T>, forward_tile<T>,  forward_finish<T>, index_tiles<T>,
          one_hot_tile<T>,    noise_tile<T>,      backward_tile<T>, backward_finish<T>};
}

#define GUMBEL_EXT_STRING_(name) #name
#define GUMBEL_EXT_STRING(name) GUMBEL_EXT_STRING_(name)

extern const KernelTable kernels;
const KernelTable kernels = {GUMBEL_EXT_STRING(GUMBEL_EXT_ISA), element_kernels<float>(), element_kernels<double>(),
                             element_kernels<Float16>(), element_kernels<BFloat16>()};

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
