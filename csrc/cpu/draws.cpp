// Plans of draws: indices, one-hot rows without their relaxed values, and the draws' log-probabilities.
#include <cmath>
#include <limits>

#include "passes.h"

namespace gumbel_ext::cpu {
namespace {

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

// The rows' statistics, of those of their tiles.
void write_statistics(const IndexJob& job, const IndexTask& task) {
  for (std::int64_t r = 0; r < task.group.rows; ++r) {
    const std::int64_t row = task.group.first_row + r;
    reinterpret_cast<RowStatistics*>(job.statistics)[row] =
        statistics_of_row(task.statistics + r, task.group.rows, job.scores.shape.tiles(), job.temperature[row]);
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
  const std::int64_t best_bytes = bests * most * std::int64_t(sizeof(Best));
  const std::int64_t statistics = job.statistics ? tiles * plan.group_rows : 0;
  const CallMemory memory(plan.parts, kernels.workspace_bytes(shape, plan), groups_at_work(plan),
                          best_bytes + statistics * std::int64_t(sizeof(RowStatistics)));
  ready();
  const auto task_of = [&](std::int64_t number, std::int64_t part) {
    const std::int64_t first_draw = number % blocks * kDrawsPerTask;
    char* own = static_cast<char*>(memory.group(part));
    const bool has_statistics = job.statistics && first_draw == 0;  // one of a group's tasks
    return IndexTask{group_of(plan, shape, number / blocks),
                     first_draw,
                     std::min(kDrawsPerTask, job.draws - first_draw),
                     0,
                     reinterpret_cast<Best*>(own),
                     has_statistics ? reinterpret_cast<RowStatistics*>(own + best_bytes) : nullptr};
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

// Classes that were drawn more than once become one, in the order of classes; what is left over comes last and is none.
void merge_draws(DrawnClass* drawn, std::int64_t draws) {
  constexpr DrawnClass kNone{std::numeric_limits<std::int64_t>::max(), 0};
  std::stable_sort(drawn, drawn + draws, [](const DrawnClass& a, const DrawnClass& b) { return a.index < b.index; });
  std::int64_t kept = 0;
  for (std::int64_t i = 1; i < draws; ++i) {
    if (drawn[i].index == drawn[kept].index)
      drawn[kept].weight += drawn[i].weight;
    else
      drawn[++kept] = drawn[i];
  }
  std::fill(drawn + std::min(draws, kept + 1), drawn + draws, kNone);
}

}  // namespace

void run_index(const ElementKernels& kernels, IndexJob job, const DrawNoise& draw) {
  const Plan plan = plan_index(job, {}, kernels.traits, threads());
  run_index_tasks(
      kernels, job, plan, [&] { draw(job.scores.noise); },
      [&](const IndexTask& task, Workspace workspace) {
        const std::int64_t count = task.group.rows * task.draws;
        const auto place = [&](std::int64_t i) {
          return (task.group.first_row + i / task.draws) * job.draws + task.first_draw + i % task.draws;
        };
        for (std::int64_t i = 0; job.scores_out && i < count; ++i) job.scores_out[place(i)] = task.best[i].score;
        search_again_where_infinite(kernels, job, plan, task, workspace);
        if (task.statistics) write_statistics(job, task);
        for (std::int64_t i = 0; i < count; ++i) {
          const Best& best = task.best[i];
          job.out[place(i)] = job.marks && is_undefined(best.score) ? ~best.index : best.index;
        }
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

void run_log_prob(const ElementKernels& kernels, const LogProbJob& job) {
  if (job.shape.rows == 0 || job.shape.classes == 0) return;
  const Plan plan = plan_log_prob(job, threads());
  parallel(plan.parts, [&](std::int64_t part) {
    for_share(plan, part, plan.tasks, [&](std::int64_t g) {
      const GroupState group = group_of(plan, job.shape, g);
      kernels.log_prob_rows(job, group.first_row, group.rows);
    });
  });
}

void run_log_prob_backward(const ElementKernels& kernels, const LogProbBackwardJob& job) {
  const Shape& shape = job.forward.shape;
  const Plan plan = plan_log_prob_backward(job, threads());
  const std::int64_t draws = job.grad_log_prob ? job.forward.draws : 0;
  const bool is_double = kernels.traits.compute_bytes == sizeof(double);
  const auto memory = c10::GetCPUAllocator()->allocate(shape.rows * draws * std::int64_t(sizeof(DrawnClass)));
  auto* drawn = static_cast<DrawnClass*>(memory.get());
  const auto collect = [&](std::int64_t row) {
    const auto grad = [&](std::int64_t i) {
      return is_double ? static_cast<const double*>(job.grad_log_prob)[i]
                       : static_cast<double>(static_cast<const float*>(job.grad_log_prob)[i]);
    };
    for (std::int64_t i = row * draws; i < (row + 1) * draws; ++i) drawn[i] = {job.forward.index[i], grad(i)};
    merge_draws(drawn + row * draws, draws);
  };
  run(
      kernels, plan, shape, 0,
      [&] {
        parallel(plan.parts, [&](std::int64_t part) { for_share(plan, part, draws > 0 ? shape.rows : 0, collect); });
      },
      [&](const GroupState& group, std::int64_t tile, Workspace w) {
        kernels.log_prob_backward_tile(job, plan, group, tile, drawn, w);
      },
      [](const GroupState&) {}, [](const GroupState&, std::int64_t, Workspace) {},
      [&](const GroupState& group) {
        for (std::int64_t r = 0; r < group.rows && job.grad_temperature; ++r) {
          const double temperature = job.forward.temperature[group.first_row + r];
          double sum = 0;
          for (std::int64_t t = 0; t < shape.tiles(); ++t) sum += group.stats[t * group.rows + r].tau_sum;
          job.grad_temperature[group.first_row + r] = temperature == 0 ? sum : sum / temperature;
        }
      });
}

}  // namespace gumbel_ext::cpu
