#include "schedule.h"

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../core/softmax.h"

namespace gumbel_ext::cpu {
namespace {

constexpr std::int64_t kGrainClasses = 8192;  // less work than this stays on one thread
constexpr std::int64_t kDrawsPerTask = 64;    // draws that share one pass over the logits

// Working memory that a thread keeps from call to call: small, and the same for all shapes alike.
Workspace thread_workspace(std::int64_t bytes) {
  struct Free {
    void operator()(void* p) const {
      std::free(p);
    }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local std::int64_t capacity = 0;
  if (bytes > capacity) {
    memory.reset(std::aligned_alloc(64, static_cast<std::size_t>((bytes + 63) / 64 * 64)));
    TORCH_CHECK(memory != nullptr, "gumbel_ext: out of memory for ", bytes, " bytes of working memory");
    capacity = bytes;
  }
  return memory.get();
}

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Whether the groups are too few to keep every thread at work while their rows are long.
bool share_out_tiles(const Shape& shape, std::int64_t tasks) {
  const std::int64_t threads = at::get_num_threads();
  return threads > 1 && shape.tiles() >= 4 * threads && tasks < 4 * threads && tasks % threads != 0;
}

// A group's work; short rows cost as much as a vector.
std::int64_t group_classes(const Shape& shape) {
  return shape.group_rows * std::max<std::int64_t>(shape.classes, 16);
}

GroupState group_of(const Shape& shape, std::int64_t group) {
  const std::int64_t first = group * shape.group_rows;
  return {first, std::min(shape.group_rows, shape.rows - first), nullptr, nullptr, nullptr};
}

// What the passes over a group of several tiles keep between them.
class GroupMemory {
 public:
  GroupMemory(const ElementKernels& kernels, const Shape& shape, std::int64_t buffered_tiles) {
    stats_.resize(shape.tiles() * shape.group_rows);
    if (shape.tiles() == 1) return;
    row_stats_.resize(shape.group_rows);
    const std::int64_t bytes = shape.group_rows * buffered_tiles * kTileClasses * kernels.compute_bytes;
    if (bytes > 0) buffer_ = c10::GetCPUAllocator()->allocate(bytes);
  }
  GroupState attach(GroupState group) {
    group.stats = stats_.data();
    group.row_stats = row_stats_.data();
    group.row_buffer = buffer_.get();
    return group;
  }

 private:
  std::vector<TileStats> stats_, row_stats_;
  c10::DataPtr buffer_;
};

// For every group: first(group, tile, workspace) for all its tiles; then, where they are several,
// combine(group), and finish(group, tile, workspace) for all of them; then done(group). Between, `buffered_tiles`
// tiles of each row have a place to wait in.
template <typename First, typename Combine, typename Finish, typename Done>
void run(const ElementKernels& kernels, const Shape& shape, std::int64_t buffered_tiles, First first, Combine combine,
         Finish finish, Done done) {
  if (shape.rows == 0 || shape.classes == 0) return;
  const std::int64_t bytes = kernels.workspace_bytes(shape);
  const std::int64_t groups = divide_up(shape.rows, shape.group_rows), tiles = shape.tiles();
  const std::int64_t group_grain = std::max<std::int64_t>(1, kGrainClasses / group_classes(shape));

  if (!share_out_tiles(shape, groups)) {
    at::parallel_for(0, groups, group_grain, [&](std::int64_t begin, std::int64_t end) {
      const Workspace workspace = thread_workspace(bytes);
      GroupMemory memory(kernels, shape, buffered_tiles);
      for (std::int64_t g = begin; g < end; ++g) {
        const GroupState group = memory.attach(group_of(shape, g));
        for (std::int64_t t = 0; t < tiles; ++t) first(group, t, workspace);
        if (tiles > 1) combine(group);
        for (std::int64_t t = 0; t < tiles && tiles > 1; ++t) finish(group, t, workspace);
        done(group);
      }
    });
    return;
  }
  GroupMemory memory(kernels, shape, buffered_tiles);
  const auto share = [&](const GroupState& group, const auto& pass) {
    at::parallel_for(0, tiles, 1, [&](std::int64_t begin, std::int64_t end) {
      const Workspace workspace = thread_workspace(bytes);
      for (std::int64_t t = begin; t < end; ++t) pass(group, t, workspace);
    });
  };
  for (std::int64_t g = 0; g < groups; ++g) {
    const GroupState group = memory.attach(group_of(shape, g));
    share(group, first);
    combine(group);
    share(group, finish);
    done(group);
  }
}

// The winners of one task's rows and draws, into `best`.
void index_task(const ElementKernels& kernels, const IndexJob& job, const GroupState& group, std::int64_t first_draw,
                std::int64_t draws, std::vector<Best>& best) {
  const Shape& shape = job.scores.shape;
  const std::int64_t bytes = kernels.workspace_bytes(shape), tiles = shape.tiles(), count = group.rows * draws;
  const std::int64_t tasks = divide_up(shape.rows, shape.group_rows) * divide_up(job.draws, kDrawsPerTask);
  best.resize(count);
  if (!share_out_tiles(shape, tasks)) {
    kernels.index_tiles(job, group, first_draw, draws, 0, tiles, best.data(), thread_workspace(bytes));
    return;
  }
  const std::int64_t parts = at::get_num_threads();
  std::vector<Best> partial(parts * count);
  at::parallel_for(0, parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p)
      kernels.index_tiles(job, group, first_draw, draws, tiles * p / parts, tiles * (p + 1) / parts,
                          partial.data() + p * count, thread_workspace(bytes));
  });
  std::copy_n(partial.begin(), count, best.begin());
  for (std::int64_t i = count; i < parts * count; ++i) {
    Best& kept = best[i % count];
    if (beats(partial[i].score, kept.score)) kept = partial[i];
  }
}

// Where a low temperature takes finite logits out of range (to two infinities that tie, say), the row is
// searched once more with its largest logit subtracted, which then is 0.
void search_again_where_infinite(const ElementKernels& kernels, const IndexJob& job, const GroupState& group,
                                 std::int64_t first_draw, std::int64_t draws, std::vector<Best>& best) {
  const Shape& shape = job.scores.shape;
  const Workspace workspace = thread_workspace(kernels.workspace_bytes(shape));
  for (std::int64_t r = 0; r < group.rows; ++r) {
    const double temperature = job.temperature[group.first_row + r];
    Best* row_best = best.data() + r * draws;
    if (!std::isinf(row_best[0].score) || temperature >= 1 || temperature == 0) continue;
    const GroupState row{group.first_row + r, 1, nullptr, nullptr, nullptr};
    IndexJob largest{job.scores, {}, 1};
    largest.scores.noise.on = false;
    Best found;
    kernels.index_tiles(largest, row, 0, 1, 0, shape.tiles(), &found, workspace);
    if (!std::isfinite(found.score)) continue;
    IndexJob shifted = job;
    shifted.shift = found.score;
    kernels.index_tiles(shifted, row, first_draw, draws, 0, shape.tiles(), row_best, workspace);
  }
}

template <typename Visit>
void for_each_index_task(const IndexJob& job, Visit visit) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0 || shape.classes == 0 || job.draws == 0) return;
  const std::int64_t groups = divide_up(shape.rows, shape.group_rows), blocks = divide_up(job.draws, kDrawsPerTask);
  const std::int64_t classes = group_classes(shape) * std::min(job.draws, kDrawsPerTask);
  const auto serve = [&](std::int64_t begin, std::int64_t end) {
    std::vector<Best> best;
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t first_draw = task % blocks * kDrawsPerTask;
      visit(group_of(shape, task / blocks), first_draw, std::min(kDrawsPerTask, job.draws - first_draw), best);
    }
  };
  if (share_out_tiles(shape, groups * blocks))
    serve(0, groups * blocks);
  else
    at::parallel_for(0, groups * blocks, std::max<std::int64_t>(1, kGrainClasses / classes), serve);
}

}  // namespace

