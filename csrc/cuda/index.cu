#include "index.cuh"
#include "launch.cuh"

namespace gumbel_ext::cuda {
namespace {

template <typename T, typename Team, int kDraws>
cudaError_t run_draws(const IndexJob& job, const Launcher& launch, const Parts& parts, Best* partial) {
  const std::int64_t groups = divide_up(job.draws, kDraws);
  const IndexTasks tasks{divide_up(job.scores.shape.rows, launch.rows_at_once()) * groups * parts.count, groups, parts};
  return launch(index_rows<T, Team, kDraws>, tasks.count, launch.plan.threads, job, tasks,
                RowQuotients<Compute<T>>(job.temperature), partial);
}

template <typename T, typename Team>
cudaError_t run_team(const IndexJob& job, const Launcher& launch, const Parts& parts, Best* partial) {
  if (job.draws == 1) return run_draws<T, Team, 1>(job, launch, parts, partial);
  return run_draws<T, Team, sizeof(T) == 4 ? 4 : 2>(job, launch, parts, partial);
}

template <typename T>
Parts parts_of(const IndexJob& job, const Plan& plan) {
  return Parts::of<T>(job.scores.shape.classes, plan.parts);
}

// How many winners the parts of a plan have, where they are several.
std::int64_t partial_winners(const IndexJob& job, const Plan& plan) {
  return plan.parts > 1 ? job.scores.shape.rows * job.draws * plan.parts : 0;
}

// To `winners`, where they are given, else to the job's `out`; by way of `partial`, where there are several parts.
template <typename T>
cudaError_t run_plan(const IndexJob& job, const Launcher& launch, Best* partial, Best* winners) {
  const Plan& plan = launch.plan;
  const Parts parts = parts_of<T>(job, plan);
  if (parts.count == 1) partial = winners;
  cudaError_t error = cudaErrorInvalidValue;
  if (plan.kernel == Kernel::kWarp && plan.lanes == 4) error = run_team<T, WarpTeam<4>>(job, launch, parts, partial);
  if (plan.kernel == Kernel::kWarp && plan.lanes == 8) error = run_team<T, WarpTeam<8>>(job, launch, parts, partial);
  if (plan.kernel == Kernel::kWarp && plan.lanes == 32) error = run_team<T, WarpTeam<32>>(job, launch, parts, partial);
  if (plan.kernel == Kernel::kAcross) error = run_team<T, AcrossTeam>(job, launch, parts, partial);
  if (plan.kernel == Kernel::kBlock) error = run_team<T, BlockTeam>(job, launch, parts, partial);
  if (error != cudaSuccess || parts.count == 1) return error;
  const std::int64_t results = job.scores.shape.rows * job.draws;
  return launch(index_combine, results, kIndexThreads, job, parts.count, partial, winners);
}

}  // namespace

cudaError_t run(const IndexJob& job, Element element, const Context& context) {
  const std::int64_t results = job.scores.shape.rows * job.draws;
  if (results == 0) return cudaSuccess;
  const Launcher launch{context, context.plan.value_or(plan_index(job, context.limits))};
  const std::int64_t partial_results = partial_winners(job, launch.plan);
  Best* partial = partial_results > 0 ? launch.workspace<Best>(partial_results) : nullptr;
  const cudaError_t error = visit_element(element, [&]<typename T>(T) {
    const cudaError_t error = run_plan<T>(job, launch, partial, nullptr);
    const RowScalar& t = job.temperature;
    if (error != cudaSuccess || !(t.rows || (t.value > 0 && t.value < 1))) return error;  // none is searched again
    return launch(index_again<T>, divide_up(results, kIndexThreads), kIndexThreads, job, parts_of<T>(job, launch.plan));
  });
  return error == cudaSuccess && job.statistics ? run_statistics(job, element, context) : error;
}

cudaError_t run_one_hot(const ForwardJob& job, Element element, const Context& context) {
  const Shape& shape = job.scores.shape;
  IndexJob index{job.scores, {}, 1};
  const Launcher launch{context, context.plan.value_or(plan_index(index, context.limits))};
  Best* winners = launch.workspace<Best>(shape.rows + partial_winners(index, launch.plan));
  if (context.before_launch) context.before_launch();
  index.scores.noise = job.scores.noise;
  return visit_element(element, [&]<typename T>(T) {
    const cudaError_t error = run_plan<T>(index, launch, winners + shape.rows, winners);
    if (error != cudaSuccess) return error;
    const std::int64_t packs = divide_up(shape.classes, kPackClasses<T>) * shape.rows;
    return launch(one_hot_packs<T>, divide_up(packs, kIndexThreads), kIndexThreads, job, winners);
  });
}

cudaError_t run(const OneHotJob& job, Element element, const Context& context) {
  if (job.shape.rows == 0 || job.shape.classes == 0) return cudaSuccess;
  return visit_element(element, [&]<typename T>(T) {
    const std::int64_t packs = divide_up(job.shape.classes, kPackClasses<T>) * job.shape.rows;
    return Launcher{context, {}}(one_hot_of_packs<T>, divide_up(packs, kIndexThreads), kIndexThreads, job);
  });
}

}  // namespace gumbel_ext::cuda
