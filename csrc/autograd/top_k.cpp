// The gradient of relaxed_top_k (core/top_k.h): by the kernel, from the scores; and by operations that can be
// differentiated again, in both modes. The scores are an output beside the value, so that they have a gradient of
// their own: that of logits + noise.
#include <ATen/functorch/DynamicLayer.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "../checks.h"
#include "../operators.h"
#include "tangent.h"

namespace gumbel_ext {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One number a row, of those where `is_one`.
Tensor at_one(const Tensor& is_one, const Tensor& values, std::int64_t dim) {
  return at::where(is_one, values, 0).sum(dim, /*keepdim=*/true);
}

// What core/top_k.h's steps are made of, by differentiable operations in float64; of a row, or of its top, that is one
// number a row.
struct Step {
  Tensor is_top, relative, exponent;  // e / sum of the rest, else 0; exponents relative to the rest's largest
  Tensor p, p_top, complement;        // p is 0 at the top
};

// The chain of steps of all rows.
class Chain {
 public:
  Chain(const Tensor& scores, const Tensor& tau, std::int64_t k, std::int64_t dim)
      : dim_(dim), tau_(tau.to(scores.device(), at::kDouble)) {
    possible_ = scores > -kInfinity;
    const Tensor count = possible_.sum(dim, /*keepdim=*/true);
    undefined_ = at::logical_or(count == 0, at::logical_not(scores < kInfinity).any(dim, /*keepdim=*/true));
    settled_ = at::logical_or(undefined_, count < std::max<std::int64_t>(k, 2));
    Tensor a = at::where(at::logical_and(possible_, at::logical_not(settled_)), scores.to(at::kDouble), 0);
    a = at::where(at::logical_or(possible_, settled_), a, -kInfinity);
    for (std::int64_t j = 0; j < k; ++j) a = add_step(a);
  }

  Tensor value() const {
    Tensor sum;
    for (const Step& step : steps_) {
      const Tensor p = at::where(step.is_top, step.p_top, step.p);
      sum = sum.defined() ? sum + p : p;
    }
    return at::where(settled_, 0, sum);
  }

  // The gradients with respect to the scores, and to tau, one a row.
  std::tuple<Tensor, Tensor> gradients(const Tensor& grad) const {
    const Tensor dy = at::where(at::logical_and(possible_, at::logical_not(settled_)), grad.to(at::kDouble), 0);
    Tensor b = at::zeros_like(dy), tau_sum = at::zeros_like(tau_);
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
      const Tensor pull = dy - b / (1 - step->p);
      const Tensor is_rest = step->relative > 0;
      const Tensor dot = at::where(is_rest, step->relative * pull, 0).sum(dim_, /*keepdim=*/true);
      const Tensor dy_top = at_one(step->is_top, dy, dim_), b_top = at_one(step->is_top, b, dim_);
      const Tensor flow = step->p_top * (step->complement * (dot - dy_top) + b_top);
      const Tensor of_rest = at::where(is_rest, step->relative * (step->complement * (pull - dot) + flow), 0);
      const Tensor change = at::where(step->is_top, -flow, of_rest) / tau_;
      b = b + change;
      tau_sum = tau_sum - (change * step->exponent).sum(dim_, /*keepdim=*/true);
    }
    const double nan = std::numeric_limits<double>::quiet_NaN();
    return {at::where(undefined_, nan, b), at::where(undefined_, nan, at::where(settled_, 0, tau_sum))};
  }

 private:
  // Returns the next step's scores.
  Tensor add_step(const Tensor& a) {
    constexpr double kReach = -800;  // exponents below it have no exponential
    const Tensor found = a.detach();
    const Tensor is_top = at::zeros_like(found, at::kBool).scatter(dim_, found.argmax(dim_, /*keepdim=*/true), true);
    const Tensor second = found.masked_fill(is_top, -kInfinity).amax(dim_, /*keepdim=*/true);
    const Tensor has_rest = second > -kInfinity, origin = at::where(has_rest, second, 0);
    const Tensor in_reach = at::logical_and((found - origin) / tau_.detach() > kReach, at::logical_not(is_top));
    const Tensor exponent = at::where(in_reach, a - origin, 0) / tau_;
    const Tensor e = at::where(in_reach, at::exp(exponent), 0), sum = e.sum(dim_, /*keepdim=*/true);
    const Tensor some = at::where(has_rest, sum, 1), top = at_one(is_top, a, dim_), gap = (top - origin) / tau_;
    const Tensor far = gap > -kReach, ratio = at::where(far, 0, at::exp(-at::where(far, 0, gap)));
    const Tensor rest = at::where(has_rest, ratio * sum, 0), p_top = 1 / (1 + rest), near = p_top <= 0.5;
    const Tensor log_complement =
        at::where(near, at::log1p(-at::where(near, p_top, 0)), at::log(some) - gap - at::log1p(rest));
    const Tensor p = at::where(has_rest, e * (ratio / (1 + rest)), 0);
    steps_.push_back({is_top, e / some, at::where(is_top, gap, exponent), p, p_top, rest / (1 + rest)});
    return at::where(is_top, top + log_complement, a + at::log1p(-p));
  }

