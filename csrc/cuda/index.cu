#include "index.cuh"
#include "launch.cuh"

namespace gumbel_ext::cuda {
namespace {

template <typename T, typename Team>
cudaError_t run_team(const IndexJob& job, const Launcher& launch, Best* partial) {
  constexpr int kDraws = sizeof(T) == 4 ? 4 : 2;
  const std::int64_t rows = job.scores.shape.rows, parts = launch.plan.parts;
  if (job.draws == 1) return launch.rows(index_rows<T, Team, 1>, rows, parts, job, parts, partial);
  return launch.rows(index_rows<T, Team, kDraws>, rows, (job.draws + kDraws - 1) / kDraws * parts, job, parts, partial);
}

template <typename T>
cudaError_t run_plan(const IndexJob& job, const Launcher& launch) {
  const Plan& plan = launch.plan;
  const std::int64_t results = job.scores.shape.rows * job.draws;
  Best* partial = plan.parts > 1 ? launch.workspace<Best>(results * plan.parts) : nullptr;
  cudaError_t error = cudaErrorInvalidValue;
  if (plan.kernel == Kernel::kWarp && plan.lanes == 4) error = run_team<T, WarpTeam<4>>(job, launch, partial);
  if (plan.kernel == Kernel::kWarp && plan.lanes == 8) error = run_team<T, WarpTeam<8>>(job, launch, partial);
  if (plan.kernel == Kernel::kWarp && plan.lanes == 32) error = run_team<T, WarpTeam<32>>(job, launch, partial);
  if (plan.kernel == Kernel::kAcross) error = run_team<T, AcrossTeam>(job, launch, partial);
  if (plan.kernel == Kernel::kBlock) error = run_team<T, BlockTeam>(job, launch, partial);
  if (error != cudaSuccess || plan.parts == 1) return error;
  return launch(index_combine, results, kIndexThreads, job, plan.parts, partial);
}

}  // namespace

cudaError_t run(const IndexJob& job, Element element, const Context& context) {
  const std::int64_t results = job.scores.shape.rows * job.draws;
  if (results == 0) return cudaSuccess;
  const Launcher launch{context, context.plan.value_or(plan_index(job, context.limits))};
  return visit_element(element, [&]<typename T>(T) {
    const cudaError_t error = run_plan<T>(job, launch);
    const RowScalar& t = job.temperature;
    if (error != cudaSuccess || !(t.rows || (t.value > 0 && t.value < 1))) return error;  // nothing can be marked
    return launch(index_again<T>, (results + kIndexThreads - 1) / kIndexThreads, kIndexThreads, job, launch.plan.parts);
  });
}

}  // namespace gumbel_ext::cuda
