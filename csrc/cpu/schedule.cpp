#include "../core/gradient.h"
#include "passes.h"

namespace gumbel_ext::cpu {
namespace {

// row(r, workspace, memory) for every row, in so many bytes of memory; ready() before.
template <typename Ready, typename Row>
void run_rows(const ElementKernels& kernels, const Plan& plan, const Shape& shape, std::int64_t bytes, Ready ready,
              Row row) {
  if (shape.rows == 0 || shape.classes == 0) return ready();
  const CallMemory memory(plan.parts, kernels.workspace_bytes(shape, plan), plan.parts, bytes);
  ready();
  parallel(plan.parts, [&](std::int64_t part) {
    for_share(plan, part, plan.tasks, [&](std::int64_t r) { row(r, memory.workspace(part), memory.group(part)); });
  });
}

}  // namespace

void run_forward(const ElementKernels& kernels, ForwardJob job, const DrawNoise& draw) {
  if (!job.relaxed) return run_one_hot(kernels, job, draw);
  const Shape& shape = job.scores.shape;
  const Plan plan = plan_forward(job, kernels.traits, threads());
  run(
      kernels, plan, shape, plan.in_place ? 1 : shape.tiles(), [&] { draw(job.scores.noise); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.forward_tile(job, plan, group, tile, w); },
      [&](const GroupState& group) { kernels.forward_combine(job, group); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) {
        kernels.forward_finish(job, plan, group, tile, w);
      },
      [](const GroupState&) {});
}

void run_noise(const ElementKernels& kernels, NoiseJob job, const DrawNoise& draw) {
  const Plan plan = plan_noise(job, threads());
  run(
      kernels, plan, job.shape, 0, [&] { draw(job.noise); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) { kernels.noise_tile(job, plan, group, tile, w); },
      [](const GroupState&) {}, [](const GroupState&, std::int64_t, Workspace) {}, [](const GroupState&) {});
}

void run_estimate(const ElementKernels& kernels, const EstimateJob& job) {
  const Shape& shape = job.scores.shape;
  if (shape.rows == 0 || shape.classes == 0) return;
  const Plan plan = plan_estimate(job, threads());
  const CallMemory memory(plan.parts, kernels.workspace_bytes(shape, plan), plan.parts,
                          kernels.estimate_bytes(shape, plan));
  parallel(plan.parts, [&](std::int64_t part) {
    for_share(plan, part, plan.tasks, [&](std::int64_t g) {
      GroupState group = group_of(plan, shape, g);
      group.row_buffer = memory.group(part);
      kernels.estimate_group(job, plan, group, memory.workspace(part));
    });
  });
}

void run_backward(const ElementKernels& kernels, const BackwardJob& job) {
  const Plan plan = plan_backward(job, kernels.traits, threads());
  run(
      kernels, plan, job.shape, 0, [] {},
      [&](const GroupState& group, std::int64_t tile, Workspace w) {
        kernels.backward_tile(job, plan, group, tile, w);
      },
      [&](const GroupState& group) { kernels.backward_combine(job, group); },
      [&](const GroupState& group, std::int64_t tile, Workspace w) {
        kernels.backward_finish(job, plan, group, tile, w);
      },
      [&](const GroupState& group) {
        for (std::int64_t r = 0; r < group.rows && job.grad_tau; ++r) {
          double sum = 0;
          for (std::int64_t t = 0; t < job.shape.tiles(); ++t) sum += group.stats[t * group.rows + r].tau_sum;
          job.grad_tau[group.first_row + r] = tau_gradient(sum, job.tau[group.first_row + r]);
        }
      });
}

void run_top_k(const ElementKernels& kernels, TopKJob job, const DrawNoise& draw) {
  const Shape& shape = job.scores.shape;
  const Plan plan = plan_top_k(shape, job.k, threads());
  run_rows(
      kernels, plan, shape, top_k_bytes(shape), [&] { draw(job.scores.noise); },
      [&](std::int64_t r, Workspace w, void* memory) { kernels.top_k_row(job, plan, r, w, memory); });
}

void run_top_k_backward(const ElementKernels& kernels, const TopKBackwardJob& job) {
  const Plan plan = plan_top_k(job.shape, job.k, threads());
  run_rows(
      kernels, plan, job.shape, top_k_backward_bytes(job.shape, job.k), [] {},
      [&](std::int64_t r, Workspace w, void* memory) { kernels.top_k_backward_row(job, plan, r, w, memory); });
}

}  // namespace gumbel_ext::cpu