  std::int64_t dim_;
  Tensor tau_, possible_, undefined_, settled_;
  std::vector<Step> steps_;
};

std::tuple<Tensor, Tensor> run_below(const Arguments& args, const SoftTopK& top) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call(top_k_operator(), args, top);
}

class TopKGradient : public torch::autograd::Function<TopKGradient> {
 public:
  static constexpr bool is_traceable = true;

  // The function's inputs are the tensors that may have a gradient.
  static variable_list forward(AutogradContext* context, const Tensor&, const OptionalTensor& tau_rows,
                               const Arguments* args, const SoftTopK* top) {
    const auto [value, scores] = run_below(*args, *top);
    context->set_materialize_grads(false);
    context->saved_data["k"] = top->k;
    context->saved_data["dim"] = args->dim;
    context->saved_data["dtype"] = args->logits.scalar_type();
    context->saved_data["tau"] = args->tau;
    context->save_for_backward(tau_rows ? variable_list{scores, *tau_rows} : variable_list{scores});
    return {value, scores};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const bool has_tau = saved.size() > 1;
    const Tensor& scores = saved[0];
    const Tensor tau = has_tau ? saved[1] : at::scalar_tensor(context->saved_data["tau"].toDouble(), at::kDouble);
    const std::int64_t k = context->saved_data["k"].toInt(), dim = context->saved_data["dim"].toInt();
    const bool need_logits = context->needs_input_grad(0);
    const bool need_tau = has_tau && context->needs_input_grad(1);
    const auto type = context->saved_data["dtype"].toScalarType();
    Tensor grad_logits, grad_tau;
    if (grads[0].defined()) {
      std::tie(grad_logits, grad_tau) = of_value(grads[0], scores, k, tau, dim, need_logits, need_tau);
      grad_logits = need_logits ? grad_logits.to(type) : Tensor();
      grad_tau = need_tau ? reduce_to(grad_tau, tau) : Tensor();
    }
    if (need_logits && grads[1].defined())
      grad_logits = grad_logits.defined() ? grad_logits + grads[1].to(type) : grads[1].to(type);
    return {grad_logits, grad_tau, Tensor(), Tensor()};
  }

 private:
  static std::tuple<Tensor, Tensor> of_value(const Tensor& grad, const Tensor& scores, std::int64_t k,
                                             const Tensor& tau, std::int64_t dim, bool need_logits, bool need_tau) {
    const bool has_graph = grad.requires_grad() || scores.requires_grad() || tau.requires_grad();
    const bool is_differentiated =
        (at::GradMode::is_enabled() && has_graph) || has_tangent(grad) || has_tangent(scores) || has_tangent(tau);
    if (is_differentiated) return Chain(scores, tau, k, dim).gradients(grad);
    const at::AutoDispatchBelowADInplaceOrView guard;
    return top_k_backward_operator().call(grad, scores, k, tau, dim, need_logits, need_tau);
  }
};

// In forward mode, and under torch.func, where no function of C++ may be: the kernel's value, with the derivatives of
// the chain.
std::tuple<Tensor, Tensor> with_chain(const Arguments& args, const SoftTopK& top) {
  auto [value, scores] = run_below(args, top);
  const Tensor logits = args.logits.to(scores.scalar_type());
  scores = scores + at::where(scores > -kInfinity, logits - constant(logits), 0);
  const Tensor tau = args.tau_rows ? *args.tau_rows : at::scalar_tensor(args.tau, at::kDouble);
  const Tensor relaxed = Chain(scores, tau, top.k, args.dim).value();
  return {value + (relaxed - constant(relaxed)).to(value.scalar_type()), scores};
}

std::tuple<Tensor, Tensor> top_k_autograd(const Arguments& args, const SoftTopK& top) {
  const Tensor tau_rows = args.tau_rows.value_or(Tensor());
  const bool in_forward_mode = has_tangent(args.logits) || has_tangent(tau_rows);
  const bool in_reverse_mode = torch::autograd::compute_requires_grad(args.logits, tau_rows);
  if (!in_forward_mode && !in_reverse_mode) return run_below(args, top);
  if (in_forward_mode || at::functorch::maybeCurrentDynamicLayer()) return with_chain(args, top);
  const variable_list outputs = TopKGradient::apply(args.logits, args.tau_rows, &args, &top);
  return {outputs[0], outputs[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, Autograd, m) {
  m.impl("_top_k", top_k_kernel<top_k_autograd>);
  m.impl("_top_k_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace gumbel_ext
