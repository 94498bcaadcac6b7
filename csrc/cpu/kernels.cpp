// The kernels for one instruction set, and the plan's ways to them. Free of torch and of the standard library's
// functions: a shared inline function compiled here could be linked into code that runs on older processors.
#include "rows/backward.h"
#include "rows/estimate.h"
#include "rows/forward.h"
#include "rows/index.h"
#include "rows/log_prob.h"
#include "rows/noise.h"
#include "rows/top_k.h"
#include "transposed/backward.h"
#include "transposed/forward.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
std::int64_t workspace_bytes(const Shape& shape, const Plan& plan) {
  return Buffers<Compute<T>>(shape, plan, nullptr).bytes;
}

template <typename T>
void forward_tile(const ForwardJob& job, const Plan& plan, const GroupState& group, std::int64_t tile_index,
                  Workspace workspace) {
  Buffers<Compute<T>> buffers(job.scores.shape, plan, workspace);
  Tile tile(job.scores.shape, group, tile_index);
  if (plan.way == Way::kTransposed) tile = forward_blocks<T>(job, tile, buffers);
  if (tile.rows > 0) forward_rows<T>(job, plan, group, tile, buffers);
}

template <typename T>
void backward_tile(const BackwardJob& job, const Plan& plan, const GroupState& group, std::int64_t tile_index,
                   Workspace workspace) {
  Buffers<Compute<T>> buffers(job.shape, plan, workspace);
  Tile tile(job.shape, group, tile_index);
  if (plan.way == Way::kTransposed) tile = backward_blocks<T>(job, tile, buffers);
  if (tile.rows > 0) backward_rows<T>(job, group, tile, buffers);
}

template <typename T>
constexpr ElementKernels element_kernels() {
  using C = Compute<T>;
  return {{sizeof(T), sizeof(C), kLanes<C>, kRegisterBytes == kVecBytes},
          workspace_bytes<T>,
          forward_tile<T>,
          forward_combine<T>,
          forward_finish<T>,
          index_tiles<T>,
          one_hot_tile<T>,
          log_prob_rows<T>,
          log_prob_backward_tile<T>,
          noise_tile<T>,
          backward_tile<T>,
          backward_combine<T>,
          backward_finish<T>,
          estimate_bytes<T>,
          estimate_group<T>,
          top_k_row<T>,
          top_k_backward_row<T>};
}

#define GUMBEL_EXT_STRING_(name) #name
#define GUMBEL_EXT_STRING(name) GUMBEL_EXT_STRING_(name)

extern const KernelTable kernels;
const KernelTable kernels = {GUMBEL_EXT_STRING(GUMBEL_EXT_ISA), element_kernels<float>(), element_kernels<double>(),
                             element_kernels<Float16>(), element_kernels<BFloat16>()};

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