void run_forward(const ElementKernels& kernels, ForwardJob job) {
  if (!job.relaxed) {  // the winner alone: most classes need no logarithm
    IndexJob index{job.scores, {}, 1};
    for_each_index_task(index, [&](const GroupState& group, std::int64_t, std::int64_t, std::vector<Best>& best) {
      index_task(kernels, index, group, 0, 1, best);
      const Workspace workspace = thread_workspace(kernels.workspace_bytes(job.scores.shape));
      for (std::int64_t t = 0; t < job.scores.shape.tiles(); ++t)
        kernels.one_hot_tile(job, group, t, best.data(), workspace);
    });
    return;
  }
  const Shape& shape = job.scores.shape;
  job.in_place =
      kernels.compute_bytes == kernels.element_bytes && job.relaxed.class_stride == 1 && shape.group_rows == 1;
  run(
      kernels, shape, job.in_place ? 1 : shape.tiles(),
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.forward_tile(job, group, tile, w); },
      [&](const GroupState& group) { kernels.forward_combine(job, group); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.forward_finish(job, group, tile, w); },
      [](const GroupState&) {});
}

void run_index(const ElementKernels& kernels, const IndexJob& job) {
  for_each_index_task(
      job, [&](const GroupState& group, std::int64_t first_draw, std::int64_t draws, std::vector<Best>& best) {
        index_task(kernels, job, group, first_draw, draws, best);
        search_again_where_infinite(kernels, job, group, first_draw, draws, best);
        for (std::int64_t i = 0; i < group.rows * draws; ++i)
          job.out[(group.first_row + i / draws) * job.draws + first_draw + i % draws] = best[i].index;
      });
}

void run_noise(const ElementKernels& kernels, const NoiseJob& job) {
  run(
      kernels, job.shape, 0,
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.noise_tile(job, group, tile, w); },
      [](const GroupState&) {}, [](const GroupState&, std::int64_t, Workspace) {}, [](const GroupState&) {});
}

void run_backward(const ElementKernels& kernels, const BackwardJob& job) {
  run(
      kernels, job.shape, 0,
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.backward_tile(job, group, tile, w); },
      [&](const GroupState& group) { kernels.backward_combine(job, group); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.backward_finish(job, group, tile, w); },
      [&](const GroupState& group) {
        for (std::int64_t r = 0; r < group.rows && job.grad_tau; ++r) {
          double sum = 0;
          for (std::int64_t t = 0; t < job.shape.tiles(); ++t) sum += group.stats[t * group.rows + r].log_sum;
          job.grad_tau[group.first_row + r] = -sum / job.tau[group.first_row + r];
        }
      });
}

}  // namespace gumbel_ext::cpu
