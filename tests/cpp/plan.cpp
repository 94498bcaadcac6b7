// The CPU's table of ways (csrc/cpu/plan.cpp): what it says of typical jobs, and that what a job does not allow cannot
// be forced.
#include "../../csrc/cpu/plan.h"

#include "check.h"

using namespace gumbel_ext;
using namespace gumbel_ext::cpu;

namespace {

constexpr ElementTraits kFloatAvx512{4, 4, 16, true}, kFloatAvx2{4, 4, 16, false}, kHalf{2, 4, 16, true},
    kDouble{8, 8, 8, true};

Rows contiguous(std::int64_t classes) {
  static int data;
  Rows rows;
  rows.data = &data;
  rows.class_stride = 1;
  rows.ndim = 1;
  rows.stride[0] = classes;
  return rows;
}

Rows strided(std::int64_t classes) {
  Rows rows = contiguous(classes);
  rows.class_stride = 1000;
  rows.stride[0] = 1;
  return rows;
}

ForwardJob forward(std::int64_t rows, std::int64_t classes, bool noise, double tau = 1, bool is_strided = false) {
  ForwardJob job;
  job.scores.shape = {rows, classes};
  job.scores.logits = job.relaxed = is_strided ? strided(classes) : contiguous(classes);
  job.scores.noise.on = noise;
  job.tau.value = tau;
  return job;
}

IndexJob index_of(const ForwardJob& job, std::int64_t draws = 1) {
  return {job.scores, {}, draws};
}

BackwardJob backward(std::int64_t rows, std::int64_t classes, bool is_strided, double tau = 1) {
  BackwardJob job;
  job.shape = {rows, classes};
  job.relaxed = job.grad = job.grad_logits = is_strided ? strided(classes) : contiguous(classes);
  job.tau.value = tau;
  return job;
}

void forward_goes_by_classes_strides_and_registers() {
  const auto way = [](const ForwardJob& job, const ElementTraits& element) {
    return plan_forward(job, element, 1).way;
  };
  EXPECT(way(forward(100, 16, false), kFloatAvx512) == Way::kTransposed);
  EXPECT(way(forward(100, 17, false), kFloatAvx512) == Way::kRows);
  EXPECT(way(forward(100, 64, true), kFloatAvx512) == Way::kTransposed);
  EXPECT(way(forward(100, 65, true), kFloatAvx512) == Way::kRows);
  EXPECT(way(forward(100, 33, true), kDouble) == Way::kRows);
  EXPECT(way(forward(100, 24, true), kFloatAvx2) == Way::kTransposed);
  EXPECT(way(forward(100, 25, false), kFloatAvx2) == Way::kRows);
  EXPECT(way(forward(100, 2048, false, 1, true), kFloatAvx2) == Way::kTransposed);
  EXPECT(way(forward(100, 2049, false, 1, true), kFloatAvx2) == Way::kRows);
  EXPECT(way(forward(100, 4, true, 1e-300), kFloatAvx512) == Way::kRows);
}

void an_extreme_tau_of_one_row_is_that_of_the_call() {
  double taus[100];
  for (double& tau : taus) tau = 1;
  ForwardJob job = forward(100, 4, true);
  job.tau.rows = taus;
  EXPECT(plan_forward(job, kFloatAvx512, 1).way == Way::kTransposed);
  taus[99] = 1e-300;
  EXPECT(plan_forward(job, kFloatAvx512, 1).way == Way::kRows);
}

void backward_and_index_have_tables_of_their_own() {
  EXPECT(plan_backward(backward(100, 10, true), kFloatAvx512, 1).way == Way::kTransposed);
  EXPECT(plan_backward(backward(100, 10, false), kFloatAvx512, 1).way == Way::kRows);
  EXPECT(plan_backward(backward(100, 10, true, 1e-10), kFloatAvx512, 1).way == Way::kRows);
  double grad_tau = 0;
  BackwardJob with_tau = backward(100, 10, true);
  with_tau.grad_tau = &grad_tau;
  EXPECT(plan_backward(with_tau, kFloatAvx512, 1).way == Way::kRows);
  EXPECT(plan_index(index_of(forward(9, 65, true)), {}, kHalf, 1).way == Way::kSearch);
  EXPECT(plan_index(index_of(forward(9, 64, true)), {}, kHalf, 1).way == Way::kRows);
  EXPECT(plan_index(index_of(forward(9, 65, true)), {}, kDouble, 1).way == Way::kRows);
  EXPECT(plan_index(index_of(forward(9, 65, false)), {}, kHalf, 1).way == Way::kRows);
  const TopClassesJob few{forward(900, 65, true).scores, {}, 8},
      many{forward(900, 2048 * 3, true, 1, true).scores, {}, 5000};
  EXPECT(plan_top_classes(few, kHalf, 1).way == Way::kSearch && plan_top_classes(few, kDouble, 1).way == Way::kRows);
  EXPECT(plan_top_classes(few, kHalf, 1).group_rows > 1 && plan_top_classes(many, kHalf, 1).group_rows == 1);
}

void groups_fill_tiles_and_cache_lines() {
  EXPECT(plan_forward(forward(1000, 10, true), kFloatAvx512, 1).group_rows == 128);
  EXPECT(plan_forward(forward(1000, 100, true), kFloatAvx512, 1).group_rows == 16);
  EXPECT(plan_forward(forward(1000, 1500, true), kFloatAvx512, 1).group_rows == 1);
  EXPECT(plan_forward(forward(1000, 1500, true, 1, true), kFloatAvx512, 1).group_rows == kMostBlockRows);
  EXPECT(plan_forward(forward(1000, 5000, true, 1, true), kFloatAvx512, 1).group_rows == kAdjacentRows);
  EXPECT(plan_index(index_of(forward(1000, 100, true, 1, true)), {}, kFloatAvx512, 1).group_rows == kAdjacentRows);
  EXPECT(plan_forward(forward(3, 10, true), kFloatAvx512, 1).group_rows == 3);
  ForwardJob into_strided = forward(1000, 5000, true);
  into_strided.relaxed.class_stride = 1000;
  EXPECT(plan_forward(into_strided, kFloatAvx512, 1).group_rows == kAdjacentRows);
  EXPECT(plan_index(index_of(into_strided), into_strided.relaxed, kFloatAvx512, 1).group_rows == kAdjacentRows);
}

void results_hold_exponentials_where_they_can() {
  EXPECT(plan_forward(forward(4, 5000, true), kFloatAvx512, 1).in_place);
  EXPECT(!plan_forward(forward(4, 5000, true), kHalf, 1).in_place);
  EXPECT(!plan_forward(forward(40, 5000, true, 1, true), kFloatAvx512, 1).in_place);
}

void threads_get_tasks_or_share_tiles() {
  const Plan small = plan_forward(forward(8, 10, true), kFloatAvx512, 4);
  EXPECT(small.parts == 1 && !small.share_tiles && small.tasks == 1);
  const Plan many = plan_forward(forward(100000, 10, true), kFloatAvx512, 4);
  EXPECT(many.parts == 4 && !many.share_tiles && many.tasks == 782);
  const Plan long_row = plan_forward(forward(1, 1 << 20, true), kFloatAvx512, 4);
  EXPECT(long_row.parts == 4 && long_row.share_tiles && long_row.tasks == 1);
  EXPECT(plan_index(index_of(forward(1, 100, true), 1000), {}, kFloatAvx512, 4).tasks == 16);
}

void what_a_job_does_not_allow_cannot_be_forced() {
  force_plan({std::int64_t(Way::kTransposed), 1, 1, 3, 1});
  EXPECT(plan_forward(forward(100, 65, true), kFloatAvx512, 1).way == Way::kTransposed);
  EXPECT(plan_forward(forward(100, 5000, true), kFloatAvx512, 1).way == Way::kRows);
  EXPECT(plan_forward(forward(100, 4, true, 1e-300), kFloatAvx512, 1).way == Way::kRows);
  EXPECT(!plan_forward(forward(100, 5000, true), kHalf, 1).in_place);
  EXPECT(plan_index(index_of(forward(9, 65, true)), {}, kHalf, 1).way == Way::kRows);
  const Plan plan = plan_forward(forward(100, 65, true), kFloatAvx512, 1);
  EXPECT(plan.group_rows == 1 && plan.parts == 3 && plan.share_tiles);
  force_plan({});
  EXPECT(plan_forward(forward(100, 65, true), kFloatAvx512, 1).way == Way::kRows);
}

}  // namespace

int main() {
  forward_goes_by_classes_strides_and_registers();
  an_extreme_tau_of_one_row_is_that_of_the_call();
  backward_and_index_have_tables_of_their_own();
  groups_fill_tiles_and_cache_lines();
  results_hold_exponentials_where_they_can();
  threads_get_tasks_or_share_tiles();
  what_a_job_does_not_allow_cannot_be_forced();
  return failures;
}
