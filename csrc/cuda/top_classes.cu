#include "launch.cuh"
#include "top_classes.cuh"

namespace gumbel_ext::cuda {

cudaError_t run(const TopClassesJob& job, Element element, const Context& context) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0) return cudaSuccess;
  constexpr std::int64_t kMostClasses = std::int64_t(1) << 30;  // positions in a row have 32 bits
  if (shape.classes > kMostClasses) return cudaErrorInvalidValue;
  const cudaError_t error = visit_element(element, [&]<typename T>(T) {
    return launch_with_memory(top_classes_rows<T>, job, shape, RankMemory::doubles(shape), kTopKThreads, context);
  });
  IndexJob index{job.scores, job.temperature};
  index.statistics = job.statistics;
  return error == cudaSuccess ? run_statistics(index, element, context) : error;
}

}  // namespace gumbel_ext::cuda
