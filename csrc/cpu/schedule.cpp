#include "schedule.h"

#include <ATen/Parallel.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cmath>

#include "../core/gradient.h"
#include "../core/softmax.h"
#include "call_memory.h"

namespace gumbel_ext::cpu {
namespace {

constexpr std::int64_t kGrainClasses = 8192;  // less work than this stays on one thread
constexpr std::int64_t kDrawsPerTask = 64;    // draws that share one pass over the logits

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

// Whether the groups are too few to keep every thread at work while their rows are long.
bool share_out_tiles(const Shape& shape, std::int64_t tasks) {
  return threads() > 1 && shape.tiles() >= 4 * threads() && tasks < 4 * threads() && tasks % threads() != 0;
}

// How a call's tasks go to threads: each task whole to one of the parts, or one task after the other, its tiles
// shared out among the parts.
struct Parts {
  std::int64_t tasks, count;
  bool share_tiles;

  Parts(const Shape& shape, std::int64_t tasks, std::int64_t classes_per_task)
      : tasks(tasks), share_tiles(share_out_tiles(shape, tasks)) {
    const std::int64_t grain = std::max<std::int64_t>(1, kGrainClasses / classes_per_task);
    count = share_tiles ? threads() : std::min(threads(), divide_up(tasks, grain));
  }
  // How many groups are at work at once.
  std::int64_t groups() const {
    return share_tiles ? 1 : count;
  }
  // The first of the part's share of `n`; that of the next part is the share's end.
  std::int64_t first(std::int64_t part, std::int64_t n) const {
    return std::min(n, part * divide_up(n, count));
  }
};

// A group's work; short rows cost as much as a vector.
std::int64_t group_classes(const Shape& shape) {
  return shape.group_rows * std::max<std::int64_t>(shape.classes, 16);
}

GroupState group_of(const Shape& shape, std::int64_t group) {
  const std::int64_t first = group * shape.group_rows;
  return {first, std::min(shape.group_rows, shape.rows - first), nullptr, nullptr, nullptr};
}

// What the passes over a group of several tiles keep between them: `buffered_tiles` tiles of each row have a place to
// wait in.
struct GroupMemory {
  std::int64_t stats, row_stats, buffer;  // bytes

