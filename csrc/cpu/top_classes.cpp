// The plan of the k best classes.
#include <cmath>
#include <new>

#include "../core/search.h"
#include "passes.h"

namespace gumbel_ext::cpu {
namespace {

// A sample of a long row: blocks of classes, evenly spread.
constexpr std::int64_t kSampleBlocks = 32, kSampleBlock = 64, kSampled = kSampleBlocks * kSampleBlock;

// Working memory of a group: lists of candidates, the last of them for order_infinite, and the tiles' statistics.
struct GroupLists {
  std::int64_t k, capacity, count, statistics;

  GroupLists(const TopClassesJob& job, const Plan& plan)
      : k(job.k),
        capacity(Candidates::capacity_for(job.k, job.scores.shape.classes)),
        count((plan.share_tiles ? plan.parts : 1) * plan.group_rows + 1),  // parts that share tiles have their own
        statistics(job.scores.shape.tiles() * plan.group_rows) {
  }
  std::int64_t bytes() const {
    return count * std::int64_t(sizeof(Candidates) + 2 * capacity * sizeof(Candidate)) +
           statistics * std::int64_t(sizeof(RowStatistics));
  }
};
struct Lists {
  Candidates* found;
  Candidates& logits;
  RowStatistics* statistics;

  Lists(const GroupLists& sizes, void* memory)
      : found(static_cast<Candidates*>(memory)), logits(found[sizes.count - 1]) {
    auto* classes = reinterpret_cast<Candidate*>(found + sizes.count);
    for (std::int64_t i = 0; i < sizes.count; ++i, classes += 2 * sizes.capacity)
      new (found + i) Candidates(classes, classes + sizes.capacity, sizes.k, sizes.capacity);
    statistics = reinterpret_cast<RowStatistics*>(classes);
  }
};

struct Search {
  const ElementKernels& kernels;
  const TopClassesJob& job;
  const Plan& plan;

  void whole_row(std::int64_t row, const TopClassesJob& what, double shift, bool finite_only, Candidates& found,
                 Workspace workspace) const {
    const GroupState group{row, 1, nullptr, nullptr, nullptr};
    found.look_for(job.k);
    kernels.top_classes_tiles(what, plan, {group, 0, 1, shift, &found, nullptr, finite_only}, 0,
                              job.scores.shape.tiles(), workspace);
    found.finish();
  }

  // Long rows are searched above what is about the score of the k-th best class, or of one a little behind, as a sample
  // has it; where fewer than k are better, in vain.
  void set_floors(const GroupState& group, Candidates* found, Workspace workspace) const {
    const std::int64_t classes = job.scores.shape.classes;
    const bool is_long = classes >= 8 * kSampled && job.k <= classes / 16;
    const double expected = double(job.k) * double(kSampled) / double(classes);  // of the k best, in the sample
    double deviations = 0;  // three, rounded up (the C library's square root is left alone: tests/test_packaging.py)
    while (is_long && deviations * deviations < 9 * expected) ++deviations;
    const auto k = static_cast<std::int64_t>(expected + deviations) + 3;
    if (is_long) {
      for (std::int64_t r = 0; r < group.rows; ++r) {
        found[r].look_for(std::min(k, job.k));
        found[r].capacity = Candidates::capacity_for(found[r].k, classes);  // of fewer, a limit is soon known
      }
      TopClassesTask task{group, 0, 1, 0, found};
      task.width = kSampleBlock;
      task.step = classes / kSampled * kSampleBlock;
      kernels.top_classes_tiles(job, plan, task, 0, kSampleBlocks, workspace);
    }
    for (std::int64_t r = 0; r < group.rows; ++r) {
      if (is_long) found[r].finish();
      const double floor = is_long ? score_of_key(found[r].classes[found[r].count - 1].key) : -infinity();
      found[r].capacity = Candidates::capacity_for(job.k, classes);
      found[r].look_for(job.k, std::isfinite(floor) ? floor : -infinity());
    }
  }

  bool is_float() const {
    return kernels.traits.compute_bytes == sizeof(float);
  }
  double quotient(double logit, double temperature, double shift) const {
    return is_float() ? static_cast<double>(Quotient<float>(temperature, shift)(static_cast<float>(logit)))
                      : Quotient<double>(temperature, shift)(logit);
  }

