// Shapes and dtypes without data: for meta and fake tensors, torch.compile and torch.export.
#include <ATen/Functions.h>
#include <torch/library.h>

#include "checks.h"
#include "core/log_prob.h"
#include "operators.h"
#include "tensor_rows.h"

namespace gumbel_ext {
namespace {

using at::Tensor;

Tensor new_like(const Tensor& tensor) {
  return at::empty_symint(tensor.sym_sizes(), tensor.options());
}

Tensor like_logits(const Arguments& args) {
  check_arguments(args, "tau", /*may_be_zero=*/false);
  return new_like(args.logits);
}

std::tuple<Tensor, Tensor> two_like_logits(const Arguments& args) {
  return {like_logits(args), new_like(args.logits)};
}

Tensor index_meta(const Arguments& args, const std::optional<c10::SymInt>& num_samples) {
  const std::int64_t dim = check_arguments(args, "temperature", /*may_be_zero=*/true);
  return at::empty_symint(index_shape(args.logits, dim, num_samples), args.logits.options().dtype(at::kLong));
}

std::tuple<Tensor, Tensor> scored_index_meta(const Arguments& args, const std::optional<c10::SymInt>& num_samples) {
  const Tensor index = index_meta(args, num_samples);
  return {index, at::empty_symint(index.sym_sizes(), index.options().dtype(at::kDouble))};
}

Tensor statistics_meta(const Tensor& logits, std::int64_t dim) {
  auto shape = index_shape(logits, dim, {});
  shape.push_back(kRowStatistics);
  return at::empty_symint(shape, logits.options().dtype(at::kDouble));
}

std::tuple<Tensor, Tensor> draw_meta(const Arguments& args, const std::optional<c10::SymInt>& num_samples) {
  const Tensor index = index_meta(args, num_samples);
  return {index, statistics_meta(args.logits, at::maybe_wrap_dim(args.dim, args.logits.dim()))};
}

std::tuple<Tensor, Tensor, Tensor> scored_draw_meta(const Arguments& args,
                                                    const std::optional<c10::SymInt>& num_samples) {
  const auto [index, score] = scored_index_meta(args, num_samples);
  return {index, score, std::get<1>(draw_meta(args, num_samples))};
}

std::tuple<Tensor, Tensor> log_prob_meta(const LogProbArguments& args) {
  const std::int64_t dim = check_log_prob(args);
  const auto options = args.logits.options().dtype(scores_type(args.logits.scalar_type()));
  return {at::empty_symint(args.index.sym_sizes(), options),
          at::empty_symint(index_shape(args.logits, dim, {}), options)};
}

std::tuple<Tensor, Tensor> log_prob_backward_meta(const OptionalTensor& grad_log_prob,
                                                  const OptionalTensor& grad_entropy, const LogProbArguments& args,
                                                  bool need_temperature) {
  const std::int64_t dim = check_log_prob_backward(grad_log_prob, grad_entropy, args);
  Tensor grad_temperature;
  if (need_temperature)
    grad_temperature = at::empty_symint(row_shape(args.logits, dim), args.logits.options().dtype(at::kDouble));
  return {new_like(args.logits), grad_temperature};
}

Ranked top_classes_meta(const Arguments& args, const Ranking& ranking) {
  const std::int64_t dim = check_arguments(args, "temperature", /*may_be_zero=*/true);
  check_k(args.logits, dim, ranking.k);
  const auto shape = index_shape(args.logits, dim, ranking.k);
  const auto options = args.logits.options();
  return {at::empty_symint(shape, options.dtype(at::kLong)),
          at::empty_symint(shape, options.dtype(scores_type(args.logits.scalar_type()))),
          statistics_meta(args.logits, dim)};
}

Tensor noise_meta(const Tensor& like, OptionalSeed seed, const OptionalTensor& row_seeds,
                  const OptionalGenerator& generator, OptionalNumbers numbers, std::int64_t, std::int64_t draw) {
  check_noise(like, seed, row_seeds, generator, numbers, draw);
  return new_like(like);
}

Tensor noise_at_meta(const Tensor& classes, at::ScalarType dtype, OptionalSeed seed, const OptionalTensor& row_seeds) {
  check_noise_at(classes, dtype, seed, row_seeds);
  return at::empty_symint(classes.sym_sizes(), classes.options().dtype(dtype));
}

std::tuple<Tensor, Tensor> backward_meta(const Tensor& grad, const Tensor& relaxed, double, const OptionalTensor&,
                                         std::int64_t dim, bool need_logits, bool need_tau) {
  dim = check_backward(grad, relaxed, dim);
  Tensor grad_logits, grad_tau;
  if (need_logits) grad_logits = new_like(relaxed);
  if (need_tau) grad_tau = at::empty_symint(row_shape(relaxed, dim), relaxed.options().dtype(at::kDouble));
  return {grad_logits, grad_tau};
}

Tensor backward_in_place_meta(const Tensor& grad, Tensor& relaxed, double tau, const OptionalTensor& tau_rows,
                              std::int64_t dim, bool need_tau) {
  return std::get<1>(backward_meta(grad, relaxed, tau, tau_rows, dim, /*need_logits=*/false, need_tau));
}

std::tuple<Tensor, Tensor> sample_meta(const Arguments& args, double tau, const OptionalTensor& tau_rows) {
  const std::int64_t dim = check_sample(args, tau, tau_rows);
  const auto options = args.logits.options().dtype(at::kLong);
  return {at::empty_symint(index_shape(args.logits, dim, {}), options), at::empty({}, options)};
}

Tensor one_hot_of_meta(const Tensor&, const Tensor& logits, std::int64_t) {
  return new_like(logits);
}

Gradients estimate_meta(const Tensor& grad, const EstimatorArguments& args, bool need_temperature, bool need_tau) {
  const std::int64_t dim = check_backward(grad, args.logits, args.dim);
  const auto rows = [&] { return at::empty_symint(row_shape(args.logits, dim), grad.options().dtype(at::kDouble)); };
  return {new_like(args.logits), need_temperature ? rows() : Tensor(), need_tau ? rows() : Tensor()};
}

std::tuple<Tensor, Tensor> top_k_meta(const Arguments& args, const SoftTopK& top) {
  check_k(args.logits, check_arguments(args, "tau", /*may_be_zero=*/false), top.k);
  const auto scores = args.logits.options().dtype(scores_type(args.logits.scalar_type()));
  return {new_like(args.logits), at::empty_symint(args.logits.sym_sizes(), scores)};
}

std::tuple<Tensor, Tensor> top_k_backward_meta(const Tensor& grad, const Tensor& scores, std::int64_t k,
                                               const Tensor& tau, std::int64_t dim, bool need_logits, bool need_tau) {
  dim = check_top_k_backward(grad, scores, k, tau, dim);
  return backward_meta(grad, grad, /*tau=*/1, tau, dim, need_logits, need_tau);
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, Meta, m) {
  m.impl("_relaxed", forward_kernel<like_logits>);
  m.impl("_log_relaxed", forward_kernel<like_logits>);
  m.impl("_one_hot", forward_kernel<like_logits>);
  m.impl("_one_hot_relaxed", forward_kernel<two_like_logits>);
  m.impl("_index", index_kernel<index_meta>);
  m.impl("_scored_index", index_kernel<scored_index_meta>);
  m.impl("_draw", index_kernel<draw_meta>);
  m.impl("_scored_draw", index_kernel<scored_draw_meta>);
  m.impl("_log_prob", log_prob_kernel<log_prob_meta>);
  m.impl("_log_prob_backward", log_prob_backward_kernel<log_prob_backward_meta>);
  m.impl("_top_classes", top_classes_kernel<top_classes_meta>);
  m.impl("_sample", sample_kernel<sample_meta>);
  m.impl("_one_hot_of", one_hot_of_meta);
  m.impl("_estimate", estimate_kernel<estimate_meta>);
  m.impl("_noise", noise_meta);
  m.impl("_noise_at", noise_at_meta);
  m.impl("_backward", backward_meta);
  m.impl("_backward_", backward_in_place_meta);
  m.impl("_top_k", top_k_kernel<top_k_meta>);
  m.impl("_top_k_backward", top_k_backward_meta);
}

}  // namespace gumbel_ext
