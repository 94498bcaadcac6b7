// The operators on the CPU.
#include <ATen/CPUGeneratorImpl.h>

#include "../device_operators.h"
#include "capability.h"
#include "recycling.h"
#include "schedule.h"

namespace gumbel_ext {
namespace {

using namespace cpu;
using at::Tensor;

// How many rows make a group: short rows fill a tile together, and of rows whose classes lie apart, `side_by_side`
// share the cache lines of a class.
std::int64_t group_rows(const Shape& shape, const Rows& rows, std::int64_t side_by_side) {
  std::int64_t count = kTileClasses / std::max<std::int64_t>(kNeighbourRows, std::min(shape.classes, kTileClasses));
  if (rows.class_stride != 1) count = shape.classes > kTileClasses ? kNeighbourRows : side_by_side;
  if (count > kNeighbourRows) count -= count % kNeighbourRows;
  return std::max<std::int64_t>(1, std::min(shape.rows, count));
}

const ElementKernels& kernels_for(Element element) {
  const KernelTable& table = kernel_table();
  switch (element) {
    case Element::kFloat32:
      return table.float32;
    case Element::kFloat64:
      return table.float64;
    case Element::kFloat16:
      return table.float16;
    default:
      return table.bfloat16;
  }
}

struct Cpu {
  struct Guard {
    explicit Guard(at::Device) {
    }
  };
  static constexpr bool kValuesAtHand = true;

  static Tensor new_like(const Tensor& tensor, at::MemoryFormat format = at::MemoryFormat::Preserve) {
    return cpu::new_like(tensor, format);
  }
  static Noise draw_noise(const OptionalGenerator& generator) {
    auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    Noise noise;
    const std::lock_guard<std::mutex> lock(source->mutex_);
    noise.seed = source->random64();
    return noise;
  }

  static void run(ForwardJob job, Element element, const DrawNoise& draw) {
    job.scores.shape.group_rows = group_rows(job.scores.shape, job.scores.logits, kRowsInLanes);
    run_forward(kernels_for(element), job, draw);
  }
  static void run(IndexJob job, Element element, const DrawNoise& draw) {
    job.scores.shape.group_rows = group_rows(job.scores.shape, job.scores.logits, kNeighbourRows);
    run_index(kernels_for(element), job, draw);
  }
  static void run(NoiseJob job, Element element, const DrawNoise& draw) {
    job.shape.group_rows = group_rows(job.shape, job.out, kNeighbourRows);
    run_noise(kernels_for(element), job, draw);
  }
  static void run(BackwardJob job, Element element) {
    job.shape.group_rows = group_rows(job.shape, job.relaxed, kRowsInLanes);
    run_backward(kernels_for(element), job);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, CPU, m) {
  DeviceOperators<Cpu>::implement(m);
}

}  // namespace gumbel_ext
