// Tensors on the machine's devices: torch's own operations on them, done by the CPU's kernels on the same memory, and
// torch.ops.gumbel_ext_machine.*, by which the tests move tensors and tell the machine what to do.
#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/NativeFunctions.h>
#include <torch/library.h>

#include "../../csrc/core/philox.h"
#include "machine.h"

namespace stand_in {
namespace {

using at::Tensor;
using c10::IValue;
using torch::jit::Stack;

// ---- Memory ---------------------------------------------------------------------------------------------------------

void release(void* memory) {
  const std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  forget_output(memory);
  std::free(memory);
}

struct Memory final : c10::Allocator {
  at::DataPtr allocate(std::size_t bytes) override {
    note("allocate");
    TORCH_CHECK_WITH(OutOfMemoryError, !fails(machine().allocations_left), "CUDA out of memory");
    void* memory = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
    std::memset(memory, 0xff, bytes);  // what was not written reads as NaN
    const std::lock_guard<std::recursive_mutex> lock(machine().mutex);
    register_output(memory, bytes);
    const c10::Device device(c10::kCUDA, current_device());
    if (Graph* graph = captured_graph()) {  // every replay uses it
      graph->memory.emplace_back(memory, release);
      return {memory, memory, [](void*) {}, device};
    }
    return {memory, memory, release, device};
  }
  at::DeleterFnPtr raw_deleter() const override {
    return release;
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static constexpr std::size_t kAlignment = 512;
};
Memory memory;

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> type,
                     std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           type.value_or(at::kFloat));
}
Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
             std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   type.value_or(at::kFloat), format);
}

// ---- Torch's operations ---------------------------------------------------------------------------------------------

// The same memory as a tensor of the CPU's.
Tensor on_host(const Tensor& tensor) {
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void*) {}, tensor.options().device(at::kCPU));
}

// The arguments with CPU tensors in the place of the devices'.
Stack host_arguments(const Stack& arguments) {
  const auto moved = [](const Tensor& t) { return t.defined() && t.is_cuda() ? on_host(t) : t; };
  Stack result;
  for (const IValue& value : arguments) {
    if (value.isTensor()) {
      result.emplace_back(moved(value.toTensor()));
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(moved(tensor));
      result.emplace_back(std::move(list));
    } else if (value.isDevice()) {
      result.emplace_back(at::Device(at::kCPU));
    } else {
      result.push_back(value);
    }
  }
  return result;
}

// The results of an operation, on the device: the argument that one was written to, or a copy.
Stack device_results(const Stack& results, const Stack& arguments) {
  Stack there;
  for (const IValue& value : results) {
    there.push_back(value);
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    const Tensor& result = value.toTensor();
    for (const IValue& argument : arguments)
      if (argument.isTensor() && argument.toTensor().defined() && result.numel() > 0 &&
          argument.toTensor().const_data_ptr() == result.const_data_ptr())
        there.back() = argument;
    if (!there.back().toTensor().is_cuda())
      there.back() =
          at::empty_strided(result.sizes(), result.strides(), result.options().device(at::kCUDA, current_device()));
  }
  return there;
}

// Every operation that is not implemented below.
void run_on_host(const c10::OperatorHandle& op, Stack* stack) {
  const std::size_t count = op.schema().arguments().size();
  const Stack arguments(stack->end() - std::ptrdiff_t(count), stack->end());
  stack->resize(stack->size() - count);
  std::optional<at::Device> device;
  for (const IValue& value : arguments)
    if (!device && value.isTensor() && value.toTensor().defined() && value.toTensor().is_cuda())
      device = value.toTensor().device();
  const c10::OptionalDeviceGuard guard(device);
  note(op.schema().name());
  const auto compute = [op, arguments] {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    Stack values = host_arguments(arguments);
    op.callBoxed(&values);
    return values;
  };
  const Stack shapes = compute(), there = device_results(shapes, arguments);
  enqueue([compute, there] {
    const Stack values = compute();
    for (std::size_t i = 0; i < values.size(); ++i)
      if (values[i].isTensor() && values[i].toTensor().defined())
        on_host(there[i].toTensor()).copy_(values[i].toTensor());
  });
  stack->insert(stack->end(), there.begin(), there.end());
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("copy_", torch::CppFunction::makeFromBoxedFunction<run_on_host>());  // otherwise torch's, for all devices
}
TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<run_on_host>());
}

// ---- What the tests use ---------------------------------------------------------------------------------------------

namespace {

Tensor to_device(const Tensor& tensor, std::int64_t device) {
  const auto options = tensor.options().device(at::kCUDA, static_cast<c10::DeviceIndex>(device));
  const Tensor result = at::empty_strided(tensor.sizes(), tensor.strides(), options);
  on_host(result).copy_(tensor);
  return result;
}
Tensor to_host(const Tensor& tensor) {
  return on_host(tensor).clone();
}

// As "what", "device", "stream", and so on.
std::vector<std::string> events() {
  const std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  std::vector<std::string> words;
  for (const Event& event : machine().events)
    for (const auto& word : {event.what, std::to_string(event.device), std::to_string(event.stream)})
      words.push_back(word);
  machine().events.clear();
  return words;
}

std::vector<std::shared_ptr<Graph>> graphs;
void begin_capture() {
  machine().capture = {current_device(), current_stream(current_device()), std::make_shared<Graph>()};
}
std::int64_t end_capture() {
  graphs.push_back(std::exchange(machine().capture, {}).graph);
  return std::int64_t(graphs.size()) - 1;
}

// From now on the n-th of these fails; 0: none.
void fail(const std::string& what, std::int64_t n) {
  Machine& m = machine();
  (what == "launch" ? m.launches_left : what == "allocate" ? m.allocations_left : m.queries_left) = n;
}

at::Generator default_generator(std::int64_t device) {
  return at::cuda::detail::getDefaultCUDAGenerator(static_cast<c10::DeviceIndex>(device));
}

}  // namespace

TORCH_LIBRARY(gumbel_ext_machine, m) {
  m.def("to_device", to_device);
  m.def("to_host", to_host);
  m.def("events", events);
  m.def("set_device", [](std::int64_t device) { set_device(static_cast<c10::DeviceIndex>(device)); });
  m.def("current_device", []() -> std::int64_t { return current_device(); });
  m.def("set_stream", [](std::int64_t device, std::int64_t stream) {
    current_stream(static_cast<c10::DeviceIndex>(device)) = stream;
  });
  m.def("begin_capture", begin_capture);
  m.def("end_capture", end_capture);
  m.def("replay", [](std::int64_t graph) { replay(*graphs.at(static_cast<std::size_t>(graph))); });
  m.def("fail", fail);
  m.def("last_error", []() -> std::int64_t { return machine().last_error; });
  m.def("default_generator", default_generator);
  m.def("offset", [](const at::Generator& g) { return static_cast<std::int64_t>(g.get_offset()); });
  m.def("seed_of_state", [](std::int64_t seed, std::int64_t offset) {
    using gumbel_ext::generator_seed;
    return static_cast<std::int64_t>(generator_seed(std::uint64_t(seed), std::uint64_t(offset)));
  });
  m.def("seed", [](const at::Generator& g, std::int64_t seed, std::int64_t offset) {
    at::Generator generator = g;
    generator.set_current_seed(static_cast<std::uint64_t>(seed));
    generator.set_offset(static_cast<std::uint64_t>(offset));
  });
}

}  // namespace stand_in
