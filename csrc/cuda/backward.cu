#include "backward.cuh"
#include "launch.cuh"

namespace gumbel_ext::cuda {
namespace {

template <typename T>
cudaError_t run_tiles(const BackwardJob& job, const Launcher& launch) {
  const std::int64_t tasks = job.shape.rows * job.shape.tiles();
  TileStats* stats = launch.workspace<TileStats>(tasks + job.shape.rows);
  double* scaled_dots = reinterpret_cast<double*>(stats + tasks);
  cudaError_t error = launch(backward_tiles<T>, tasks, kTileThreads, job, stats);
  if (error != cudaSuccess) return error;
  error = launch(backward_combine, job.shape.rows, kTileThreads, job.shape, stats, scaled_dots);
  if (error != cudaSuccess) return error;
  error = launch(backward_finish<T>, tasks, kTileThreads, job, stats, scaled_dots);
  if (error != cudaSuccess || !job.grad_tau) return error;
  return launch(backward_tau, job.shape.rows, kTileThreads, job, stats);
}

}  // namespace

cudaError_t run(const BackwardJob& job, Element element, const Context& context) {
  const Shape& shape = job.shape;
  if (shape.rows == 0 || shape.classes == 0) return cudaSuccess;
  const Launcher launch{context, context.plan.value_or(plan_rows(shape, job.relaxed, element, context.limits))};
  return visit_element(element, [&]<typename T>(T) {
    if (launch.plan.kernel == Kernel::kTiles) return run_tiles<T>(job, launch);
    return visit_plan<T>(launch.plan, [&]<typename Team, int kPacks>(Instance<Team, kPacks>) {
      const auto kernel = job.grad_tau ? backward_rows<T, Team, kPacks, true> : backward_rows<T, Team, kPacks, false>;
      return launch.rows(kernel, shape.rows, job);
    });
  });
}

}  // namespace gumbel_ext::cuda
