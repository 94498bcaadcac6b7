// Shapes and dtypes without data: for meta and fake tensors, torch.compile and torch.export.
#include <ATen/Functions.h>
#include <torch/library.h>

#include "checks.h"
#include "operators.h"

namespace gumbel_ext {
namespace {

at::Tensor relaxed_meta(const at::Tensor& logits, const OptionalTensor& mask, double tau,
                        const OptionalTensor& tau_rows, bool, OptionalInt seed, const OptionalTensor& row_seeds,
                        const OptionalGenerator& generator, std::int64_t dim, OptionalNumbers numbers) {
  check_arguments({logits, mask, tau, tau_rows, seed, row_seeds, generator, dim, numbers}, "tau",
                  /*may_be_zero=*/false);
  return at::empty_like(logits);
}

std::tuple<at::Tensor, at::Tensor> one_hot_meta(const at::Tensor& logits, const OptionalTensor& mask, double tau,
                                                const OptionalTensor& tau_rows, bool noise, OptionalInt seed,
                                                const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                                                std::int64_t dim, bool keep_relaxed, OptionalNumbers numbers) {
  at::Tensor out = relaxed_meta(logits, mask, tau, tau_rows, noise, seed, row_seeds, generator, dim, numbers);
  return {out, keep_relaxed ? at::empty_like(logits) : at::empty({0}, logits.options())};
}

at::Tensor index_meta(const at::Tensor& logits, const OptionalTensor& mask, double temperature,
                      const OptionalTensor& temperature_rows, OptionalInt seed, const OptionalTensor& row_seeds,
                      const OptionalGenerator& generator, std::int64_t dim, std::optional<c10::SymInt> num_samples,
                      OptionalNumbers numbers) {
  dim = check_arguments({logits, mask, temperature, temperature_rows, seed, row_seeds, generator, dim, numbers},
                        "temperature", /*may_be_zero=*/true);
  return at::empty_symint(check_index_shape(logits, dim, num_samples), logits.options().dtype(at::kLong));
}

at::Tensor noise_meta(const at::Tensor& like, OptionalInt seed, const OptionalTensor& row_seeds,
                      const OptionalGenerator& generator, OptionalNumbers numbers) {
  check_noise(like, seed, row_seeds, generator, numbers);
  return at::empty_symint(like.sym_sizes(), like.options());
}

std::tuple<at::Tensor, at::Tensor> backward_meta(const at::Tensor& grad, const at::Tensor& relaxed, double,
                                                 const OptionalTensor&, std::int64_t dim, bool need_logits,
                                                 bool need_tau) {
  dim = check_backward(grad, relaxed, dim);
  at::Tensor grad_logits, grad_tau;
  if (need_logits) grad_logits = at::empty_like(relaxed);
  if (need_tau) grad_tau = at::empty_symint(row_shape(relaxed, dim), relaxed.options().dtype(at::kDouble));
  return {grad_logits, grad_tau};
}

at::Tensor backward_in_place_meta(const at::Tensor& grad, at::Tensor& relaxed, double tau,
                                  const OptionalTensor& tau_rows, std::int64_t dim, bool need_tau) {
  return std::get<1>(backward_meta(grad, relaxed, tau, tau_rows, dim, /*need_logits=*/false, need_tau));
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, Meta, m) {
  m.impl("_relaxed", relaxed_meta);
  m.impl("_one_hot", one_hot_meta);
  m.impl("_index", index_meta);
  m.impl("_noise", noise_meta);
  m.impl("_backward", backward_meta);
  m.impl("_backward_", backward_in_place_meta);
}

}  // namespace gumbel_ext
