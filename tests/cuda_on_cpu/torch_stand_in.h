// Stands in for those headers of a CUDA build of torch that csrc/cuda includes: CMakeLists.txt writes one of each name,
// which includes this. What they declare is defined in machine.cpp.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/cuda/PhiloxCudaState.h>
#include <c10/core/impl/InlineDeviceGuard.h>

#include "cuda_stand_in.h"

// ---- c10/cuda -------------------------------------------------------------------------------------------------------

namespace c10::cuda {

class CUDAStream {
 public:
  explicit CUDAStream(Stream stream) : stream_(stream) {
  }
  operator cudaStream_t() const {
    return reinterpret_cast<cudaStream_t>(stream_.id());
  }
  Stream unwrap() const {
    return stream_;
  }

 private:
  Stream stream_;
};

DeviceIndex device_count();
DeviceIndex current_device();
CUDAStream getCurrentCUDAStream(DeviceIndex device = -1);
void check(cudaError_t error);  // throws torch's sentence for an error, and clears it, as C10_CUDA_CHECK does

namespace impl {

struct CUDAGuardImpl final : c10::impl::DeviceGuardImplInterface {
  static constexpr DeviceType static_type = DeviceType::CUDA;

  CUDAGuardImpl() = default;
  explicit CUDAGuardImpl(DeviceType) {
  }
  DeviceType type() const override {
    return static_type;
  }
  Device exchangeDevice(Device device) const override;
  Device getDevice() const override;
  void setDevice(Device device) const override;
  void uncheckedSetDevice(Device device) const noexcept override;
  Stream getStream(Device device) const override;
  Stream exchangeStream(Stream stream) const override;
  DeviceIndex deviceCount() const noexcept override;
};

}  // namespace impl

using CUDAGuard = c10::impl::InlineDeviceGuard<impl::CUDAGuardImpl>;

}  // namespace c10::cuda

#define C10_CUDA_CHECK(expression) c10::cuda::check(expression)

// ---- ATen/cuda ------------------------------------------------------------------------------------------------------

namespace at {

struct CUDAGeneratorImpl final : c10::GeneratorImpl {
  explicit CUDAGeneratorImpl(DeviceIndex device)
      : GeneratorImpl({c10::kCUDA, device}, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {
  }
  static DeviceType device_type() {
    return c10::kCUDA;
  }
  // As torch's: the state, which then moves on by `increment`. While the current stream is captured, of the graph's own
  // that every replay of it sets.
  PhiloxCudaState philox_cuda_state(std::uint64_t increment);

  void set_current_seed(std::uint64_t seed) override {
    seed_ = seed;
    offset_ = 0;
  }
  void set_offset(std::uint64_t offset) override {
    offset_ = offset;
  }
  std::uint64_t get_offset() const override {
    return offset_;
  }
  std::uint64_t current_seed() const override {
    return seed_;
  }
  std::uint64_t seed() override;
  void set_state(const c10::TensorImpl& state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;

 private:
  CUDAGeneratorImpl* clone_impl() const override;

  std::uint64_t seed_ = c10::default_rng_seed_val, offset_ = 0;
};

namespace cuda::detail {

const Generator& getDefaultCUDAGenerator(DeviceIndex device = -1);

}  // namespace cuda::detail

}  // namespace at
