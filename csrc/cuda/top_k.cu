#include "launch.cuh"
#include "top_k.cuh"

namespace gumbel_ext::cuda {
cudaError_t run(const TopKJob& job, Element element, const Context& context) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0 || shape.classes == 0) return cudaSuccess;
  const std::int64_t doubles = 3 * TopKMemory::width_of(shape);
  return visit_element(element, [&]<typename T>(T) {
    return launch_with_memory(top_k_rows<T>, job, shape, doubles, kTopKThreads, context);
  });
}

cudaError_t run(const TopKBackwardJob& job, Element element, const Context& context) {
  if (job.shape.rows == 0 || job.shape.classes == 0) return cudaSuccess;
  const std::int64_t of_step = TopKMemory::width_of(job.shape) + std::int64_t(sizeof(TopKStep) / sizeof(double));
  const std::int64_t doubles = 3 * TopKMemory::width_of(job.shape) + job.k * of_step;
  return visit_element(element, [&]<typename T>(T) {
    return launch_with_memory(top_k_backward_rows<T>, job, job.shape, doubles, kTopKThreads, context);
  });
}

}  // namespace gumbel_ext::cuda
