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

// Keeps the compiler from computing many addresses beforehand, for which there are no registers.
template <typename E>
__device__ __forceinline__ void materialize(E*& address) {
  asm volatile("" : "+l"(address));
}

}  // namespace gumbel_ext::cuda
#endif

namespace gumbel_ext::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

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
