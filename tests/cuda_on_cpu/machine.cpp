#include "machine.h"

#include <ATen/detail/CUDAHooksInterface.h>

#include <future>
#include <iterator>
#include <utility>

namespace stand_in {

static_assert(std::size(kDevices) == kDeviceCount);

namespace {

thread_local c10::DeviceIndex device_of_thread = 0;
thread_local c10::StreamId streams_of_thread[kDeviceCount] = {};

cudaError_t failed(cudaError_t error) {
  return machine().last_error = error;
}

// Where nobody else holds it, another thread gets it.
bool is_held(std::mutex& mutex) {
  return std::async(std::launch::async,
                    [&] {
                      const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
                      return !lock.owns_lock();
                    })
      .get();
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const std::function<void()>& run) {
  const std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  const auto stream = reinterpret_cast<c10::StreamId>(config.stream);
  const unsigned cluster = config.numAttrs > 0 ? config.attrs[0].val.clusterDim.x : 1;
  machine().events.push_back({"launch, clusters of " + std::to_string(cluster), current_device(), stream});
  if (fails(machine().launches_left)) return failed(cudaErrorNoKernelImageForDevice);
  if (stream != 0 && device_of(stream) != current_device()) return failed(cudaErrorInvalidResourceHandle);
  enqueue(run);
  return cudaSuccess;
}

Machine& machine() {
  static Machine machine;
  return machine;
}

c10::DeviceIndex current_device() {
  return device_of_thread;
}
void set_device(c10::DeviceIndex device) {
  TORCH_CHECK(device >= 0 && device < kDeviceCount, "expected a device below ", int(kDeviceCount), ", got ",
              int(device));
  device_of_thread = device;
}

c10::StreamId& current_stream(c10::DeviceIndex device) {
  return streams_of_thread[device];
}

void note(const std::string& what) {
  const std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  machine().events.push_back({what, current_device(), current_stream(current_device())});
}

Graph* captured_graph() {
  const Capture& capture = machine().capture;
  return capture.device == current_device() && capture.stream == current_stream(current_device()) ? capture.graph.get()
                                                                                                  : nullptr;
}

void enqueue(const std::function<void()>& work) {
  const std::lock_guard<std::recursive_mutex> lock(machine().mutex);
  if (Graph* graph = captured_graph())
    graph->work.push_back(work);
  else
    work();
}

void replay(Graph& graph) {
  for (auto& [generator, draws] : graph.draws) {
    draws.seed = static_cast<std::int64_t>(generator->current_seed());
    draws.offset = static_cast<std::int64_t>(generator->get_offset());
    generator->set_offset(generator->get_offset() + draws.increment);
  }
  for (const auto& work : graph.work) work();
}

bool fails(std::int64_t& left) {
  return left > 0 && --left == 0;
}

}  // namespace stand_in

using namespace stand_in;

// ---- The runtime ----------------------------------------------------------------------------------------------------

cudaError_t cudaGetDevice(int* device) {
  note("query");
  if (fails(machine().queries_left)) return failed(cudaErrorInvalidValue);
  *device = current_device();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? kDevices[device].multiprocessors : kDevices[device].capability;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)()) {
  attributes->ptxVersion = kDevices[current_device()].ptx_version;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*)(), const cudaLaunchConfig_t* config) {
  const auto blocks = static_cast<int>(config->attrs[0].val.clusterDim.x);
  if (blocks > kDevices[current_device()].largest_cluster) return failed(cudaErrorInvalidValue);
  *clusters = 1;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  return std::exchange(machine().last_error, cudaSuccess);
}

// ---- c10/cuda -------------------------------------------------------------------------------------------------------

