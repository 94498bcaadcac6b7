#include "launch.cuh"
#include "log_prob.cuh"

namespace gumbel_ext::cuda {
namespace {

//   classes     kernel
//   to 4096     a warp a row
//   longer      a block a row
Launcher launcher_of(const Shape& shape, const Context& context) {
  Plan plan;
  plan.kernel = shape.classes <= 4096 ? Kernel::kWarp : Kernel::kBlock;
  plan.lanes = kWarp;
  plan.threads = kLogProbThreads;
  return {context, plan};
}

bool is_empty(const Shape& shape) {
  return shape.rows == 0 || shape.classes == 0;
}

constexpr std::int64_t kMostClasses = std::int64_t(1) << 30;  // positions in a row have 32 bits

}  // namespace

cudaError_t run_statistics(const IndexJob& job, Element element, const Context& context) {
  const Shape& shape = job.scores.shape;
  if (is_empty(shape)) return cudaSuccess;
  if (shape.classes > kMostClasses) return cudaErrorInvalidValue;
  const Launcher launch = launcher_of(shape, context);
  return visit_element(element, [&]<typename T>(T) {
    return launch.plan.kernel == Kernel::kWarp ? launch.rows(row_statistics<T, WarpTeam<kWarp>>, shape.rows, job)
                                               : launch.rows(row_statistics<T, BlockTeam>, shape.rows, job);
  });
}

cudaError_t run(const LogProbJob& job, Element element, const Context& context) {
  if (is_empty(job.shape)) return cudaSuccess;
  const std::int64_t results = job.shape.rows * (job.draws + 1);
  return visit_element(element, [&]<typename T>(T) {
    return Launcher{context, {}}(log_probs<T>, divide_up(results, kLogProbThreads), kLogProbThreads, job);
  });
}

cudaError_t run(const LogProbBackwardJob& job, Element element, const Context& context) {
  const Shape& shape = job.forward.shape;
  if (is_empty(shape)) return cudaSuccess;
  if (shape.classes > kMostClasses) return cudaErrorInvalidValue;
  const Launcher launch = launcher_of(shape, context);
  const std::int64_t draws = job.grad_log_prob ? shape.rows * job.forward.draws : 0;
  return visit_element(element, [&]<typename T>(T) {
    const cudaError_t error = launch.plan.kernel == Kernel::kWarp
                                  ? launch.rows(log_prob_gradients<T, WarpTeam<kWarp>>, shape.rows, job)
                                  : launch.rows(log_prob_gradients<T, BlockTeam>, shape.rows, job);
    if (error != cudaSuccess || draws == 0) return error;
    return Launcher{context, {}}(drawn_gradients<T>, divide_up(draws, kLogProbThreads), kLogProbThreads, job);
  });
}

}  // namespace gumbel_ext::cuda
