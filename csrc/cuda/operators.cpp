// The operators on CUDA.
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../core/philox.h"
#include "../device_operators.h"
#include "launch.h"

namespace gumbel_ext {
namespace {

using at::Tensor;

const cuda::DeviceLimits& current_limits() {
  struct Entry {
    std::once_flag asked;
    cuda::DeviceLimits limits;
  };
  static std::vector<Entry> entries(c10::cuda::device_count());
  Entry& entry = entries.at(c10::cuda::current_device());
  std::call_once(entry.asked, [&] { C10_CUDA_CHECK(cuda::query_limits(entry.limits)); });
  return entry.limits;
}

struct Cuda {
  using Guard = c10::cuda::CUDAGuard;
  static constexpr bool kHostReadsValues = false;  // reading them would wait for the device

  static Tensor new_like(const Tensor& tensor) {
    return at::empty(tensor.sizes(), tensor.options());
  }

  // While a graph is captured, the generator's state is one that every replay moves on.
  static Noise draw_noise(const OptionalGenerator& generator) {
    constexpr std::uint64_t kIncrement = 4;  // of a Philox counter, as the generator counts
    auto* source =
        at::get_generator_or_default<at::CUDAGeneratorImpl>(generator, at::cuda::detail::getDefaultCUDAGenerator());
    const at::Device current(at::kCUDA, c10::cuda::current_device());
    TORCH_CHECK_VALUE(source->device() == current, "generator: expected one on ", current, ", got one on ",
                      source->device());
    const at::PhiloxCudaState state = [&] {
      const std::lock_guard<std::mutex> lock(source->mutex_);
      return source->philox_cuda_state(kIncrement);
    }();
    Noise noise;
    if (state.captured_)
      noise.captured = {state.seed_.ptr, state.offset_.ptr, state.offset_intragraph_};
    else
      noise.seed = generator_seed(state.seed_.val, state.offset_.val);
    return noise;
  }

  template <typename Job, typename Draw>
  static void run(Job job, Element element, const Draw& draw) {
    auto ready = draw_once(job, draw);
    launch(job, element, std::ref(ready));
    ready();  // where nothing was launched
  }
  static void run(const BackwardJob& job, Element element) {
    launch(job, element, {});
  }
  static void run(const TopKBackwardJob& job, Element element) {
    launch(job, element, {});
  }

 private:
  template <typename Job>
  static void launch(const Job& job, Element element, std::function<void()> before_launch) {
    Tensor memory;
    cuda::Context context;
    context.stream = c10::cuda::getCurrentCUDAStream();
    context.limits = current_limits();
    context.workspace = [&](std::int64_t bytes) {
      memory = at::empty({bytes}, at::TensorOptions(at::kByte).device(at::kCUDA));
      return memory.data_ptr();
    };
    context.before_launch = std::move(before_launch);
    C10_CUDA_CHECK(cuda::run(job, element, context));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, CUDA, m) {
  DeviceOperators<Cuda>::implement(m);
}

}  // namespace gumbel_ext
