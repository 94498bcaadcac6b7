#include "choice.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <numeric>

namespace gumbel_ext {
namespace {

// The classes from last to where they are in the logits, and back.
Tensor classes_to(std::int64_t dim, const Tensor& tensor, const Tensor& logits) {
  return logits.dim() == 0 ? tensor.squeeze(-1) : tensor.movedim(-1, dim);
}
Tensor classes_last(std::int64_t dim, const Tensor& tensor, const Tensor& logits) {
  return logits.dim() == 0 ? tensor.unsqueeze(-1) : tensor.movedim(dim, -1);
}

// Where each index's row lies in weight.flatten(0, -2); 0 in place of what is marked.
Tensor flat_index(const Tensor& weight, const Tensor& index) {
  Tensor flat = at::clamp_min(index, 0);
  c10::SymInt stride = weight.sym_size(-2);
  for (std::int64_t d = weight.dim() - 3, at = index.dim() - 1; d >= 0; --d, --at) {
    const c10::SymInt size = weight.sym_size(d);
    if (size == 1) continue;
    c10::SymDimVector shape(index.dim(), 1);
    shape[at] = size;
    flat = flat + (at::arange(size, index.options()) * stride).view_symint(shape);
    stride *= size;
  }
  return flat;
}

}  // namespace

Tensor rows_times(const Tensor& rows, const Tensor& matrices) {
  // Dimensions of which each index has a matrix of its own come first, for a batched product.
  const std::int64_t ndim = rows.dim() - 1, missing = ndim - (matrices.dim() - 2);
  const auto is_batch = [&](std::int64_t d) { return d >= missing && matrices.sym_size(d - missing) != 1; };
  std::vector<std::int64_t> order(ndim);
  std::iota(order.begin(), order.end(), 0);
  std::stable_partition(order.begin(), order.end(), is_batch);
  c10::SymInt batch = 1;
  for (std::int64_t d = 0; d < ndim; ++d)
    if (is_batch(d)) batch *= rows.sym_size(d);
  std::vector<std::int64_t> back(ndim + 1, ndim);
  for (std::int64_t d = 0; d < ndim; ++d) back[order[d]] = d;
  order.push_back(ndim);
  const Tensor permuted = rows.permute(order);
  const c10::SymInt n = matrices.sym_size(-2), m = matrices.sym_size(-1);
  c10::SymDimVector shape(permuted.sym_sizes().begin(), permuted.sym_sizes().end());
  shape.back() = m;
  const c10::SymInt count = c10::multiply_integers(shape.begin(), shape.end() - 1) / batch;
  const Tensor product = at::bmm(permuted.reshape_symint({batch, count, n}), matrices.reshape_symint({batch, n, m}));
  return product.view_symint(shape).permute(back);
}

Tensor chosen_rows(const Tensor& weight, const Tensor& index) {
  const Tensor rows = at::embedding_symint(weight.reshape_symint({-1, weight.sym_size(-1)}), flat_index(weight, index));
  return rows.masked_fill((index < 0).unsqueeze(-1), std::numeric_limits<double>::quiet_NaN());
}

Choice::Choice(const OptionalTensor& weight, const EstimatorArguments& args)
    : logits(args.logits),
      index(args.index),
      seed(args.seed),
      weight(weight),
      mask(args.mask),
      temperature_rows(args.temperature_rows),
      tau_rows(args.tau_rows),
      row_seeds(args.row_seeds),
      temperature(args.temperature),
      tau(args.tau),
      estimator(args.estimator),
      num_noises(args.num_noises),
      dim(args.dim),
      drawn(args.drawn) {
  if (args.numbers) numbers.emplace(args.numbers->begin(), args.numbers->end());
}

EstimatorArguments Choice::arguments() const {
  return {logits,
          mask,
          temperature,
          temperature_rows,
          tau,
          tau_rows,
          index,
          seed,
          row_seeds,
          estimator,
          num_noises,
          dim,
          numbers ? OptionalNumbers(*numbers) : OptionalNumbers(),
          drawn};
}

Tensor Choice::to_one_hot(const Tensor& grad) const {
  if (!weight) return grad;
  return classes_to(dim, rows_times(grad, weight->transpose(-1, -2)), logits).to(logits.scalar_type());
}
Tensor Choice::from_one_hot(const Tensor& tangent) const {
  return weight ? rows_times(classes_last(dim, tangent, logits).to(weight->scalar_type()), *weight) : tangent;
}
Tensor Choice::to_weight(const Tensor& grad) const {
  c10::SymInt count = weight->sym_numel() / weight->sym_size(-1);
  const Tensor rows = grad.masked_fill((index < 0).unsqueeze(-1), 0);
  return at::embedding_dense_backward_symint(rows, flat_index(*weight, index), count, /*padding_idx=*/-1,
                                             /*scale_grad_by_freq=*/false)
      .view_symint(weight->sym_sizes());
}

}  // namespace gumbel_ext
