// The softmax's derivative as operations of torch that can be differentiated again, in both modes.
#pragma once

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <torch/csrc/autograd/functions/utils.h>

#include "../core/gradient.h"

namespace gumbel_ext {

using at::Tensor;

inline bool has_tangent(const Tensor& tensor) {
  return torch::autograd::isFwGradDefined(tensor);
}

// The value of `tensor` without its derivatives.
inline Tensor constant(const Tensor& tensor) {
  return tensor._fw_primal(/*level=*/0).detach();
}

// A number for all rows, or a tensor with one for each.
struct Tau {
  double number;
  Tensor rows;  // or undefined
};

// Arithmetic is in float, as in the kernels; in double where that is asked for, and where tau is, or may be, far
// from 1.
inline at::ScalarType working_type(const Tensor& p, const Tau& tau) {
  const bool far = tau.rows.defined() || is_extreme_for_gradient<float>(tau.number);
  return p.scalar_type() == at::kDouble || far ? at::kDouble : at::kFloat;
}

inline Tensor divide(const Tensor& tensor, const Tau& tau) {
  return tau.rows.defined() ? tensor / tau.rows : tensor / tau.number;
}

// tau * kGradientScale times the tangent of p along du, or along -dtau log p; by the Jacobian's symmetry also, for
// du = dy, of the vector-Jacobian product. Made of differentiable operations. Scaled, and weighted before they meet,
// numbers do not overflow.
inline Tensor scaled_tangent(const Tensor& p, const Tensor& direction, std::int64_t dim) {
  const Tensor weighted = p * (direction * kGradientScale);
  return weighted - p * weighted.sum(dim, /*keepdim=*/true);
}
// A power of two that keeps sums over the classes of what it scales finite.
inline double sum_scale(const Tensor& p, std::int64_t dim) {
  const c10::SymInt classes = p.dim() ? p.sym_size(dim) : c10::SymInt(1);
  const std::int64_t most = classes.maybe_as_int().value_or(std::int64_t(1) << 31);
  double scale = 0.5;
  for (std::int64_t sum = 1; sum < most; sum *= 2) scale *= 0.5;
  return scale;
}
// The number that a tensor of one holds, where it is the host's to read and nothing is derived along it.
inline Tau number_of(const Tau& tau) {
  const Tensor& rows = tau.rows;
  const bool readable = rows.defined() && rows.dim() == 0 && rows.is_cpu() && !rows.requires_grad() &&
                        !has_tangent(rows) && !at::isTensorSubclassLike(rows);
  return readable ? Tau{rows.item().toDouble(), Tensor()} : tau;
}

// What the kernels' terms of tau's gradient are scaled by besides.
constexpr double kTauTermScale = 1 / kGradientScale * kTauGradientScale;

// p in another type. A gradient that comes back and that p's own type does not hold becomes its largest number: an
// infinity would make NaN of rows that depend on nothing.
inline Tensor widened(const Tensor& p, at::ScalarType type) {
  if (p.scalar_type() == type) return p;
  const Tensor wide = p.to(type);
  if (wide.requires_grad()) {
    const auto of = p.scalar_type();
    const double largest = of == at::kHalf ? 65504 : of == at::kBFloat16 ? 0x1.fep127 : 0x1.fffffep127;
    wide.register_hook([largest](const Tensor& grad) { return at::clamp(grad, -largest, largest); });
  }
  return wide;
}

// log p, of float64, where p > 0; what stands elsewhere is multiplied by zero.
inline Tensor safe_log(const Tensor& p) {
  return at::log(at::clamp_min(p, std::numeric_limits<double>::min()));
}

// The gradient for tau's rows in tau's own shape, dtype and device.
inline Tensor reduce_to(const Tensor& grad_tau, const Tensor& rows) {
  return at::sum_to(grad_tau, rows.sym_sizes()).to(rows.options());
}

}  // namespace gumbel_ext
