// Jobs to kernels on a stream. Free of torch.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <optional>

#include "../core/noise_at.h"
#include "plan.h"

namespace gumbel_ext::cuda {

// Of the current device.
cudaError_t query_limits(DeviceLimits& limits);

// Where jobs run.
struct Context {
  cudaStream_t stream = nullptr;
  DeviceLimits limits;
  std::function<void*(std::int64_t bytes)> workspace;  // working memory, until the job is done; asked for once
  std::function<void()> before_launch;                 // once all memory is there: completes the job's noise
  std::optional<Plan> plan;                            // instead of the one that is chosen
};

// Jobs without rows, classes or draws launch nothing. They return what the launches do.
cudaError_t run(const ForwardJob& job, Element element, const Context& context);
cudaError_t run(const IndexJob& job, Element element, const Context& context);
cudaError_t run_one_hot(const ForwardJob& job, Element element, const Context& context);   // without relaxed values
cudaError_t run_statistics(const IndexJob& job, Element element, const Context& context);  // and nothing else of it
cudaError_t run(const LogProbJob& job, Element element, const Context& context);
cudaError_t run(const LogProbBackwardJob& job, Element element, const Context& context);
cudaError_t run(const NoiseJob& job, Element element, const Context& context);
cudaError_t run(const NoiseAtJob& job, Element element, const Context& context);  // float32 or float64
cudaError_t run(const OneHotJob& job, Element element, const Context& context);
cudaError_t run(const EstimateJob& job, Element element, const Context& context);
// *to = the seed of the noise, in the device's memory.
cudaError_t record_seed(const Noise& noise, std::int64_t* to, const Context& context);
cudaError_t run(const BackwardJob& job, Element element, const Context& context);
cudaError_t run(const TopClassesJob& job, Element element, const Context& context);
cudaError_t run(const TopKJob& job, Element element, const Context& context);
cudaError_t run(const TopKBackwardJob& job, Element element, const Context& context);

}  // namespace gumbel_ext::cuda
