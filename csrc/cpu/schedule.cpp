#include "schedule.h"

#include <ATen/Parallel.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cmath>

#include "../core/gradient.h"
#include "call_memory.h"

namespace gumbel_ext::cpu {
namespace {

std::int64_t threads() {
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
std::int64_t groups_at_work(const Plan& plan) {
  return plan.share_tiles ? 1 : plan.parts;
}

GroupState group_of(const Plan& plan, const Shape& shape, std::int64_t group) {
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

// Where a low temperature takes finite logits out of range (to two infinities that tie, say), the row is searched once
// more with its largest logit subtracted, which then is 0.
void search_again_where_infinite(const ElementKernels& kernels, const IndexJob& job, const Plan& plan,
                                 const IndexTask& task, Workspace workspace) {
  const std::int64_t tiles = job.scores.shape.tiles();
  for (std::int64_t r = 0; r < task.group.rows; ++r) {
    const double temperature = job.temperature[task.group.first_row + r];
    Best* row_best = task.best + r * task.draws;
    if (!std::isinf(row_best[0].score) || temperature >= 1 || temperature == 0) continue;
    const GroupState row{task.group.first_row + r, 1, nullptr, nullptr, nullptr};
    IndexJob largest{job.scores, {}, 1};
    largest.scores.noise.on = false;
    Best found;
    kernels.index_tiles(largest, plan, {row, 0, 1, 0, &found}, 0, tiles, workspace);
    if (!std::isfinite(found.score)) {  // it was no quotient that overflowed, or not only one
      for (std::int64_t d = 0; d < task.draws; ++d) row_best[d] = found;
      continue;
    }
    kernels.index_tiles(job, plan, {row, task.first_draw, task.draws, found.score, row_best}, 0, tiles, workspace);
  }
}

// done(task, workspace), with the winners of the task's rows and draws, for every task; ready() before.
template <typename Ready, typename Done>
void run_index_tasks(const ElementKernels& kernels, const IndexJob& job, const Plan& plan, Ready ready, Done done) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0 || shape.classes == 0 || job.draws == 0) return ready();
  const std::int64_t tiles = shape.tiles(), blocks = divide_up(job.draws, kDrawsPerTask);
  const std::int64_t most = plan.group_rows * std::min(job.draws, kDrawsPerTask);
  const std::int64_t bests = plan.share_tiles ? plan.parts : 1;  // parts that share tiles have winners of their own
  const CallMemory memory(plan.parts, kernels.workspace_bytes(shape, plan), groups_at_work(plan),
                          bests * most * std::int64_t(sizeof(Best)));
  ready();
  const auto task_of = [&](std::int64_t number, std::int64_t part) {
    const std::int64_t first_draw = number % blocks * kDrawsPerTask;
    return IndexTask{group_of(plan, shape, number / blocks), first_draw,
                     std::min(kDrawsPerTask, job.draws - first_draw), 0, static_cast<Best*>(memory.group(part))};
  };
  if (!plan.share_tiles) {
    parallel(plan.parts, [&](std::int64_t part) {
      for_share(plan, part, plan.tasks, [&](std::int64_t t) {
        const IndexTask task = task_of(t, part);
        kernels.index_tiles(job, plan, task, 0, tiles, memory.workspace(part));
        done(task, memory.workspace(part));
      });
    });
    return;
  }
  const std::int64_t share = divide_up(tiles, plan.parts);
  for (std::int64_t t = 0; t < plan.tasks; ++t) {
    const IndexTask task = task_of(t, 0);
    const std::int64_t count = task.group.rows * task.draws;
    parallel(plan.parts, [&](std::int64_t part) {
      IndexTask of_part = task;
      of_part.best += part * count;
      kernels.index_tiles(job, plan, of_part, std::min(tiles, part * share), std::min(tiles, (part + 1) * share),
                          memory.workspace(part));
    });
    for (std::int64_t i = count; i < plan.parts * count; ++i) {
      Best& kept = task.best[i % count];
      if (beats(task.best[i].score, kept.score)) kept = task.best[i];
    }
    done(task, memory.workspace(0));
  }
}

// row(r, workspace, memory) for every row, in so many bytes of memory; ready() before.
template <typename Ready, typename Row>
void run_rows(const ElementKernels& kernels, const Plan& plan, const Shape& shape, std::int64_t bytes, Ready ready,
              Row row) {
  if (shape.rows == 0 || shape.classes == 0) return ready();
  const CallMemory memory(plan.parts, kernels.workspace_bytes(shape, plan), plan.parts, bytes);
  ready();
  parallel(plan.parts, [&](std::int64_t part) {
    for_share(plan, part, plan.tasks, [&](std::int64_t r) { row(r, memory.workspace(part), memory.group(part)); });
  });
}

// One-hot samples without their relaxed values: the index's search.
void run_one_hot(const ElementKernels& kernels, const ForwardJob& job, const DrawNoise& draw) {
  IndexJob index{job.scores, {}, 1};
  const Plan plan = plan_index(index, job.one_hot, kernels.traits, threads());
  run_index_tasks(
      kernels, index, plan, [&] { draw(index.scores.noise); },
      [&](const IndexTask& task, Workspace workspace) {
        for (std::int64_t t = 0; t < job.scores.shape.tiles(); ++t)
          kernels.one_hot_tile(job.scores.shape, job.one_hot, plan, task, t, workspace);
      });
}

}  // namespace

void run_forward(const ElementKernels& kernels, ForwardJob job, const DrawNoise& draw) {
  if (!job.relaxed) return run_one_hot(kernels, job, draw);
  const Shape& shape = job.scores.shape;
  const Plan plan = plan_forward(job, kernels.traits, threads());
  run(
      kernels, plan, shape, plan.in_place ? 1 : shape.tiles(), [&] { draw(job.scores.noise); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.forward_tile(job, plan, group, tile, w); },
      [&](const GroupState& group) { kernels.forward_combine(job, group); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) {
        kernels.forward_finish(job, plan, group, tile, w);
      },
      [](const GroupState&) {});
}

void run_index(const ElementKernels& kernels, IndexJob job, const DrawNoise& draw) {
  const Plan plan = plan_index(job, {}, kernels.traits, threads());
  run_index_tasks(
      kernels, job, plan, [&] { draw(job.scores.noise); },
      [&](const IndexTask& task, Workspace workspace) {
        const auto place = [&](std::int64_t i) {
          return (task.group.first_row + i / task.draws) * job.draws + task.first_draw + i % task.draws;
        };
        const std::int64_t count = task.group.rows * task.draws;
        for (std::int64_t i = 0; job.scores_out && i < count; ++i) job.scores_out[place(i)] = task.best[i].score;
        search_again_where_infinite(kernels, job, plan, task, workspace);
        for (std::int64_t i = 0; i < count; ++i) {
          const Best& best = task.best[i];
          job.out[place(i)] = job.marks && is_undefined(best.score) ? ~best.index : best.index;
        }
      });
}

void run_noise(const ElementKernels& kernels, NoiseJob job, const DrawNoise& draw) {
  const Plan plan = plan_noise(job, threads());
  run(
      kernels, plan, job.shape, 0, [&] { draw(job.noise); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.noise_tile(job, plan, group, tile, w); },
      [](const GroupState&) {}, [](const GroupState&, std::int64_t, Workspace) {}, [](const GroupState&) {});
}

void run_one_hot(const ElementKernels& kernels, const OneHotJob& job) {
  const Shape& shape = job.shape;
  if (shape.rows == 0 || shape.classes == 0) return;
  const Plan plan = plan_one_hot(job, threads());
  const CallMemory memory(plan.parts, kernels.workspace_bytes(shape, plan), plan.parts,
                          plan.group_rows * std::int64_t(sizeof(Best)));
  parallel(plan.parts, [&](std::int64_t part) {
    for_share(plan, part, plan.tasks, [&](std::int64_t g) {
      const IndexTask task{group_of(plan, shape, g), 0, 1, 0, static_cast<Best*>(memory.group(part))};
      for (std::int64_t r = 0; r < task.group.rows; ++r) {
        const std::int64_t index = job.index[task.group.first_row + r];
        task.best[r] = index < 0 ? Best{std::nan(""), ~index} : Best{0, index};
      }
      for (std::int64_t t = 0; t < shape.tiles(); ++t)
        kernels.one_hot_tile(shape, job.out, plan, task, t, memory.workspace(part));
    });
  });
}

void run_estimate(const ElementKernels& kernels, const EstimateJob& job) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0 || shape.classes == 0) return;
  const Plan plan = plan_estimate(job, threads());
  const CallMemory memory(plan.parts, kernels.workspace_bytes(shape, plan), plan.parts,
                          kernels.estimate_bytes(shape, plan));
  parallel(plan.parts, [&](std::int64_t part) {
    for_share(plan, part, plan.tasks, [&](std::int64_t g) {
      GroupState group = group_of(plan, shape, g);
      group.row_buffer = memory.group(part);
      kernels.estimate_group(job, plan, group, memory.workspace(part));
    });
  });
}

