// How threads share out the work of a plan, and what memory the passes over a group take.
#pragma once

#include <ATen/Parallel.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>

#include "call_memory.h"
#include "schedule.h"

namespace gumbel_ext::cpu {

inline std::int64_t threads() {
  return at::in_parallel_region() ? 1 : at::get_num_threads();
}

// body(part) for every part, on the threads of torch itself, whatever OpenMP runtime this compiler brings. The bodies
// neither allocate nor throw: all that can fail is done before.
template <typename Body>
void parallel(std::int64_t parts, const Body& body) {
  if (parts == 1) return body(0);
  const auto serve = [](std::int64_t begin, std::int64_t end, void* context) {
    for (std::int64_t part = begin; part < end; ++part) (*static_cast<const Body*>(context))(part);
  };
  TORCH_CHECK(torch_parallel_for(0, parts, 1, serve, const_cast<Body*>(&body)) == 0, "gumbel_ext: no threads");
}

// body(i) for the part's share of n.
template <typename Body>
void for_share(const Plan& plan, std::int64_t part, std::int64_t n, const Body& body) {
  const std::int64_t share = divide_up(n, plan.parts), end = std::min(n, (part + 1) * share);
  for (std::int64_t i = part * share; i < end; ++i) body(i);
}

// How many groups are at work at once.
inline std::int64_t groups_at_work(const Plan& plan) {
  return plan.share_tiles ? 1 : plan.parts;
}

inline GroupState group_of(const Plan& plan, const Shape& shape, std::int64_t group) {
  const std::int64_t first = group * plan.group_rows;
  return {first, std::min(plan.group_rows, shape.rows - first), nullptr, nullptr, nullptr};
}

// What the passes over a group of several tiles keep between them: `buffered_tiles` tiles of each row have a place to
// wait in.
struct GroupMemory {
  std::int64_t stats, row_stats, buffer;  // bytes

  GroupMemory(const ElementKernels& kernels, const Plan& plan, const Shape& shape, std::int64_t buffered_tiles)
      : stats(shape.tiles() * plan.group_rows * std::int64_t(sizeof(TileStats))), row_stats(0), buffer(0) {
    if (shape.tiles() == 1) return;
    row_stats = plan.group_rows * std::int64_t(sizeof(TileStats));
    buffer = plan.group_rows * buffered_tiles * kTileClasses * kernels.traits.compute_bytes;
  }
  std::int64_t bytes() const {
    return buffer + stats + row_stats;
  }
  GroupState attach(GroupState group, void* memory) const {
    group.row_buffer = memory;  // first: it is read and written by whole vectors
    group.stats = reinterpret_cast<TileStats*>(static_cast<char*>(memory) + buffer);
    group.row_stats = reinterpret_cast<TileStats*>(static_cast<char*>(memory) + buffer + stats);
    return group;
  }
};

// For every group: first(group, tile, workspace) for all its tiles; then, where they are several,
// combine(group), and finish(group, tile, workspace) for all of them; then done(group). ready() before, when all
// memory is there.
template <typename Ready, typename First, typename Combine, typename Finish, typename Done>
void run(const ElementKernels& kernels, const Plan& plan, const Shape& shape, std::int64_t buffered_tiles, Ready ready,
         First first, Combine combine, Finish finish, Done done) {
  if (shape.rows == 0 || shape.classes == 0) return ready();
  const std::int64_t tiles = shape.tiles();
  const GroupMemory group_memory(kernels, plan, shape, buffered_tiles);
  const CallMemory memory(plan.parts, kernels.workspace_bytes(shape, plan), groups_at_work(plan), group_memory.bytes());
  ready();
  if (!plan.share_tiles) {
    parallel(plan.parts, [&](std::int64_t part) {
      const Workspace workspace = memory.workspace(part);
      for_share(plan, part, plan.tasks, [&](std::int64_t g) {
        const GroupState group = group_memory.attach(group_of(plan, shape, g), memory.group(part));
        for (std::int64_t t = 0; t < tiles; ++t) first(group, t, workspace);
        if (tiles > 1) combine(group);
        for (std::int64_t t = 0; t < tiles && tiles > 1; ++t) finish(group, t, workspace);
        done(group);
      });
    });
    return;
  }
  const auto share = [&](const GroupState& group, const auto& pass) {
    parallel(plan.parts, [&](std::int64_t part) {
      for_share(plan, part, tiles, [&](std::int64_t t) { pass(group, t, memory.workspace(part)); });
    });
  };
  for (std::int64_t g = 0; g < plan.tasks; ++g) {
    const GroupState group = group_memory.attach(group_of(plan, shape, g), memory.group(0));
    share(group, first);
    if (tiles > 1) {
      combine(group);
      share(group, finish);
    }
    done(group);
  }
}

}  // namespace gumbel_ext::cpu
