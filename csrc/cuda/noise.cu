#include "launch.cuh"
#include "noise.cuh"

namespace gumbel_ext::cuda {

cudaError_t run(const NoiseJob& job, Element element, const Context& context) {
  if (job.shape.rows == 0 || job.shape.classes == 0) return cudaSuccess;
  return visit_element(element, [&]<typename T>(T) {
    const std::int64_t packs = divide_up(job.shape.classes, kPackClasses<T>) * job.shape.rows;
    return Launcher{context, {}}(noise_packs<T>, divide_up(packs, kNoiseThreads), kNoiseThreads, job);
  });
}

cudaError_t run(const NoiseAtJob& job, Element element, const Context& context) {
  if (job.rows == 0) return cudaSuccess;
  const auto kernel = element == Element::kFloat64 ? noise_of_classes<double> : noise_of_classes<float>;
  return Launcher{context, {}}(kernel, divide_up(job.rows * job.draws, kNoiseThreads), kNoiseThreads, job);
}

cudaError_t record_seed(const Noise& noise, std::int64_t* to, const Context& context) {
  return Launcher{context, {}}(record_seed_kernel, 1, kWarp, noise, to);
}

}  // namespace gumbel_ext::cuda