void run_backward(const ElementKernels& kernels, const BackwardJob& job) {
  const Plan plan = plan_backward(job, kernels.traits, threads());
  run(
      kernels, plan, job.shape, 0, [] {},
      [&](const GroupState& group, std::int64_t tile, Workspace w) {
        kernels.backward_tile(job, plan, group, tile, w);
      },
      [&](const GroupState& group) { kernels.backward_combine(job, group); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) {
        kernels.backward_finish(job, plan, group, tile, w);
      },
      [&](const GroupState& group) {
        for (std::int64_t r = 0; r < group.rows && job.grad_tau; ++r) {
          double sum = 0;
          for (std::int64_t t = 0; t < job.shape.tiles(); ++t) sum += group.stats[t * group.rows + r].tau_sum;
          job.grad_tau[group.first_row + r] = tau_gradient(sum, job.tau[group.first_row + r]);
        }
      });
}

void run_top_k(const ElementKernels& kernels, TopKJob job, const DrawNoise& draw) {
  const Shape& shape = job.scores.shape;
  const Plan plan = plan_top_k(shape, job.k, threads());
  run_rows(
      kernels, plan, shape, top_k_bytes(shape), [&] { draw(job.scores.noise); },
      [&](std::int64_t r, Workspace w, void* memory) { kernels.top_k_row(job, plan, r, w, memory); });
}

void run_top_k_backward(const ElementKernels& kernels, const TopKBackwardJob& job) {
  const Plan plan = plan_top_k(job.shape, job.k, threads());
  run_rows(
      kernels, plan, job.shape, top_k_backward_bytes(job.shape, job.k), [] {},
      [&](std::int64_t r, Workspace w, void* memory) { kernels.top_k_backward_row(job, plan, r, w, memory); });
}

}  // namespace gumbel_ext::cpu
