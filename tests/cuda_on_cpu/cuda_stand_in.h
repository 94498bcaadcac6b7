// Stands in for CUDA, so that g++ compiles the kernels of csrc/cuda and a CPU executes them: every thread of a block
// (or of a cluster) is a fiber, and a fiber that has to wait for others lets them run.
//
// What it checks as it goes, ending in an exception:
//   - __ldcs and __stcs are aligned to what they move;
//   - __stcs goes to memory that was registered as output, and goes there once (written_once);
//   - threads that wait for each other all arrive, and lanes of a warp that exchange words do so for the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1) : x(x) {
  }
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// ---- Threads ---------------------------------------------------------------------------------------

namespace stand_in {

struct Barrier {
  unsigned size = 0, arrived = 0;
  std::uint64_t generation = 0;
};

constexpr unsigned kWarp = 32;

// What lanes exchange words for.
enum class Exchange { kShuffle, kVote, kLargest };

struct Warp {
  Barrier barrier;
  std::uint32_t words[2][kWarp];  // of every other exchange
  Exchange kinds[2][kWarp];
};

struct Block {
  dim3 index;
  Barrier barrier;
  Warp* warps;
  std::map<const void*, std::size_t>* places;  // of shared variables in `shared`, the same for all blocks
  unsigned char* shared;
};

struct Thread {
  dim3 index, block_size, grid_size;
  Block* block;
  Block* cluster;  // its blocks
  Barrier* cluster_barrier;
  unsigned cluster_rank, cluster_blocks;
  unsigned exchanges = 0;
};

// The thread that runs.
Thread& thread();
// Waits until `size` threads have arrived.
void wait(Barrier& barrier);
// Where this block keeps the shared variable that `key` stands for.
void* shared(const void* key, std::size_t bytes);
// Runs `body` once for every thread of every block.
void run_grid(dim3 grid, dim3 block, unsigned cluster_blocks, const std::function<void()>& body);

void check_aligned(const void* address, std::size_t bytes);
void note_store(const void* address, std::size_t bytes);

// Memory that kernels may write with __stcs, and no longer.
void register_output(const void* address, std::size_t bytes);
void forget_output(const void* address);
// Whether every byte of it was written exactly once; forgets it.
bool written_once();

// How the special-function unit's functions err, as a share of what their documentation allows.
enum class Errors { kNone, kMost, kLeast, kRandom, kOpposed };
extern Errors errors;
// -1 to 1, the same for the same x: 0; 1; -1; 1 or -1 by chance; or, which drives scores apart, 1 or -1 by a bit of x.
double error_share(float x);

// All lanes' words, seen from every lane.
inline const std::uint32_t* exchange(std::uint32_t word, Exchange kind) {
  Thread& t = thread();
  Warp& warp = t.block->warps[t.index.x / kWarp];
  const unsigned turn = t.exchanges++ % 2;
  warp.words[turn][t.index.x % kWarp] = word;
  warp.kinds[turn][t.index.x % kWarp] = kind;
  wait(warp.barrier);
  for (const Exchange other : warp.kinds[turn])
    if (other != kind) throw std::runtime_error("lanes of a warp that meet in different functions");
  return warp.words[turn];
}

}  // namespace stand_in

// threadIdx.x and its like: numbers of the thread that reads them.
namespace stand_in {

inline unsigned thread_number() {
  return thread().index.x;
}
inline unsigned block_number() {
  return thread().block->index.x;
}
inline unsigned block_threads() {
  return thread().block_size.x;
}
inline unsigned grid_blocks() {
  return thread().grid_size.x;
}

template <unsigned (*kNumber)()>
struct Index {
  struct {
    operator unsigned() const {
      return kNumber();
    }
  } x;
};

}  // namespace stand_in

inline stand_in::Index<stand_in::thread_number> threadIdx;
inline stand_in::Index<stand_in::block_number> blockIdx;
inline stand_in::Index<stand_in::block_threads> blockDim;
inline stand_in::Index<stand_in::grid_blocks> gridDim;

