// What the kernels take from CUDA beyond its language: shared memory, shuffles of any type, clusters, streaming
// loads and stores. Free of torch. Without a CUDA compiler, the header in tests/cuda_on_cpu, included first, stands
// in for CUDA's part.
#pragma once

#include "../core/portability.h"
#include "plan.h"

#if defined(__CUDACC__)
#include <cooperative_groups.h>

#define GUMBEL_EXT_SHARED(Type, name) __shared__ Type name

namespace gumbel_ext::cuda {

// A thread block cluster: blocks that run at the same time and reach each other's shared memory. Only on compute
// capability 9.0 and later; elsewhere a cluster is never launched (plan.cpp), and these are not called.
__device__ __forceinline__ unsigned cluster_rank() {
#if __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().block_rank();
#else
  return 0;
#endif
}
__device__ __forceinline__ unsigned cluster_blocks() {
#if __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().num_blocks();
#else
  return 1;
#endif
}
// Waits for all threads of the cluster; what they wrote before is seen after.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  cooperative_groups::this_cluster().sync();
#endif
}
// Where block `rank` of the cluster keeps what this block keeps at `shared`.
template <typename V>
__device__ __forceinline__ V* in_block(V* shared, unsigned rank) {
#if __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().map_shared_rank(shared, rank);
#else
  return shared;
#endif
}

// Two numbers rounded to 16 bits, as core/convert.h has it but for the bits of NaN; `low` comes first in memory.
__device__ __forceinline__ std::uint32_t narrow_two(float low, float high, BFloat16) {
  std::uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}
__device__ __forceinline__ std::uint32_t narrow_two(float low, float high, Float16) {
  std::uint32_t result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}
__device__ __forceinline__ float widen_half(Float16 x) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
}

// The special-function unit's: subnormal numbers count as 0. Errors: approximate.cuh.
__device__ __forceinline__ float approximate_log2(float x) {
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ float approximate_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// The larger, and the smaller, of two numbers; NaN where one of them is.
__device__ __forceinline__ float larger_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
__device__ __forceinline__ float smaller_or_nan(float a, float b) {
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// Keeps the compiler from computing a number anew wherever it is used; and what depends on it from being computed
// before.
__device__ __forceinline__ void keep(std::uint32_t& number) {
  asm volatile("" : "+r"(number));
}
__device__ __forceinline__ void keep(std::int64_t& number) {
  asm volatile("" : "+l"(number));
}

// Keeps the compiler from computing many addresses beforehand, for which there are no registers.
template <typename E>
__device__ __forceinline__ void materialize(E*& address) {
  asm volatile("" : "+l"(address));
}

}  // namespace gumbel_ext::cuda
#endif

namespace gumbel_ext::cuda {

__device__ __forceinline__ double larger_or_nan(double a, double b) {
  return a > b || a != a ? a : b;
}
struct LargerOrNan {
  template <typename C>
  __device__ __forceinline__ C operator()(C a, C b) const {
    return larger_or_nan(a, b);
  }
};

constexpr unsigned kAllLanes = 0xffffffffu;

// Of keys (core/order.h).
struct LargerKey {
  __device__ __forceinline__ std::int32_t operator()(std::int32_t a, std::int32_t b) const {
    return a > b ? a : b;
  }
  __device__ __forceinline__ std::int32_t of_warp(std::int32_t key) const {
    return __reduce_max_sync(kAllLanes, key);
  }
};

// The value that the lane whose number differs by `lane_mask` passes; for any type made of 32-bit words.
template <typename V>
__device__ __forceinline__ V shuffle_xor(V value, int lane_mask) {
  static_assert(sizeof(V) % 4 == 0, "expected a type made of 32-bit words");
  std::uint32_t words[sizeof(V) / 4];
  memcpy(words, &value, sizeof(V));
#pragma unroll
  for (std::uint32_t& word : words) word = __shfl_xor_sync(kAllLanes, word, lane_mask);
  memcpy(&value, words, sizeof(V));
  return value;
}

// Words of 1 to 16 bytes, as loads and stores take them.
template <int kBytes>
struct Word;
template <>
struct Word<1> {
  using Type = unsigned char;
};
template <>
struct Word<2> {
  using Type = unsigned short;
};
template <>
struct Word<4> {
  using Type = unsigned int;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};

// kBytes from, and to, memory that is touched once and need not stay in a cache.
// Requires: `from` and `to` aligned to kBytes.
template <int kBytes>
__device__ __forceinline__ void load_streaming(void* values, const void* from) {
  const auto word = __ldcs(static_cast<const typename Word<kBytes>::Type*>(from));
  memcpy(values, &word, kBytes);
}
template <int kBytes>
__device__ __forceinline__ void store_streaming(void* to, const void* values) {
  typename Word<kBytes>::Type word;
  memcpy(&word, values, kBytes);
  __stcs(static_cast<typename Word<kBytes>::Type*>(to), word);
}

}  // namespace gumbel_ext::cuda
