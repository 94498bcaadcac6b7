// The one gradient of every operation: with p = softmax(u / tau) and u = logits + noise,
//   du = p * (dy - <p, dy>) / tau,    dtau = -sum_k du_k log p_k   (u / tau is log p but for a constant);
// of log p itself, du = (dy - p sum(dy)) / tau.
// The relaxed operations output p; the one-hot ones output it beside z, so that z can have its gradient
// (straight-through) and backward can itself be differentiated through p.
#include <ATen/Functions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include "../operators.h"
#include "softmax_backward.h"

namespace gumbel_ext {
namespace {

// What a differentiable forward and its gradient have in common, whatever it outputs.
class Differentiable {
 public:
  // `logarithms`: the output is log p.
  explicit Differentiable(const Arguments& args, bool logarithms = false)
      : args_(args), tau_rows_(args.tau_rows.value_or(Tensor())), logarithms_(logarithms) {
    if (torch::autograd::compute_requires_grad(args.logits, tau_rows_)) {
      node_ = make_node<SoftmaxBackward>();
      node_->set_next_edges(torch::autograd::collect_next_edges(args.logits, tau_rows_));
      node_->tau = args.tau;
      node_->dim = args.dim;
      node_->logarithms = logarithms;
      if (tau_rows_.defined()) node_->tau_rows = SavedVariable(tau_rows_, /*is_output=*/false);
    }
    has_tangent_ = has_tangent(args.logits) || has_tangent(tau_rows_);
  }

  explicit operator bool() const {
    return node_ != nullptr || has_tangent_;
  }

  // Ties `outputs`, of which `relaxed` is one or the only one, to the graph and to the tangents.
  void record(std::vector<Tensor> outputs, Tensor& relaxed) {
    if (node_) torch::autograd::set_history(outputs, node_);
    if (has_tangent_) {
      const Tensor tangent = logarithms_ ? logarithm_tangent(relaxed) : output_tangent(relaxed);
      for (Tensor& output : outputs) output._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
    }
    if (!node_) return;
    node_->relaxed = SavedVariable(relaxed, /*is_output=*/true);
    node_->captured = is_captured(relaxed);
  }

 private:
  Tensor d_tau() const {
    return tau_rows_.defined() ? tau_rows_._fw_grad(/*level=*/0) : Tensor();
  }
  Tau tau() const {
    return {args_.tau, d_tau().defined() ? tau_rows_._fw_primal(/*level=*/0) : tau_rows_};
  }

  // Of y = log p; a class of y = -inf has a part in no other's.
  Tensor logarithm_tangent(const Tensor& log_p) const {
    const Tensor d_logits = args_.logits._fw_grad(/*level=*/0), d_tau = this->d_tau();
    const Tau tau = d_tau.defined() ? this->tau() : number_of(this->tau());
    const auto type = working_type(log_p, tau);
    const Tensor y = log_p.to(type), p = y.exp(), excluded = y == -std::numeric_limits<double>::infinity();
    const auto centred = [&](const Tensor& direction) {
      const Tensor half = direction.to(type).masked_fill(excluded, 0) * kGradientScale;
      return half - (p * half).sum(args_.dim, /*keepdim=*/true);
    };
    Tensor tangent;
    if (d_logits.defined()) tangent = divide(centred(d_logits), tau) / kGradientScale;
    if (d_tau.defined()) {
      const Tensor part = centred(y) * (d_tau.to(at::kDouble) / tau.rows) / -kGradientScale;
      tangent = tangent.defined() ? tangent + part : part;
    }
    return tangent.to(log_p.scalar_type());
  }

  Tensor output_tangent(const Tensor& p) const {
    const Tensor d_logits = args_.logits._fw_grad(/*level=*/0), d_tau = this->d_tau();
    const Tau tau = this->tau();
    const auto type = working_type(p, tau);
    const Tensor wide_p = p.to(type);
    Tensor tangent;
    if (d_logits.defined())
      tangent = divide(scaled_tangent(wide_p, d_logits.to(type), args_.dim), tau) / kGradientScale;
    if (d_tau.defined()) {  // all in double: dtau and tau may lie anywhere
      constexpr double kLargest = std::numeric_limits<double>::max();
      const Tensor along_tau = scaled_tangent(wide_p, safe_log(wide_p), args_.dim) * kTauTermScale;
      const Tensor wide_tau = tau.rows.to(at::kDouble), wide_d_tau = d_tau.to(at::kDouble);
      const Tensor small = along_tau * at::clamp(wide_d_tau / wide_tau, -kLargest, kLargest);
      const Tensor large = along_tau * wide_d_tau / wide_tau;
      const Tensor part = at::where(wide_tau < 1, small, large) / -kTauGradientScale;
      tangent = tangent.defined() ? tangent + part : part;
    }
    return tangent.to(p.scalar_type());
  }

  const Arguments& args_;
  Tensor tau_rows_;
  decltype(make_node<SoftmaxBackward>()) node_;
  bool logarithms_, has_tangent_ = false;
};

template <bool kLogarithms>
Tensor relaxed_autograd(const Arguments& args) {
  Differentiable forward(args, kLogarithms);
  Tensor p;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    p = call(kLogarithms ? log_relaxed_operator() : relaxed_operator(), args);
  }
  forward.record({p}, p);
  return p;
}

std::tuple<Tensor, Tensor> record_one_hot(Differentiable& forward, const Arguments& args) {
  std::tuple<Tensor, Tensor> outputs;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    outputs = call(one_hot_relaxed_operator(), args);
  }
  auto& [z, p] = outputs;
  forward.record({z, p}, p);
  return outputs;
}

std::tuple<Tensor, Tensor> one_hot_relaxed_autograd(const Arguments& args) {
  Differentiable forward(args);
  return record_one_hot(forward, args);
}

Tensor one_hot_autograd(const Arguments& args) {
  Differentiable forward(args);
  if (forward) return std::get<0>(record_one_hot(forward, args));
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call(one_hot_operator(), args);
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, Autograd, m) {
  m.impl("_relaxed", forward_kernel<relaxed_autograd<false>>);
  m.impl("_log_relaxed", forward_kernel<relaxed_autograd<true>>);
  m.impl("_one_hot", forward_kernel<one_hot_autograd>);
  m.impl("_one_hot_relaxed", forward_kernel<one_hot_relaxed_autograd>);
  m.impl("_index", torch::CppFunction::makeFallthrough());
  m.impl("_scored_index", torch::CppFunction::makeFallthrough());
  m.impl("_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("_backward_", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace gumbel_ext