#define GUMBEL_EXT_SHARED(Type, name) \
  static const char name##_key = 0;   \
  Type& name = *static_cast<std::remove_reference_t<Type>*>(stand_in::shared(&name##_key, sizeof(Type)))

inline void __syncthreads() {
  stand_in::wait(stand_in::thread().block->barrier);
}
inline std::uint32_t __shfl_xor_sync(unsigned, std::uint32_t word, int lane_mask) {
  const unsigned lane = threadIdx.x % stand_in::kWarp;
  return stand_in::exchange(word, stand_in::Exchange::kShuffle)[lane ^ static_cast<unsigned>(lane_mask)];
}
inline int __any_sync(unsigned, int predicate) {
  const std::uint32_t* words = stand_in::exchange(predicate != 0, stand_in::Exchange::kVote);
  std::uint32_t any = 0;
  for (unsigned lane = 0; lane < stand_in::kWarp; ++lane) any |= words[lane];
  return any != 0;
}

inline int __all_sync(unsigned lanes, int predicate) {
  return !__any_sync(lanes, !predicate);
}
inline int __reduce_max_sync(unsigned, int number) {
  const std::uint32_t* words = stand_in::exchange(static_cast<std::uint32_t>(number), stand_in::Exchange::kLargest);
  int result = number;
  for (unsigned lane = 0; lane < stand_in::kWarp; ++lane) result = std::max(result, static_cast<int>(words[lane]));
  return result;
}
inline int __reduce_min_sync(unsigned lanes, int number) {
  return ~__reduce_max_sync(lanes, ~number);
}

inline int __ffsll(long long bits) {
  return __builtin_ffsll(bits);
}
inline int __popcll(unsigned long long bits) {
  return __builtin_popcountll(bits);
}
inline int atomicAdd(int* to, int value) {
  return std::exchange(*to, *to + value);  // no other fiber runs meanwhile
}

template <typename Word>
Word __ldcs(const Word* from) {
  stand_in::check_aligned(from, sizeof(Word));
  return *from;
}
template <typename Word>
void __stcs(Word* to, Word value) {
  stand_in::check_aligned(to, sizeof(Word));
  stand_in::note_store(to, sizeof(Word));
  *to = value;
}

// ---- What csrc/cuda/builtins.cuh makes of CUDA's own ------------------------------------------------

#include "../../csrc/core/convert.h"

namespace gumbel_ext::cuda {

inline unsigned cluster_rank() {
  return stand_in::thread().cluster_rank;
}
inline unsigned cluster_blocks() {
  return stand_in::thread().cluster_blocks;
}
inline void cluster_sync() {
  stand_in::wait(*stand_in::thread().cluster_barrier);
}
template <typename V>
V* in_block(V* shared, unsigned rank) {
  const stand_in::Thread& t = stand_in::thread();
  const std::ptrdiff_t offset = reinterpret_cast<unsigned char*>(shared) - t.block->shared;
  return reinterpret_cast<V*>(t.cluster[rank].shared + offset);
}
template <typename E>
void materialize(E*&) {
}
template <typename Number>
void keep(Number&) {
}

template <typename T>
std::uint32_t narrow_two(float low, float high, T) {
  T first, second;
  narrow(low, first);
  narrow(high, second);
  return first.bits | static_cast<std::uint32_t>(second.bits) << 16;
}
inline float widen_half(Float16 x) {
  return widen(x);
}

// The special-function unit's: the exact result rounded once, moved by as much of its documented error as
// stand_in::error_share(x) says, subnormal numbers being 0.
inline float with_error(double exact, double error, float x) {
  const float result = static_cast<float>(exact + error * stand_in::error_share(x));
  return std::fabs(result) < 0x1p-126f ? 0.0f : result;
}
inline float approximate_log2(float x) {
  if (!(x >= 0x1p-126f)) return x == x && x > -0x1p-126f ? -__builtin_inff() : __builtin_nanf("");
  const double exact = std::log2(static_cast<double>(x));
  return with_error(exact, 0x1p-22 * (x > 0.5f && x < 2 ? 1 : std::fabs(exact)), x);
}
inline float approximate_exp2(float x) {
  const double exact = std::exp2(static_cast<double>(x));
  return with_error(exact, 0x1p-22 * exact, x);
}
inline float larger_or_nan(float a, float b) {
  return a > b || a != a ? a : b;
}
inline float smaller_or_nan(float a, float b) {
  return a < b || a != a ? a : b;
}

}  // namespace gumbel_ext::cuda

// ---- The runtime -----------------------------------------------------------------------------------

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorInvalidResourceHandle = 400
};
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

// What devices are asked; defined by a library that has some (machine.cpp).
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75 };
struct cudaFuncAttributes {
  int ptxVersion;
};
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)());
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*kernel)(), const cudaLaunchConfig_t* config);
cudaError_t cudaGetLastError();

namespace stand_in {

// What becomes of a launch, which every library of these kernels says for itself: `run` runs the kernel, on this
// thread, with the arguments that it was launched with.
cudaError_t launch(const cudaLaunchConfig_t& config, const std::function<void()>& run);

}  // namespace stand_in

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->gridDim.x == 0 || config->blockDim.x == 0 || config->blockDim.x % stand_in::kWarp != 0)
    return cudaErrorInvalidValue;
  const unsigned cluster = config->numAttrs > 0 ? config->attrs[0].val.clusterDim.x : 1;
  if (config->gridDim.x % cluster != 0) return cudaErrorInvalidValue;
  return stand_in::launch(*config, [kernel, cluster, grid = config->gridDim, block = config->blockDim,
                                    ... copies = static_cast<std::remove_const_t<Parameters>>(arguments)] {
    stand_in::run_grid(grid, block, cluster, [&] { kernel(copies...); });
  });
}
