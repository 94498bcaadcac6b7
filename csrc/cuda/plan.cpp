#include "plan.h"

#include <algorithm>

namespace gumbel_ext::cuda {
namespace {

int round_up_to_warps(std::int64_t threads) {
  return static_cast<int>(divide_up(threads, kWarp) * kWarp);
}

// Whether the rows, and not their classes, are adjacent in memory.
bool lie_across(const Shape& shape, const Rows& rows) {
  return rows.class_stride != 1 && shape.rows >= 8 && rows.ndim > 0 && rows.stride[rows.ndim - 1] == 1 &&
         rows.size[rows.ndim - 1] >= 8;
}

// A row by lanes of one warp: the fewest that keep it.
Plan warp_plan(std::int64_t classes, int pack) {
  Plan plan;
  plan.kernel = Kernel::kWarp;
  plan.threads = 128;
  plan.lanes = 4;
  while (plan.lanes < kWarp && plan.lanes * pack < classes) plan.lanes *= 2;
  plan.items = pack;
  while (plan.items * plan.lanes < classes) plan.items *= 2;
  return plan;
}

// A row by a block or a cluster, whose threads keep `items` classes each.
Plan block_plan(std::int64_t classes, int items, int blocks) {
  Plan plan;
  plan.kernel = blocks > 1 ? Kernel::kCluster : Kernel::kBlock;
  plan.items = items;
  plan.blocks = blocks;
  plan.threads = round_up_to_warps(divide_up(classes, std::int64_t(items) * blocks));
  return plan;
}

}  // namespace

// The first line that fits:
//   classes             rows                            kernel
//   to 512              adjacent                        a lane of each of 1 to 16 warps, 16 or 32 classes each
//   to 128              any                             4 to 32 lanes a row, a pack each (16-bit types: to 256)
//   to 1024             any                             a warp a row, 8 to 32 classes a lane
//   to 8192             any                             a block a row, 16 classes a thread
//   to 16384            any                             a block a row, 32 classes a thread
//   above 8192          too few to occupy the device,   a cluster of as many blocks as there may be
//                       with clusters
//   to 163840           any, with clusters              a cluster of 2 to 8 blocks a row, 32 or 40 classes a thread
//   others                                              tiles
// Of float64, whose numbers take two registers: at most 16 classes a thread and half the threads a block.
Plan plan_rows(const Shape& shape, const Rows& rows, Element element, const DeviceLimits& limits) {
  const bool is_double = element == Element::kFloat64;
  const bool is_half = element == Element::kFloat16 || element == Element::kBFloat16;
  const std::int64_t classes = shape.classes;
  const int pack = is_half ? 8 : 4, items = is_double ? 16 : 32, max_threads = max_block_threads(is_double);

  if (lie_across(shape, rows) && classes <= items * (max_threads / kWarp)) {
    Plan plan;
    plan.kernel = Kernel::kAcross;
    plan.items = classes <= 16 * (max_threads / kWarp) ? 16 : items;
    plan.threads = static_cast<int>(divide_up(classes, plan.items)) * kWarp;
    return plan;
  }
  if (classes <= items * kWarp) return warp_plan(classes, pack);

  const std::int64_t block = std::int64_t(max_threads) * items;
  const bool too_few =
      shape.rows * divide_up(classes, block) * 4 < limits.multiprocessors && classes > 4 * kTileClasses;
  if (classes > block || too_few) {
    // Two blocks of half the threads a multiprocessor, where the cluster then still holds the row.
    const int fewest = too_few ? limits.max_cluster_blocks : 2;
    for (const int per_multiprocessor : {2, 1})
      for (int blocks = fewest; blocks > 1 && blocks <= limits.max_cluster_blocks; blocks *= 2)
        if (per_multiprocessor * classes <= block * blocks) return block_plan(classes, items, blocks);
    if (!is_double && limits.max_cluster_blocks > 1 &&
        classes <= std::int64_t(max_threads) * 40 * limits.max_cluster_blocks)
      return block_plan(classes, 40, limits.max_cluster_blocks);
  }
  if (classes <= max_threads * 16) return block_plan(classes, 16, 1);
  if (classes <= block) return block_plan(classes, items, 1);

  return Plan();  // tiles
}

// The first line that fits:
//   classes     rows           kernel
//   any         adjacent       a lane of each of 1 to 8 warps
//   to 32       any            4 or 8 lanes a row
//   to 4096     any            a warp a row
//   longer      any            a block a row
// Rows that, by 32 or one a block, are too few to occupy the device are cut into parts, each as a row; then
// one block a row puts them together.
Plan plan_index(const IndexJob& job, const DeviceLimits& limits) {
  const Shape& shape = job.scores.shape;
  Plan plan;
  std::int64_t tasks = shape.rows * divide_up(job.draws, job.draws > 1 ? 4 : 1);
  plan.threads = kIndexThreads;
  if (lie_across(shape, job.scores.logits)) {
    plan.kernel = Kernel::kAcross;
    plan.threads = static_cast<int>(std::min<std::int64_t>(divide_up(shape.classes, 8), 8)) * kWarp;
    tasks = divide_up(tasks, kWarp);
  } else if (shape.classes <= 4096) {
    plan.kernel = Kernel::kWarp;
    plan.lanes = shape.classes <= 16 ? 4 : shape.classes <= 32 ? 8 : kWarp;
    return plan;
  } else {
    plan.kernel = Kernel::kBlock;
  }
  const std::int64_t wanted = std::int64_t(limits.multiprocessors) * 8;
  const std::int64_t at_least = divide_up(shape.classes, std::int64_t(1) << 30);  // positions in a part have 32 bits
  const std::int64_t at_most = std::max(at_least, shape.classes / (plan.kernel == Kernel::kAcross ? 512 : 4096));
  plan.parts = std::clamp(divide_up(wanted, tasks), at_least, std::max<std::int64_t>(1, at_most));
  return plan;
}

}  // namespace gumbel_ext::cuda
