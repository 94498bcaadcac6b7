#include "launch.cuh"
#include "top_k.cuh"

namespace gumbel_ext::cuda {
namespace {

// As many blocks as occupy the device, and have working memory of so many numbers each in a limit for all.
template <typename Kernel, typename Job>
cudaError_t launch_rows(Kernel kernel, const Job& job, const Shape& shape, std::int64_t doubles,
                        const Context& context) {
  constexpr std::int64_t kMostDoubles = std::int64_t(1) << 26;  // 512 MiB
  const std::int64_t wanted = std::int64_t(context.limits.multiprocessors) * 4, fit = kMostDoubles / doubles;
  const std::int64_t most = fit < 1 ? 1 : fit < wanted ? fit : wanted;
  const std::int64_t blocks = shape.rows < most ? shape.rows : most;
  const Launcher launch{context, {}};
  double* memory = launch.workspace<double>(blocks * doubles);
  return launch(kernel, blocks, kTopKThreads, job, memory, doubles);
}

}  // namespace

cudaError_t run(const TopKJob& job, Element element, const Context& context) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0 || shape.classes == 0) return cudaSuccess;
  const std::int64_t doubles = 3 * TopKMemory::width_of(shape);
  return visit_element(element,
                       [&]<typename T>(T) { return launch_rows(top_k_rows<T>, job, shape, doubles, context); });
}

cudaError_t run(const TopKBackwardJob& job, Element element, const Context& context) {
  if (job.shape.rows == 0 || job.shape.classes == 0) return cudaSuccess;
  const std::int64_t of_step = TopKMemory::width_of(job.shape) + std::int64_t(sizeof(TopKStep) / sizeof(double));
  const std::int64_t doubles = 3 * TopKMemory::width_of(job.shape) + job.k * of_step;
  return visit_element(
      element, [&]<typename T>(T) { return launch_rows(top_k_backward_rows<T>, job, job.shape, doubles, context); });
}

}  // namespace gumbel_ext::cuda
