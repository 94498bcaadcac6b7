#include <cuda_runtime.h>

#include "launch.cuh"

namespace gumbel_ext::cuda {
namespace {

// Stands for the kernels: compiled for the same architecture, with as many threads a block as they have at most.
__global__ void __launch_bounds__(kMaxBlockThreads) probe() {
}

// The largest cluster of such blocks that this device can hold.
int max_cluster_blocks() {
  int blocks = kMaxClusterBlocks;
  for (; blocks > 1; blocks /= 2) {
    const LaunchConfig launch(blocks, kMaxBlockThreads, blocks, nullptr);
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, probe, &launch.config) == cudaSuccess && clusters > 0) break;
  }
  cudaGetLastError();  // a refusal above is an answer, and no error of this process
  return blocks;
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
