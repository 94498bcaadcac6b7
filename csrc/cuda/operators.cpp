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

  // Noise with a seed from a generator, whose lock it holds until all is launched: a launch may fail, and a call that
  // fails leaves the generator as it was.
  struct Drawn : Noise {
    at::CUDAGeneratorImpl* source = nullptr;
    std::unique_lock<std::mutex> lock;

    void commit() {
      constexpr std::uint64_t kIncrement = 4;  // of a Philox counter, as the generator counts
      if (source) source->philox_cuda_state(kIncrement);
    }
  };

  // While a graph is captured, the generator's state is one that every replay moves on.
  static Drawn draw_noise(const OptionalGenerator& generator) {
    auto* source =
        at::get_generator_or_default<at::CUDAGeneratorImpl>(generator, at::cuda::detail::getDefaultCUDAGenerator());
    const at::Device current(at::kCUDA, c10::cuda::current_device());
    TORCH_CHECK_VALUE(source->device() == current, "generator: expected one on ", current, ", got one on ",
                      source->device());
    Drawn drawn{{}, source, std::unique_lock(source->mutex_)};
    const at::PhiloxCudaState state = source->philox_cuda_state(/*increment=*/0);
    if (state.captured_)
      drawn.captured = {state.seed_.ptr, state.offset_.ptr, state.offset_intragraph_};
    else
      drawn.seed = generator_seed(state.seed_.val, state.offset_.val);
    return drawn;
  }

  template <typename Job, typename Draw>
  static void run(Job job, Element element, const Draw& draw) {
    DrawOnce ready(job, draw);
    launch(job, element, std::ref(ready));
    ready();  // where nothing was launched
    ready.drawn->commit();
  }
  template <typename Job>
  static void run(const Job& job, Element element) {
    launch(job, element, {});
  }
  static void record_seed(const Noise& noise, std::int64_t* to) {
    cuda::Context context;
    context.stream = c10::cuda::getCurrentCUDAStream();
    C10_CUDA_CHECK(cuda::record_seed(noise, to, context));
  }
  static void hold_seed(Noise& noise, const std::int64_t* from) {
    noise.held_seed = from;
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
