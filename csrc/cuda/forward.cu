#include "forward_tiles.cuh"
#include "launch.cuh"

namespace gumbel_ext::cuda {
namespace {

template <typename T>
cudaError_t run_tiles(const ForwardJob& job, const RowExponent<Compute<T>>& exponents, const Launcher& launch) {
  const Shape& shape = job.scores.shape;
  const std::int64_t tasks = shape.rows * shape.tiles();
  TileStats* stats = launch.workspace<TileStats>(tasks + shape.rows);
  TileStats* row_stats = stats + tasks;
  cudaError_t error = launch(forward_tiles<T>, tasks, kTileThreads, job, exponents, stats);
  if (error != cudaSuccess) return error;
  error = launch(forward_combine<T>, shape.rows, kTileThreads, job, exponents, stats, row_stats);
  if (error != cudaSuccess) return error;
  return launch(forward_finish<T>, tasks, kTileThreads, job, exponents, row_stats);
}

}  // namespace

cudaError_t run(const ForwardJob& job, Element element, const Context& context) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0 || shape.classes == 0) return cudaSuccess;
  if (!job.relaxed) return run_one_hot(job, element, context);
  const Launcher launch{context, context.plan.value_or(plan_rows(shape, job.scores.logits, element, context.limits))};
  return visit_element(element, [&]<typename T>(T) {
    const RowExponent<Compute<T>> exponents(job.tau);
    if (launch.plan.kernel == Kernel::kTiles) return run_tiles<T>(job, exponents, launch);
    return visit_plan<T>(launch.plan, [&]<typename Team, int kPacks>(Instance<Team, kPacks>) {
      return launch.rows(forward_rows<T, Team, kPacks>, shape.rows, job, exponents);
    });
  });
}

}  // namespace gumbel_ext::cuda
