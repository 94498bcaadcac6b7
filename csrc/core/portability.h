// What lets one source compile under a C++ compiler and under nvcc. Free of torch.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define GUMBEL_EXT_INLINE __host__ __device__ __forceinline__
#else
// Always inlined, so that no copy built for one instruction set is ever linked into another.
#define GUMBEL_EXT_INLINE inline __attribute__((always_inline))
#endif

// Before a loop that is rarely gone through: not unrolled where that costs code on a device.
#if defined(__CUDACC__)
#define GUMBEL_EXT_ROLLED _Pragma("unroll 1")
#else
#define GUMBEL_EXT_ROLLED
#endif

namespace gumbel_ext {

// The bits of `value` read as a `To` of the same size.
template <typename To, typename From>
GUMBEL_EXT_INLINE To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
  To result;
#if defined(__CUDACC__)
  memcpy(&result, &value, sizeof(To));
#else
  __builtin_memcpy(&result, &value, sizeof(To));
#endif
  return result;
}

// a * b + c, rounded once. Wherever a rounded product would meet a sum, this is used (products by 1/2 are exact but for
// subnormal numbers, and builds disable contraction), so every compiler and device computes the same bits.
GUMBEL_EXT_INLINE float fused_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}
GUMBEL_EXT_INLINE double fused_multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

// a * b, all 64 bits of it. (nvcc makes three instructions of the product of converted numbers, where this is one.)
GUMBEL_EXT_INLINE std::uint64_t multiply_wide(std::uint32_t a, std::uint32_t b) {
#if defined(__CUDA_ARCH__)
  std::uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
#else
  return static_cast<std::uint64_t>(a) * b;
#endif
}

GUMBEL_EXT_INLINE double square_root(double x) {
#if defined(__CUDACC__)
  return sqrt(x);
#else
  return __builtin_sqrt(x);
#endif
}

}  // namespace gumbel_ext
