#include "estimate.cuh"
#include "launch.cuh"

namespace gumbel_ext::cuda {
namespace {

template <typename T, typename Team>
cudaError_t run_team(const EstimateJob& job, const Launcher& launch, std::int64_t most) {
  const std::int64_t rows = job.scores.shape.rows;
  auto* of_sweeps = launch.workspace<EstimatedSweep>(rows * most + rows);
  auto* of_rows = reinterpret_cast<EstimatedRow*>(of_sweeps + rows * most);
  const cudaError_t error = launch.rows(estimate_rows<T, Team>, rows, job, most, of_rows, of_sweeps);
  if (error != cudaSuccess) return error;
  return launch.rows(estimate_gradients<T, Team>, rows, job, most, of_rows, of_sweeps);
}

}  // namespace

//   classes     kernel
//   to 4096     a warp a row
//   longer      a block a row
cudaError_t run(const EstimateJob& job, Element element, const Context& context) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0 || shape.classes == 0) return cudaSuccess;
  constexpr std::int64_t kMostClasses = std::int64_t(1) << 30;  // positions in a row have 32 bits
  if (shape.classes > kMostClasses) return cudaErrorInvalidValue;
  Plan plan;
  plan.kernel = shape.classes <= 4096 ? Kernel::kWarp : Kernel::kBlock;
  plan.lanes = kWarp;
  plan.threads = kEstimateThreads;
  const Launcher launch{context, context.plan.value_or(plan)};
  const std::int64_t most = job.estimator == Estimator::kRao       ? job.num_noises
                            : job.estimator == Estimator::kReinmax ? 2
                                                                   : 1;
  return visit_element(element, [&]<typename T>(T) {
    return launch.plan.kernel == Kernel::kWarp ? run_team<T, WarpTeam<kWarp>>(job, launch, most)
                                               : run_team<T, BlockTeam>(job, launch, most);
  });
}

}  // namespace gumbel_ext::cuda
