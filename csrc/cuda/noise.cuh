// The noise itself: g(seed, row, class, draw) into a tensor, or of one class each.
#pragma once

#include "../core/noise_at.h"
#include "scores.cuh"

namespace gumbel_ext::cuda {

constexpr int kNoiseThreads = 256;

// A thread takes packs of classes, wherever they lie.
template <typename T>
__global__ void __launch_bounds__(kNoiseThreads, 2) noise_packs(const __grid_constant__ NoiseJob job) {
  using C = Compute<T>;
  constexpr int kClasses = kPackClasses<T>;
  const std::int64_t packs = (job.shape.classes + kClasses - 1) / kClasses;
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < job.shape.rows * packs; i += step) {
    const Division at = divide(i, packs);
    const std::int64_t row = at.quotient, first = at.remainder * kClasses;
    C noise[kClasses] = {};
    const int count = static_cast<int>(job.shape.classes - first < kClasses ? job.shape.classes - first : kClasses);
    add_noise(noise, NoiseKey(job.noise, row, first), 0, job.draw);
    store_numbers<T>(Row<T>::template of<kClasses>(job.out, row, first), 0, count, noise);
  }
}

// A thread takes one class of one row and draw.
template <typename C>
__global__ void __launch_bounds__(kNoiseThreads) noise_of_classes(const __grid_constant__ NoiseAtJob job) {
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < job.rows * job.draws; i += step) {
    const C noise = noise_at<C>(job, i);
    store_streaming<sizeof(C)>(static_cast<C*>(job.out) + i, &noise);
  }
}

static __global__ void record_seed_kernel(const __grid_constant__ Noise noise, std::int64_t* to) {
  if (threadIdx.x == 0) *to = static_cast<std::int64_t>(common_seed(noise));
}

}  // namespace gumbel_ext::cuda
