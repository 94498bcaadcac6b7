// The operators on the CPU.
#include <ATen/CPUGeneratorImpl.h>

#include "../device_operators.h"
#include "caching_allocator.h"
#include "schedule.h"
#include "select_kernels.h"

namespace gumbel_ext {
namespace {

using namespace cpu;
using at::Tensor;

struct Cpu {
  struct Guard {
    explicit Guard(at::Device) {
    }
  };
  static constexpr bool kHostReadsValues = true;

  static Tensor new_like(const Tensor& tensor) {
    return cpu::new_like(tensor);
  }
  static Noise draw_noise(const OptionalGenerator& generator) {
    auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    Noise noise;
    const std::lock_guard<std::mutex> lock(source->mutex_);
    noise.seed = source->random64();
    return noise;
  }

  static void record_seed(const Noise& noise, std::int64_t* to) {
    *to = static_cast<std::int64_t>(noise.seed);
  }
  static void hold_seed(Noise& noise, const std::int64_t* from) {
    noise.seed = static_cast<std::uint64_t>(*from);
  }

  static void run(const ForwardJob& job, Element element, const DrawNoise& draw) {
    run_forward(kernel_table().of(element), job, draw);
  }
  static void run(const IndexJob& job, Element element, const DrawNoise& draw) {
    run_index(kernel_table().of(element), job, draw);
  }
  static void run(const LogProbJob& job, Element element) {
    run_log_prob(kernel_table().of(element), job);
  }
  static void run(const LogProbBackwardJob& job, Element element) {
    run_log_prob_backward(kernel_table().of(element), job);
  }
  static void run(const TopClassesJob& job, Element element, const DrawNoise& draw) {
    run_top_classes(kernel_table().of(element), job, draw);
  }
  static void run(const NoiseJob& job, Element element, const DrawNoise& draw) {
    run_noise(kernel_table().of(element), job, draw);
  }
  static void run(const NoiseAtJob& job, Element element) {
    const auto fill = [&]<typename C>(C* out) {
      for (std::int64_t i = 0; i < job.rows * job.draws; ++i) out[i] = noise_at<C>(job, i);
    };
    element == Element::kFloat64 ? fill(static_cast<double*>(job.out)) : fill(static_cast<float*>(job.out));
  }
  static void run(const OneHotJob& job, Element element) {
    run_one_hot(kernel_table().of(element), job);
  }
  static void run(const EstimateJob& job, Element element) {
    run_estimate(kernel_table().of(element), job);
  }
  static void run(const BackwardJob& job, Element element) {
    run_backward(kernel_table().of(element), job);
  }
  static void run(const TopKJob& job, Element element, const DrawNoise& draw) {
    run_top_k(kernel_table().of(element), job, draw);
  }
  static void run(const TopKBackwardJob& job, Element element) {
    run_top_k_backward(kernel_table().of(element), job);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, CPU, m) {
  DeviceOperators<Cpu>::implement(m);
}

}  // namespace gumbel_ext
