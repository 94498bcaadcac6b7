// Under autocast, results are float32, as those of torch's own softmax.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "operators.h"

namespace gumbel_ext {
namespace {

template <c10::DeviceType device>
at::Tensor relaxed_autocast(const at::Tensor& logits, const OptionalTensor& mask, double tau,
                            const OptionalTensor& tau_rows, bool noise, OptionalInt seed,
                            const OptionalTensor& row_seeds, const OptionalGenerator& generator, std::int64_t dim) {
  c10::impl::ExcludeDispatchKeyGuard guard(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  return relaxed_operator().call(at::autocast::cached_cast(at::kFloat, logits, device), mask, tau, tau_rows, noise,
                                 seed, row_seeds, generator, dim);
}

template <c10::DeviceType device>
std::tuple<at::Tensor, at::Tensor> one_hot_autocast(const at::Tensor& logits, const OptionalTensor& mask, double tau,
                                                    const OptionalTensor& tau_rows, bool noise, OptionalInt seed,
                                                    const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                                                    std::int64_t dim, bool keep_relaxed) {
  c10::impl::ExcludeDispatchKeyGuard guard(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  return one_hot_operator().call(at::autocast::cached_cast(at::kFloat, logits, device), mask, tau, tau_rows, noise,
                                 seed, row_seeds, generator, dim, keep_relaxed);
}

template <c10::DeviceType device>
void register_autocast(torch::Library& m) {
  m.impl("_relaxed", relaxed_autocast<device>);
  m.impl("_one_hot", one_hot_autocast<device>);
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, AutocastCPU, m) {
  register_autocast<c10::kCPU>(m);
}
TORCH_LIBRARY_IMPL(gumbel_ext, AutocastCUDA, m) {
  register_autocast<c10::kCUDA>(m);
}

}  // namespace gumbel_ext
