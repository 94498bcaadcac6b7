#include "plan.h"

#include <algorithm>
#include <utility>

#include "../core/gradient.h"
#include "../core/softmax.h"

namespace gumbel_ext::cpu {
namespace {

constexpr std::int64_t kThreadClasses = 8192;  // less work than this stays on one thread
constexpr std::int64_t kFewestClasses = 16;    // shorter rows cost as much as these
constexpr std::int64_t kSearchClasses = 64;    // of so few, most may win

enum Choice : std::size_t { kWay, kGroupRows, kInPlace, kParts, kShareTiles };

std::vector<std::int64_t> forced;

std::int64_t choose(Choice choice, std::int64_t of_table) {
  return choice < forced.size() && forced[choice] >= 0 ? forced[choice] : of_table;
}

Way choose_way(bool possible, bool of_table, Way way) {
  return possible && choose(kWay, std::int64_t(of_table ? way : Way::kRows)) == std::int64_t(way) ? way : Way::kRows;
}

bool are_strided(const Rows& rows) {
  return rows && rows.class_stride != 1;
}

template <typename Holds>
bool any_tau(const RowScalar& tau, const Shape& shape, Holds holds) {
  if (!tau.rows) return holds(tau.value);
  return std::any_of(tau.rows, tau.rows + shape.rows, holds);
}

//   classes                       rows of a group
//   contiguous                    as many as fill a tile, at most 128
//   strided, one tile             `in_tile`
//   strided, more than a tile     a cache line's
// They count as strided where they are so in one of the tensors.
std::int64_t group_rows(const Shape& shape, bool strided, std::int64_t in_tile) {
  std::int64_t count = kTileClasses / std::clamp(shape.classes, kAdjacentRows, kTileClasses);
  if (strided) count = shape.tiles() > 1 ? kAdjacentRows : in_tile;
  if (count > kAdjacentRows) count -= count % kAdjacentRows;
  return std::max<std::int64_t>(1, std::min(shape.rows, choose(kGroupRows, count)));
}

//   tasks                                                  threads
//   fewer than 4 a thread, unevenly shared, of long rows   share every task's tiles
//   others                                                 whole tasks, one thread for each kThreadClasses classes
void share_out(Plan& plan, const Shape& shape, std::int64_t draws, std::int64_t threads) {
  plan.tasks = divide_up(shape.rows, plan.group_rows) * divide_up(draws, kDrawsPerTask);
  const std::int64_t task_classes =
      plan.group_rows * std::max(shape.classes, kFewestClasses) * std::min(draws, kDrawsPerTask);
  const std::int64_t tasks_a_thread =
      std::max<std::int64_t>(1, kThreadClasses / std::max<std::int64_t>(1, task_classes));
  plan.share_tiles = choose(kShareTiles, threads > 1 && shape.tiles() >= 4 * threads && plan.tasks < 4 * threads &&
                                             plan.tasks % threads != 0) != 0;
  plan.parts = choose(kParts, plan.share_tiles ? threads : std::min(threads, divide_up(plan.tasks, tasks_a_thread)));
}

}  // namespace

//   classes      number                                                                        way
//   contiguous   up to 4 vectors, without noise 1; where registers are shorter than that, 1.5   transposed
//   strided      up to a tile                                                                  transposed
//   others                                                                                     rows
// A tau that is extreme needs the rows' exponents; logarithms need the scores beside the exponentials.
Plan plan_forward(const ForwardJob& job, const ElementTraits& element, std::int64_t threads) {
  const Shape& shape = job.scores.shape;
  const auto is_extreme = [&](double tau) {
    return element.compute_bytes == 4 ? ExponentScale<float>::is_extreme_tau(tau)
                                      : ExponentScale<double>::is_extreme_tau(tau);
  };
  const double vectors = !element.registers_are_vectors ? 1.5 : job.scores.noise.on ? 4 : 1;
  const bool strided = are_strided(job.scores.logits) || are_strided(job.relaxed);
  Plan plan;
  plan.way = choose_way(shape.tiles() == 1 && !job.logarithms && !any_tau(job.tau, shape, is_extreme),
                        strided || double(shape.classes) <= vectors * element.vector_classes, Way::kTransposed);
  plan.group_rows = group_rows(shape, strided, kMostBlockRows);
  plan.in_place = element.compute_bytes == element.element_bytes && job.relaxed.class_stride == 1 &&
                  plan.group_rows == 1 && choose(kInPlace, 1) != 0;
  share_out(plan, shape, 1, threads);
  return plan;
}

//   working precision   noise   classes        way
//   float               yes     more than 64   search
//   others                                     rows
Plan plan_index(const IndexJob& job, const Rows& one_hot, const ElementTraits& element, std::int64_t threads) {
  const Shape& shape = job.scores.shape;
  Plan plan;
  plan.way =
      choose_way(element.compute_bytes == 4 && job.scores.noise.on, shape.classes > kSearchClasses, Way::kSearch);
  plan.group_rows = group_rows(shape, are_strided(job.scores.logits) || are_strided(one_hot), kAdjacentRows);
  share_out(plan, shape, job.draws, threads);
  return plan;
}

Plan plan_noise(const NoiseJob& job, std::int64_t threads) {
  Plan plan;
  plan.group_rows = group_rows(job.shape, are_strided(job.out), kAdjacentRows);
  share_out(plan, job.shape, 1, threads);
  return plan;
}

//   classes      number          way
//   strided      up to a tile    transposed, for the logits' gradient alone
//   others                       rows
Plan plan_backward(const BackwardJob& job, const ElementTraits& element, std::int64_t threads) {
  const auto is_extreme = [&](double tau) {
    return element.compute_bytes == 4 ? is_extreme_for_gradient<float>(tau) : is_extreme_for_gradient<double>(tau);
  };
  const bool strided = are_strided(job.relaxed) || are_strided(job.grad) || are_strided(job.grad_logits);
  Plan plan;
  plan.way = choose_way(job.shape.tiles() == 1 && !job.grad_tau && !any_tau(job.tau, job.shape, is_extreme), strided,
                        Way::kTransposed);
  plan.group_rows = group_rows(job.shape, strided, kMostBlockRows);
  share_out(plan, job.shape, 1, threads);
  return plan;
}

// The same, with every group on one thread.
void share_out_groups(Plan& plan, const Shape& shape, std::int64_t threads) {
  share_out(plan, shape, 1, threads);
  if (plan.share_tiles) plan.parts = std::min(threads, plan.tasks);
  plan.share_tiles = false;
}

// Rows of several tiles go one by one.
Plan plan_estimate(const EstimateJob& job, std::int64_t threads) {
  const Shape& shape = job.scores.shape;
  const bool strided = are_strided(job.scores.logits) || are_strided(job.grad) || are_strided(job.grad_logits);
  Plan plan;
  plan.group_rows = shape.tiles() > 1 ? 1 : group_rows(shape, strided, kAdjacentRows);
  share_out_groups(plan, shape, threads);
  return plan;
}

// Of what is done once a row: as many rows to a group as are worth a thread.
Plan plan_log_prob(const LogProbJob& job, std::int64_t threads) {
  constexpr std::int64_t kThreadDraws = 512;
  Plan plan;
  plan.group_rows = divide_up(kThreadDraws, std::max<std::int64_t>(1, job.draws));
  plan.tasks = divide_up(job.shape.rows, plan.group_rows);
  plan.parts = choose(kParts, std::min(threads, plan.tasks));
  return plan;
}

Plan plan_log_prob_backward(const LogProbBackwardJob& job, std::int64_t threads) {
  const Shape& shape = job.forward.shape;
  Plan plan;
  plan.group_rows = group_rows(shape, are_strided(job.forward.logits) || are_strided(job.grad_logits), kAdjacentRows);
  share_out(plan, shape, 1, threads);
  return plan;
}

Plan plan_one_hot(const OneHotJob& job, std::int64_t threads) {
  Plan plan;
  plan.group_rows = group_rows(job.shape, are_strided(job.out), kAdjacentRows);
  share_out_groups(plan, job.shape, threads);
  return plan;
}

Plan plan_top_k(const Shape& shape, std::int64_t k, std::int64_t threads) {
  Plan plan;
  plan.tasks = shape.rows;
  const std::int64_t task_classes = std::max(shape.classes, kFewestClasses) * k;
  const std::int64_t tasks_a_thread = std::max<std::int64_t>(1, kThreadClasses / task_classes);
  plan.parts = choose(kParts, std::min(threads, divide_up(plan.tasks, tasks_a_thread)));
  return plan;
}

void force_plan(std::vector<std::int64_t> choices) {
  forced = std::move(choices);
}

}  // namespace gumbel_ext::cpu
