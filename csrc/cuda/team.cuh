// Teams: the threads that share a row, and what they compute together.
//
// Every team has
//   kMaxThreads    of a block
//   rank(), size() this thread's number in its team, and how many they are
//   rows()         how many rows a block (or cluster) works on at once, and row() which of them is this thread's
//   first(), step() the first of the rows that this block (or cluster) serves, and how far on the next ones are
//   combine(v, op) op over the v of all the team's threads, the same for all of them; op is associative and
//                  commutative. Every thread of the block (or cluster) calls it.
//   scratch        of type Scratch, in shared memory
// Assumptions: blocks of one dimension, whole warps; at most kMaxThreads threads.
#pragma once

#include "builtins.cuh"

namespace gumbel_ext::cuda {

// Over aligned groups of kLanes lanes of a warp; of whole warps by the operation's own way, if it has one.
template <int kLanes, typename V, typename Op>
__device__ __forceinline__ V combine_lanes(V value, Op op) {
  if constexpr (kLanes == kWarp && requires { op.of_warp(value); }) {
    return op.of_warp(value);
  } else {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) value = op(value, shuffle_xor(value, distance));
    return value;
  }
}

// kLanes lanes of a warp: several rows to a block.
template <int kLanes_>
struct WarpTeam {
  static constexpr int kMaxThreads = 128, kLanes = kLanes_;
  struct Scratch {};
  Scratch& scratch;

  __device__ int rank() const {
    return threadIdx.x % kLanes;
  }
  __device__ static constexpr int size() {
    return kLanes;
  }
  __device__ int rows() const {
    return blockDim.x / kLanes;
  }
  __device__ int row() const {
    return threadIdx.x / kLanes;
  }
  __device__ std::int64_t first() const {
    return std::int64_t(blockIdx.x) * rows();
  }
  __device__ std::int64_t step() const {
    return std::int64_t(gridDim.x) * rows();
  }
  template <typename V, typename Op>
  __device__ V combine(V value, Op op) const {
    return combine_lanes<kLanes>(value, op);
  }
};

constexpr int kMaxWarps = kMaxBlockThreads / kWarp;

// Room for one value.
struct alignas(16) Slot {
  unsigned char bytes[32];

  template <typename V>
  __device__ __forceinline__ void put(const V& value) {
    static_assert(sizeof(V) <= sizeof bytes, "a value larger than its slot");
    memcpy(__builtin_assume_aligned(bytes, 16), &value, sizeof(V));  // else, where it is in another block, byte by byte
  }
  template <typename V>
  __device__ __forceinline__ V get() const {
    V value;
    memcpy(&value, __builtin_assume_aligned(bytes, 16), sizeof(V));
    return value;
  }
};

// A block: one row.
struct BlockTeam {
  static constexpr int kMaxThreads = kMaxBlockThreads, kLanes = kWarp;
  struct Scratch {
    Slot of_warp[kMaxWarps];
  };
  Scratch& scratch;

  __device__ int rank() const {
    return threadIdx.x;
  }
  __device__ int size() const {
    return blockDim.x;
  }
  __device__ static constexpr int rows() {
    return 1;
  }
  __device__ static constexpr int row() {
    return 0;
  }
  __device__ std::int64_t first() const {
    return blockIdx.x;
  }
  __device__ std::int64_t step() const {
    return gridDim.x;
  }
  template <typename V, typename Op>
  __device__ V combine(V value, Op op) const {
    value = combine_lanes<kWarp>(value, op);
    __syncthreads();  // the last call's values have been read
    if (threadIdx.x % kWarp == 0) scratch.of_warp[threadIdx.x / kWarp].put(value);
    __syncthreads();
    value = scratch.of_warp[0].template get<V>();
    for (int w = 1; w < int(blockDim.x) / kWarp; ++w) value = op(value, scratch.of_warp[w].template get<V>());
    return value;
  }
};

// A cluster of blocks: one row.
struct ClusterTeam {
  static constexpr int kMaxThreads = kMaxBlockThreads, kLanes = kWarp;
  struct Scratch {
    BlockTeam::Scratch block;
    Slot of_block[kMaxClusterBlocks];
  };
  Scratch& scratch;

  __device__ int rank() const {
    return cluster_rank() * blockDim.x + threadIdx.x;
  }
  __device__ int size() const {
    return cluster_blocks() * blockDim.x;
  }
  __device__ static constexpr int rows() {
    return 1;
  }
  __device__ static constexpr int row() {
    return 0;
  }
  __device__ std::int64_t first() const {
    return blockIdx.x / cluster_blocks();
  }
  __device__ std::int64_t step() const {
    return gridDim.x / cluster_blocks();
  }
  template <typename V, typename Op>
  __device__ V combine(V value, Op op) const {
    value = BlockTeam{scratch.block}.combine(value, op);
    cluster_sync();  // the last call's values have been read
    if (threadIdx.x < cluster_blocks()) in_block(&scratch.of_block[cluster_rank()], threadIdx.x)->put(value);
    cluster_sync();
    value = scratch.of_block[0].template get<V>();
    for (unsigned b = 1; b < cluster_blocks(); ++b) value = op(value, scratch.of_block[b].template get<V>());
    return value;
  }
};

// One lane of every warp of a block: a warp's lanes serve rows that are adjacent in memory, where the classes of a row
// are strided (dim 1 of an image).
struct AcrossTeam {
  static constexpr int kMaxThreads = kMaxBlockThreads, kLanes = 1;
  struct Scratch {
    Slot of_thread[kMaxBlockThreads];
  };
  Scratch& scratch;

  __device__ int rank() const {
    return threadIdx.x / kWarp;
  }
  __device__ int size() const {
    return blockDim.x / kWarp;
  }
  __device__ static constexpr int rows() {
    return kWarp;
  }
  __device__ int row() const {
    return threadIdx.x % kWarp;
  }
  __device__ std::int64_t first() const {
    return std::int64_t(blockIdx.x) * kWarp;
  }
  __device__ std::int64_t step() const {
    return std::int64_t(gridDim.x) * kWarp;
  }
  template <typename V, typename Op>
  __device__ V combine(V value, Op op) const {
    __syncthreads();  // the last call's values have been read
    scratch.of_thread[threadIdx.x].put(value);
    __syncthreads();
    value = scratch.of_thread[row()].template get<V>();
    for (int t = row() + kWarp; t < int(blockDim.x); t += kWarp)
      value = op(value, scratch.of_thread[t].template get<V>());
    return value;
  }
};

// Threads of a block at most: numbers of float64 take two registers.
template <typename T, typename Team>
constexpr int max_threads() {
  return Team::kMaxThreads == kMaxBlockThreads ? max_block_threads(sizeof(T) == 8) : Team::kMaxThreads;
}

// How many blocks have to find room on a multiprocessor at once: what leaves a thread registers for kPacks packs.
template <typename T, typename Team, int kPacks>
constexpr int min_blocks() {
  constexpr int kBytes = kPacks * (sizeof(T) == 2 ? 32 : 4 * int(sizeof(T)));
  constexpr int kRegisters = kBytes <= 16 ? 64 : kBytes <= 32 ? 80 : kBytes <= 192 ? 128 : 255;
  constexpr int kBlocks = 65536 / (max_threads<T, Team>() * kRegisters);
  return kBlocks > 1 ? kBlocks : 1;
}

}  // namespace gumbel_ext::cuda