  GroupMemory(const ElementKernels& kernels, const Shape& shape, std::int64_t buffered_tiles)
      : stats(shape.tiles() * shape.group_rows * std::int64_t(sizeof(TileStats))), row_stats(0), buffer(0) {
    if (shape.tiles() == 1) return;
    row_stats = shape.group_rows * std::int64_t(sizeof(TileStats));
    buffer = shape.group_rows * buffered_tiles * kTileClasses * kernels.compute_bytes;
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
void run(const ElementKernels& kernels, const Shape& shape, std::int64_t buffered_tiles, Ready ready, First first,
         Combine combine, Finish finish, Done done) {
  if (shape.rows == 0 || shape.classes == 0) return ready();
  const std::int64_t tiles = shape.tiles();
  const Parts parts(shape, divide_up(shape.rows, shape.group_rows), group_classes(shape));
  const GroupMemory group_memory(kernels, shape, buffered_tiles);
  const CallMemory memory(parts.count, kernels.workspace_bytes(shape), parts.groups(), group_memory.bytes());
  ready();
  if (!parts.share_tiles) {
    parallel(parts.count, [&](std::int64_t part) {
      const Workspace workspace = memory.workspace(part);
      for (std::int64_t g = parts.first(part, parts.tasks); g < parts.first(part + 1, parts.tasks); ++g) {
        const GroupState group = group_memory.attach(group_of(shape, g), memory.group(part));
        for (std::int64_t t = 0; t < tiles; ++t) first(group, t, workspace);
        if (tiles > 1) combine(group);
        for (std::int64_t t = 0; t < tiles && tiles > 1; ++t) finish(group, t, workspace);
        done(group);
      }
    });
    return;
  }
  const auto share = [&](const GroupState& group, const auto& pass) {
    parallel(parts.count, [&](std::int64_t part) {
      for (std::int64_t t = parts.first(part, tiles); t < parts.first(part + 1, tiles); ++t)
        pass(group, t, memory.workspace(part));
    });
  };
  for (std::int64_t g = 0; g < parts.tasks; ++g) {
    const GroupState group = group_memory.attach(group_of(shape, g), memory.group(0));
    share(group, first);
    combine(group);
    share(group, finish);
    done(group);
  }
}

// A task of the index: the draws [first_draw, first_draw + draws) of a group's rows.
struct IndexTask {
  GroupState group;
  std::int64_t first_draw, draws;
  Workspace workspace;
  Best* best;  // [rows][draws]
};

// Where a low temperature takes finite logits out of range (to two infinities that tie, say), the row is
// searched once more with its largest logit subtracted, which then is 0.
void search_again_where_infinite(const ElementKernels& kernels, const IndexJob& job, const IndexTask& task) {
  const std::int64_t tiles = job.scores.shape.tiles();
  for (std::int64_t r = 0; r < task.group.rows; ++r) {
    const double temperature = job.temperature[task.group.first_row + r];
    Best* row_best = task.best + r * task.draws;
    if (!std::isinf(row_best[0].score) || temperature >= 1 || temperature == 0) continue;
    const GroupState row{task.group.first_row + r, 1, nullptr, nullptr, nullptr};
    IndexJob largest{job.scores, {}, 1};
    largest.scores.noise.on = false;
    Best found;
    kernels.index_tiles(largest, row, 0, 1, 0, tiles, &found, task.workspace);
    if (!std::isfinite(found.score)) {  // it was no quotient that overflowed, or not only one
      for (std::int64_t d = 0; d < task.draws; ++d) row_best[d] = found;
      continue;
    }
    IndexJob shifted = job;
    shifted.shift = found.score;
    kernels.index_tiles(shifted, row, task.first_draw, task.draws, 0, tiles, row_best, task.workspace);
  }
}

// done(task), with the winners of its rows and draws, for every group and kDrawsPerTask draws; ready() before.
template <typename Ready, typename Done>
void run_index_tasks(const ElementKernels& kernels, const IndexJob& job, Ready ready, Done done) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0 || shape.classes == 0 || job.draws == 0) return ready();
  const std::int64_t tiles = shape.tiles(), blocks = divide_up(job.draws, kDrawsPerTask);
  const std::int64_t most_draws = std::min(job.draws, kDrawsPerTask), most = shape.group_rows * most_draws;
  const Parts parts(shape, divide_up(shape.rows, shape.group_rows) * blocks, group_classes(shape) * most_draws);
  const std::int64_t bests = parts.share_tiles ? parts.count : 1;  // a part's own winners, of which the first wins
  const CallMemory memory(parts.count, kernels.workspace_bytes(shape), parts.groups(),
                          bests * most * std::int64_t(sizeof(Best)));
  ready();
  const auto task_of = [&](std::int64_t number, std::int64_t part) {
    const std::int64_t first_draw = number % blocks * kDrawsPerTask;
    return IndexTask{group_of(shape, number / blocks), first_draw, std::min(kDrawsPerTask, job.draws - first_draw),
                     memory.workspace(part), static_cast<Best*>(memory.group(part))};
  };
  if (!parts.share_tiles) {
    parallel(parts.count, [&](std::int64_t part) {
      for (std::int64_t t = parts.first(part, parts.tasks); t < parts.first(part + 1, parts.tasks); ++t) {
        const IndexTask task = task_of(t, part);
        kernels.index_tiles(job, task.group, task.first_draw, task.draws, 0, tiles, task.best, task.workspace);
        done(task);
      }
    });
    return;
  }
  for (std::int64_t t = 0; t < parts.tasks; ++t) {
    const IndexTask task = task_of(t, 0);
    const std::int64_t count = task.group.rows * task.draws;
    parallel(parts.count, [&](std::int64_t part) {
      kernels.index_tiles(job, task.group, task.first_draw, task.draws, parts.first(part, tiles),
                          parts.first(part + 1, tiles), task.best + part * count, memory.workspace(part));
    });
    for (std::int64_t i = count; i < parts.count * count; ++i) {
      Best& kept = task.best[i % count];
      if (beats(task.best[i].score, kept.score)) kept = task.best[i];
    }
    done(task);
  }
}

}  // namespace

void run_forward(const ElementKernels& kernels, ForwardJob job, const DrawNoise& draw) {
  if (!job.relaxed) {  // the winner alone: most classes need no logarithm
    IndexJob index{job.scores, {}, 1};
    const auto ready = [&] {
      draw(job.scores.noise);
      index.scores.noise = job.scores.noise;
    };
    run_index_tasks(kernels, index, ready, [&](const IndexTask& task) {
      for (std::int64_t t = 0; t < job.scores.shape.tiles(); ++t)
        kernels.one_hot_tile(job, task.group, t, task.best, task.workspace);
    });
    return;
  }
  const Shape& shape = job.scores.shape;
  job.in_place =
      kernels.compute_bytes == kernels.element_bytes && job.relaxed.class_stride == 1 && shape.group_rows == 1;
  run(
      kernels, shape, job.in_place ? 1 : shape.tiles(), [&] { draw(job.scores.noise); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.forward_tile(job, group, tile, w); },
      [&](const GroupState& group) { kernels.forward_combine(job, group); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.forward_finish(job, group, tile, w); },
      [](const GroupState&) {});
}

void run_index(const ElementKernels& kernels, IndexJob job, const DrawNoise& draw) {
  run_index_tasks(
      kernels, job, [&] { draw(job.scores.noise); },
      [&](const IndexTask& task) {
        search_again_where_infinite(kernels, job, task);
        for (std::int64_t i = 0; i < task.group.rows * task.draws; ++i)
          job.out[(task.group.first_row + i / task.draws) * job.draws + task.first_draw + i % task.draws] =
              task.best[i].index;
      });
}

void run_noise(const ElementKernels& kernels, NoiseJob job, const DrawNoise& draw) {
  run(
      kernels, job.shape, 0, [&] { draw(job.noise); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.noise_tile(job, group, tile, w); },
      [](const GroupState&) {}, [](const GroupState&, std::int64_t, Workspace) {}, [](const GroupState&) {});
}

void run_backward(const ElementKernels& kernels, const BackwardJob& job) {
  run(
      kernels, job.shape, 0, [] {},
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.backward_tile(job, group, tile, w); },
      [&](const GroupState& group) { kernels.backward_combine(job, group); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.backward_finish(job, group, tile, w); },
      [&](const GroupState& group) {
        for (std::int64_t r = 0; r < group.rows && job.grad_tau; ++r) {
          double sum = 0;
          for (std::int64_t t = 0; t < job.shape.tiles(); ++t) sum += group.stats[t * group.rows + r].log_sum;
          job.grad_tau[group.first_row + r] = tau_gradient(sum, job.tau[group.first_row + r]);
        }
      });
}

}  // namespace gumbel_ext::cpu
