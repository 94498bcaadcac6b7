// Which kernel serves which rows, and how it is launched. Free of torch and of CUDA.
#pragma once

#include "../core/job.h"

namespace gumbel_ext::cuda {

constexpr int kWarp = 32;
constexpr int kMaxBlockThreads = 512;  // of a block that keeps rows in registers; of float64, half
constexpr int kMaxClusterBlocks = 8;   // what every device with clusters is built for
constexpr int kTileThreads = 256;
constexpr int kIndexThreads = 256;

constexpr int max_block_threads(bool is_double) {
  return is_double ? kMaxBlockThreads / 2 : kMaxBlockThreads;
}

struct DeviceLimits {
  int multiprocessors = 1;
  int max_cluster_blocks = 1;  // 1 where there are no clusters (before compute capability 9.0)
};

// See team.cuh for the teams.
enum class Kernel {
  kWarp,     // WarpTeam<lanes>
  kBlock,    // BlockTeam
  kCluster,  // ClusterTeam
  kAcross,   // AcrossTeam
  kTiles     // several passes over tiles of the rows (tiles.cuh)
};

struct Plan {
  Kernel kernel = Kernel::kTiles;
  int lanes = 0;           // of a row's team, within a warp
  int items = 0;           // classes that a thread keeps
  int threads = 0;         // of a block; tiles have kTileThreads
  int blocks = 1;          // of a cluster
  std::int64_t parts = 1;  // of a row, of the index
};

// For the kernels that keep rows in registers: forward and backward. `rows` are those of the logits or of p.
Plan plan_rows(const Shape& shape, const Rows& rows, Element element, const DeviceLimits& limits);
// For the index, which keeps none.
Plan plan_index(const IndexJob& job, const DeviceLimits& limits);

}  // namespace gumbel_ext::cuda
