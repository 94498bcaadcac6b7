// Plans (plan.h) executed on torch's threads.
//
// Whatever can fail, memory above all, does so before draw(noise) completes the job's noise.
#pragma once

#include <functional>

#include "kernels.h"

namespace gumbel_ext::cpu {

using DrawNoise = std::function<void(Noise&)>;

void run_forward(const ElementKernels& kernels, ForwardJob job, const DrawNoise& draw);
void run_index(const ElementKernels& kernels, IndexJob job, const DrawNoise& draw);
void run_log_prob(const ElementKernels& kernels, const LogProbJob& job);
void run_log_prob_backward(const ElementKernels& kernels, const LogProbBackwardJob& job);
void run_noise(const ElementKernels& kernels, NoiseJob job, const DrawNoise& draw);
// Rows whose winners are to be found, of a job without relaxed values; and of winners that are known.
void run_one_hot(const ElementKernels& kernels, const ForwardJob& job, const DrawNoise& draw);
void run_one_hot(const ElementKernels& kernels, const OneHotJob& job);
void run_estimate(const ElementKernels& kernels, const EstimateJob& job);
void run_backward(const ElementKernels& kernels, const BackwardJob& job);
void run_top_k(const ElementKernels& kernels, TopKJob job, const DrawNoise& draw);
void run_top_k_backward(const ElementKernels& kernels, const TopKBackwardJob& job);

}  // namespace gumbel_ext::cpu
