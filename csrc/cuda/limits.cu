#include <cuda_runtime.h>

#include "launch.h"

namespace gumbel_ext::cuda {
namespace {

// Tells for which architecture the kernels were compiled.
__global__ void probe() {
}

}  // namespace

cudaError_t query_limits(DeviceLimits& limits) {
  int device = 0, capability = 0;
  cudaFuncAttributes attributes;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, probe);
  // Code for an older architecture, compiled again for this device, knows no clusters.
  if (error == cudaSuccess) limits.max_cluster_blocks = capability >= 9 && attributes.ptxVersion >= 90 ? 8 : 1;
  return error;
}

}  // namespace gumbel_ext::cuda