namespace c10::cuda {

DeviceIndex device_count() {
  return kDeviceCount;
}
DeviceIndex current_device() {
  return stand_in::current_device();
}
CUDAStream getCurrentCUDAStream(DeviceIndex device) {
  return CUDAStream(impl::CUDAGuardImpl().getStream({kCUDA, device < 0 ? current_device() : device}));
}
void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  TORCH_CHECK(error != cudaErrorNoKernelImageForDevice,
              "CUDA error: no kernel image is available for execution on the device");
  TORCH_CHECK(error != cudaErrorInvalidResourceHandle, "CUDA error: invalid resource handle");
  TORCH_CHECK(false, "CUDA error: invalid argument");
}

namespace impl {

Device CUDAGuardImpl::exchangeDevice(Device device) const {
  const Device previous = getDevice();
  setDevice(device);
  return previous;
}
Device CUDAGuardImpl::getDevice() const {
  return {kCUDA, current_device()};
}
void CUDAGuardImpl::setDevice(Device device) const {
  stand_in::set_device(device.index());
}
void CUDAGuardImpl::uncheckedSetDevice(Device device) const noexcept {
  stand_in::set_device(device.index());
}
Stream CUDAGuardImpl::getStream(Device device) const {
  return Stream(Stream::UNSAFE, device, current_stream(device.index()));
}
Stream CUDAGuardImpl::exchangeStream(Stream stream) const {
  const Stream previous = getStream(stream.device());
  current_stream(stream.device_index()) = stream.id();
  return previous;
}
DeviceIndex CUDAGuardImpl::deviceCount() const noexcept {
  return kDeviceCount;
}

C10_REGISTER_GUARD_IMPL(CUDA, CUDAGuardImpl)

}  // namespace impl

}  // namespace c10::cuda

// ---- ATen/cuda ------------------------------------------------------------------------------------------------------

namespace at {

PhiloxCudaState CUDAGeneratorImpl::philox_cuda_state(std::uint64_t increment) {
  note(is_held(mutex_) ? "draw" : "draw without the lock");
  increment = (increment + 3) / 4 * 4;
  if (Graph* graph = captured_graph()) {
    Graph::Draws& draws = graph->draws[this];
    return {&draws.seed, &draws.offset, std::exchange(draws.increment, draws.increment + increment)};
  }
  return {seed_, std::exchange(offset_, offset_ + increment)};
}
std::uint64_t CUDAGeneratorImpl::seed() {
  set_current_seed(c10::detail::getNonDeterministicRandom());
  return seed_;
}
void CUDAGeneratorImpl::set_state(const c10::TensorImpl&) {
  TORCH_CHECK(false, "not stood in for");
}
c10::intrusive_ptr<c10::TensorImpl> CUDAGeneratorImpl::get_state() const {
  TORCH_CHECK(false, "not stood in for");
}
CUDAGeneratorImpl* CUDAGeneratorImpl::clone_impl() const {
  auto* clone = new CUDAGeneratorImpl(device().index());
  clone->seed_ = seed_;
  clone->offset_ = offset_;
  return clone;
}

// What torch asks in order to know that there is an accelerator.
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {
  }
  void init() const override {
  }
  bool hasCUDA() const override {
    return true;
  }
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(DeviceIndex) const override {
    return true;
  }
  DeviceIndex deviceCount() const override {
    return kDeviceCount;
  }
  DeviceIndex getCurrentDevice() const override {
    return stand_in::current_device();
  }
  const Generator& getDefaultGenerator(DeviceIndex device) const override {
    return cuda::detail::getDefaultCUDAGenerator(device);
  }
  Generator getNewGenerator(DeviceIndex device) const override {
    return make_generator<CUDAGeneratorImpl>(device);
  }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

const Generator& cuda::detail::getDefaultCUDAGenerator(DeviceIndex device) {
  static const Generator generators[] = {make_generator<CUDAGeneratorImpl>(DeviceIndex(0)),
                                         make_generator<CUDAGeneratorImpl>(DeviceIndex(1)),
                                         make_generator<CUDAGeneratorImpl>(DeviceIndex(2))};
  return generators[device < 0 ? stand_in::current_device() : device];
}

}  // namespace at