  // A low temperature takes finite logits out of range, to infinities that tie. Where that happens to the largest
  // finite one, the row is searched once more with it subtracted, after what is larger; and logits decide where scores
  // are -infinity. Returns what was subtracted. `logits`: memory for a list.
  double order_infinite(std::int64_t row, Candidates& found, Candidates& logits, Workspace workspace) const {
    const double temperature = job.temperature[row];
    const std::int64_t k = job.k, lowest = order_key(-infinity()), highest = order_key(infinity());
    const bool in_range = found.classes[0].key < highest && found.classes[k - 1].key > lowest;
    if (in_range || temperature == 0 || temperature >= 1) return 0;
    TopClassesJob greedy = job;
    greedy.temperature = {};
    greedy.scores.noise.on = false;
    whole_row(row, greedy, 0, /*finite_only=*/false, logits, workspace);
    std::int64_t larger = 0;  // than every finite logit
    while (larger < k && logits.classes[larger].key >= highest) ++larger;
    const double largest = larger < k ? score_of_key(logits.classes[larger].key) : -infinity();
    const bool again = job.relative && largest > -infinity() && std::isinf(quotient(largest, temperature, 0));
    if (again) whole_row(row, job, largest, /*finite_only=*/true, found, workspace);
    if (again || larger == k) {
      std::copy_backward(found.classes, found.classes + (k - larger), found.classes + k);
      std::copy(logits.classes, logits.classes + larger, found.classes);
    }
    for (std::int64_t i = k - 1; i >= 0 && found.classes[i].key == lowest; --i)
      found.classes[i].index = logits.classes[i].index;
    return again ? largest : 0;
  }

  // The answers of a row, from whose logits `shift` was subtracted.
  void write(std::int64_t row, const Candidates& found, double shift, const RowStatistics& statistics) const {
    const double temperature = job.temperature[row];
    const bool defined = !is_undefined(statistics.max);
    const double largest = defined && temperature > 0 ? quotient(statistics.max, temperature, shift) : 0;
    for (std::int64_t i = 0; i < job.k; ++i) {
      const std::int64_t at = row * job.k + i;
      double score = score_of_key(found.classes[i].key);
      if (job.relative) {
        score -= largest;
        if (temperature == 0) score = i == 0 ? 0 : -infinity();
        if (!defined) score = std::nan("");
      }
      job.index[at] = found.classes[i].index;
      if (is_float())
        static_cast<float*>(job.found)[at] = static_cast<float>(score);
      else
        static_cast<double*>(job.found)[at] = score;
    }
    reinterpret_cast<RowStatistics*>(job.statistics)[row] = statistics;
  }

  // The answers of a group that has been searched.
  void finish(const GroupState& group, const Lists& lists, Workspace workspace) const {
    for (std::int64_t r = 0; r < group.rows; ++r) {
      const std::int64_t row = group.first_row + r;
      Candidates& found = lists.found[r];
      found.finish();
      if (found.count < job.k) whole_row(row, job, 0, /*finite_only=*/false, found, workspace);
      const double shift = order_infinite(row, found, lists.logits, workspace);
      write(row, found, shift,
            statistics_of_row(lists.statistics + r, group.rows, job.scores.shape.tiles(), job.temperature[row]));
    }
  }

 private:
  static constexpr double infinity() {
    return std::numeric_limits<double>::infinity();
  }
};

}  // namespace

void run_top_classes(const ElementKernels& kernels, TopClassesJob job, const DrawNoise& draw) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0) return draw(job.scores.noise);
  const Plan plan = plan_top_classes(job, kernels.traits, threads());
  const Search search{kernels, job, plan};
  const GroupLists sizes(job, plan);
  const CallMemory memory(plan.parts, kernels.workspace_bytes(shape, plan), groups_at_work(plan), sizes.bytes());
  draw(job.scores.noise);
  const std::int64_t tiles = shape.tiles(), share = divide_up(tiles, plan.parts);
  if (!plan.share_tiles) {
    parallel(plan.parts, [&](std::int64_t part) {
      const Lists lists(sizes, memory.group(part));
      for_share(plan, part, plan.tasks, [&](std::int64_t t) {
        const GroupState group = group_of(plan, shape, t);
        search.set_floors(group, lists.found, memory.workspace(part));
        kernels.top_classes_tiles(job, plan, {group, 0, 1, 0, lists.found, lists.statistics}, 0, tiles,
                                  memory.workspace(part));
        search.finish(group, lists, memory.workspace(part));
      });
    });
    return;
  }
  const Lists lists(sizes, memory.group(0));
  Candidates* found = lists.found;
  for (std::int64_t t = 0; t < plan.tasks; ++t) {
    const GroupState group = group_of(plan, shape, t);
    search.set_floors(group, found, memory.workspace(0));
    for (std::int64_t i = group.rows; i < plan.parts * group.rows; ++i)
      found[i].look_for(job.k, found[i % group.rows].floor);
    parallel(plan.parts, [&](std::int64_t part) {
      const TopClassesTask task{group, 0, 1, 0, found + part * group.rows, lists.statistics};
      kernels.top_classes_tiles(job, plan, task, std::min(tiles, part * share), std::min(tiles, (part + 1) * share),
                                memory.workspace(part));
    });
    for (std::int64_t i = group.rows; i < plan.parts * group.rows; ++i) found[i % group.rows].take_all(found[i]);
    search.finish(group, lists, memory.workspace(0));
  }
}

}  // namespace gumbel_ext::cpu
