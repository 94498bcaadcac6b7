// Under autocast on CUDA, results are float32, as those of torch's own softmax; on the CPU both keep the dtype.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "operators.h"

namespace gumbel_ext {
namespace {

at::Tensor relaxed_autocast(const at::Tensor& logits, const OptionalTensor& mask, double tau,
                            const OptionalTensor& tau_rows, bool noise, OptionalInt seed,
                            const OptionalTensor& row_seeds, const OptionalGenerator& generator, std::int64_t dim,
                            OptionalNumbers numbers) {
  c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::AutocastCUDA);
  return relaxed_operator().call(at::autocast::cached_cast(at::kFloat, logits, at::kCUDA), mask, tau, tau_rows, noise,
                                 seed, row_seeds, generator, dim, numbers);
}

std::tuple<at::Tensor, at::Tensor> one_hot_autocast(const at::Tensor& logits, const OptionalTensor& mask, double tau,
                                                    const OptionalTensor& tau_rows, bool noise, OptionalInt seed,
                                                    const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                                                    std::int64_t dim, bool keep_relaxed, OptionalNumbers numbers) {
  c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::AutocastCUDA);
  return one_hot_operator().call(at::autocast::cached_cast(at::kFloat, logits, at::kCUDA), mask, tau, tau_rows, noise,
                                 seed, row_seeds, generator, dim, keep_relaxed, numbers);
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, AutocastCUDA, m) {
  m.impl("_relaxed", relaxed_autocast);
  m.impl("_one_hot", one_hot_autocast);
}

}  // namespace gumbel_ext
