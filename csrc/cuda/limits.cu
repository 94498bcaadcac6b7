#include <cuda_runtime.h>

#include "launch.h"

namespace gumbel_ext::cuda {
namespace {

// Stands for the kernels: compiled for the same architecture, with as many threads a block as they have at most.
__global__ void __launch_bounds__(512) probe() {
}

// The largest cluster of such blocks that this device can hold.
int max_cluster_blocks() {
  for (int blocks = 8; blocks > 1; blocks /= 2) {
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(512);
    config.attrs = &cluster;
    config.numAttrs = 1;
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, probe, &config) == cudaSuccess && clusters > 0) return blocks;
  }
  cudaGetLastError();  // a refusal above is an answer, and no error of this process
  return 1;
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
  if (error == cudaSuccess)
    limits.max_cluster_blocks = capability >= 9 && attributes.ptxVersion >= 90 ? max_cluster_blocks() : 1;
  return error;
}

}  // namespace gumbel_ext::cuda
