// The CUDA kernels as operators on CPU tensors, torch.ops.gumbel_ext_cuda_on_cpu.*: the tensor side is the library's
// own (device_operators.h), and the launches are those of the .cu files.
#include <ATen/CPUGeneratorImpl.h>

#include "../../csrc/core/philox.h"
#include "../../csrc/cuda/launch.h"
#include "../../csrc/device_operators.h"
#include "cuda_stand_in.h"

cudaError_t stand_in::launch(const cudaLaunchConfig_t&, const std::function<void()>& run) {
  run();
  return cudaSuccess;
}

namespace gumbel_ext {
namespace {

using at::Tensor;
using namespace cuda;

// What the tests set.
std::optional<Plan> forced;
DeviceLimits limits{132, 8};
CapturedState captured;

struct CudaOnCpu {
  struct Guard {
    explicit Guard(at::Device) {
    }
  };
  static constexpr bool kHostReadsValues = false;

  static Tensor new_like(const Tensor& tensor) {
    Tensor result = at::empty(tensor.sizes(), tensor.options());
    stand_in::register_output(result.data_ptr(), result.nbytes());
    return result;
  }
  static Noise draw_noise(const OptionalGenerator& generator) {
    Noise noise;
    noise.captured = captured;
    if (captured.seed) return noise;
    auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    const std::lock_guard<std::mutex> lock(source->mutex_);
    noise.seed = generator_seed(source->random64(), 0);
    return noise;
  }
  template <typename Job, typename Draw>
  static void run(Job job, Element element, const Draw& draw) {
    DrawOnce ready(job, draw);
    launch(job, element, std::ref(ready));
    ready();
  }
  template <typename Job>
  static void run(const Job& job, Element element) {
    launch(job, element, {});
  }
  static void record_seed(const Noise& noise, std::int64_t* to) {
    TORCH_CHECK(cuda::record_seed(noise, to, {}) == cudaSuccess, "cuda_on_cpu: a launch was refused");
  }
  static void hold_seed(Noise& noise, const std::int64_t* from) {
    noise.held_seed = from;
  }
  template <typename Job>
  static void launch(const Job& job, Element element, const std::function<void()>& before_launch) {
    Tensor memory;
    const auto workspace = [&](std::int64_t bytes) {
      memory = at::full({bytes}, 0xff, at::kByte);  // what was not written reads as NaN
      return memory.data_ptr();
    };
    const cudaError_t error = cuda::run(job, element, Context{nullptr, limits, workspace, before_launch, forced});
    const bool once = stand_in::written_once();
    TORCH_CHECK(error == cudaSuccess, "cuda_on_cpu: a launch was refused");
    TORCH_CHECK(once, "cuda_on_cpu: not every byte of an output was written exactly once");
  }
};

using Operators = DeviceOperators<CudaOnCpu>;

// Registered as an output: what this one writes to.
Tensor backward_in_place(const Tensor& grad, Tensor& relaxed, double tau, const OptionalTensor& tau_rows,
                         std::int64_t dim, bool need_tau) {
  stand_in::register_output(relaxed.data_ptr(), relaxed.nbytes());
  return Operators::backward_in_place(grad, relaxed, tau, tau_rows, dim, need_tau);
}

// The next jobs' plan: kernel, lanes, items, threads, blocks, parts; none: as chosen.
void force_plan(const std::vector<std::int64_t>& numbers) {
  forced.reset();
  if (numbers.empty()) return;
  TORCH_CHECK(numbers.size() == 6, "expected six numbers");
  forced = Plan{Kernel(numbers[0]), static_cast<int>(numbers[1]), static_cast<int>(numbers[2]),
                int(numbers[3]),    static_cast<int>(numbers[4]), numbers[5]};
}

void set_limits(std::int64_t multiprocessors, std::int64_t max_cluster_blocks) {
  limits = {static_cast<int>(multiprocessors), static_cast<int>(max_cluster_blocks)};
}

// The generator's state while a graph is captured: `state` holds seed and offset, and outlives its use.
void set_captured(const Tensor& state, std::int64_t offset_in_graph) {
  const auto* numbers = state.const_data_ptr<std::int64_t>();
  captured = {numbers, numbers + 1, static_cast<std::uint64_t>(offset_in_graph)};
}

// How the special-function unit errs: a number of stand_in::Errors.
void set_errors(std::int64_t errors) {
  stand_in::errors = static_cast<stand_in::Errors>(errors);
}

std::int64_t seed_of_state(std::int64_t seed, std::int64_t offset) {
  return static_cast<std::int64_t>(
      generator_seed(static_cast<std::uint64_t>(seed), static_cast<std::uint64_t>(offset)));
}

// From now on, these operators serve the library's own functions on CPU tensors.
void take_over() {
  static auto* library =
      new torch::Library(torch::Library::IMPL, "gumbel_ext", c10::DispatchKey::CPU, __FILE__, __LINE__);
  library->impl("_relaxed", forward_kernel<Operators::relaxed<false>>);
  library->impl("_log_relaxed", forward_kernel<Operators::relaxed<true>>);
  library->impl("_one_hot", forward_kernel<Operators::one_hot>);
  library->impl("_one_hot_relaxed", forward_kernel<Operators::one_hot_relaxed>);
  library->impl("_index", index_kernel<Operators::index>);
  library->impl("_scored_index", index_kernel<Operators::scored_index>);
  library->impl("_draw", index_kernel<Operators::draw>);
  library->impl("_scored_draw", index_kernel<Operators::scored_draw>);
  library->impl("_log_prob", log_prob_kernel<Operators::log_prob>);
  library->impl("_log_prob_backward", log_prob_backward_kernel<Operators::log_prob_backward>);
  library->impl("_top_classes", top_classes_kernel<Operators::top_classes>);
  library->impl("_sample", sample_kernel<Operators::sample>);
  library->impl("_one_hot_of", Operators::one_hot_of);
  library->impl("_estimate", estimate_kernel<Operators::estimate>);
  library->impl("_noise", Operators::noise);
  library->impl("_noise_at", Operators::noise_at);
  library->impl("_backward", Operators::backward);
  library->impl("_backward_", backward_in_place);
  library->impl("_top_k", top_k_kernel<Operators::top_k>);
  library->impl("_top_k_backward", Operators::top_k_backward);
}

}  // namespace

TORCH_LIBRARY(gumbel_ext_cuda_on_cpu, m) {
  const auto define = [&](const std::string& name, auto function) {  // with the schema of the library's own
    const auto own = c10::Dispatcher::singleton().findSchemaOrThrow(("gumbel_ext::" + name).c_str(), "");
    m.def(own.schema().cloneWithName("gumbel_ext_cuda_on_cpu::" + name, ""));
    m.impl(name.c_str(), function);
  };
  define("_relaxed", forward_kernel<Operators::relaxed<false>>);
  define("_log_relaxed", forward_kernel<Operators::relaxed<true>>);
  define("_one_hot", forward_kernel<Operators::one_hot>);
  define("_one_hot_relaxed", forward_kernel<Operators::one_hot_relaxed>);
  define("_index", index_kernel<Operators::index>);
  define("_scored_index", index_kernel<Operators::scored_index>);
  define("_draw", index_kernel<Operators::draw>);
  define("_scored_draw", index_kernel<Operators::scored_draw>);
  define("_log_prob", log_prob_kernel<Operators::log_prob>);
  define("_log_prob_backward", log_prob_backward_kernel<Operators::log_prob_backward>);
  define("_top_classes", top_classes_kernel<Operators::top_classes>);
  define("_sample", sample_kernel<Operators::sample>);
  define("_one_hot_of", Operators::one_hot_of);
  define("_estimate", estimate_kernel<Operators::estimate>);
  define("_noise", Operators::noise);
  define("_noise_at", Operators::noise_at);
  define("_backward", Operators::backward);
  define("_backward_", backward_in_place);
  define("_top_k", top_k_kernel<Operators::top_k>);
  define("_top_k_backward", Operators::top_k_backward);
  m.def("take_over", take_over);
  m.def("force_plan", force_plan);
  m.def("set_limits", set_limits);
  m.def("set_captured", set_captured);
  m.def("set_errors", set_errors);
  m.def("seed_of_state", seed_of_state);
}

}  // namespace gumbel_ext
