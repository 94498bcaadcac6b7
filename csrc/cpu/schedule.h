// Jobs shared out over torch's threads: over groups of rows, or, where those are few and long, over the
// tiles of one group after the other.
#pragma once

#include "job.h"

namespace gumbel_ext::cpu {

void run_forward(const ElementKernels& kernels, ForwardJob job);
void run_index(const ElementKernels& kernels, const IndexJob& job);
void run_noise(const ElementKernels& kernels, const NoiseJob& job);
void run_backward(const ElementKernels& kernels, const BackwardJob& job);

}  // namespace gumbel_ext::cpu
