// The gradients of a draw's log-probabilities and of its row's entropy (core/log_prob.h): by the kernel, from the
// logits and the row's statistics; and by operations that can be differentiated again, in both modes.
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
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// core/log_prob.h by differentiable operations in float64. Here the classes, and the draws, come last.
class Formula {
 public:
  Formula(const LogProbArguments& args, const Tensor& temperature)
      : type_(args.logits.scalar_type()), dim_(at::maybe_wrap_dim(args.dim, args.logits.dim())) {
    is_number_ = args.logits.dim() == 0;
    const auto classes_last = [&](const Tensor& tensor) {
      return is_number_ ? tensor.unsqueeze(-1) : tensor.movedim(dim_, -1);
    };
    Tensor x = args.logits.to(at::kDouble);
    if (args.mask) x = at::where(*args.mask, x, -kInfinity);
    x = classes_last(x);
    const Tensor t = temperature.to(x.device(), at::kDouble);
    t_ = t.dim() == 0 ? t : classes_last(t.expand_symint(row_sizes(t, args.logits)));
    zero_ = t_ == 0;
    safe_ = at::where(zero_, 1, t_);
    const Tensor possible = x > -kInfinity, max = x.detach().amax(-1, /*keepdim=*/true);
    undefined_ = at::logical_not(max.isfinite());
    counts_ = at::logical_and(possible, at::logical_not(at::logical_or(undefined_, zero_)));
    negative_ = at::where(counts_, x - at::where(undefined_, 0, max), 0) / safe_;
    const Tensor e = at::where(counts_, at::exp(negative_), 0), sum = e.sum(-1, /*keepdim=*/true);
    const Tensor some = at::where(sum > 0, sum, 1);
    log_sum_ = at::log(some);
    p_ = e / some;
    mean_ = -(p_ * negative_).sum(-1, /*keepdim=*/true);
    has_draws_ = args.index.dim() == x.dim();
    index_ = has_draws_ ? args.index : args.index.unsqueeze(-1);
  }

  std::tuple<Tensor, Tensor> values() const {
    Tensor log_prob = at::where(counts_.gather(-1, index_), negative_.gather(-1, index_) - log_sum_, -kInfinity);
    log_prob = at::where(undefined_, kNan, at::where(zero_, 0, log_prob));
    const Tensor entropy = at::where(undefined_, kNan, at::where(zero_, 0, log_sum_ + mean_));
    const auto type = scores_type(type_);
    return {(has_draws_ ? log_prob : log_prob.squeeze(-1)).to(type), entropy.squeeze(-1).to(type)};
  }

  // With respect to the logits, and to the temperature, one a row (size 1 along dim).
  std::tuple<Tensor, Tensor> gradients(const Tensor& grad_log_prob, const Tensor& grad_entropy) const {
    Tensor g = at::zeros_like(index_, at::kDouble), h = at::zeros_like(mean_);
    if (grad_log_prob.defined()) g = (has_draws_ ? grad_log_prob : grad_log_prob.unsqueeze(-1)).to(at::kDouble);
    if (grad_entropy.defined()) h = grad_entropy.unsqueeze(-1).to(at::kDouble);
    const Tensor distance = -negative_, drawn = at::zeros_like(p_).scatter_add(-1, index_, g);
    const Tensor pull = g.sum(-1, /*keepdim=*/true) + h * (mean_ - distance);
    const Tensor of_logits = at::where(counts_, drawn - p_ * pull, 0) / safe_;
    const Tensor of_drawn = (g * (distance.gather(-1, index_) - mean_)).sum(-1, /*keepdim=*/true);
    const Tensor variance = (p_ * (distance - mean_).square()).sum(-1, /*keepdim=*/true);
    const Tensor of_temperature = at::where(zero_, 0, of_drawn + h * variance) / safe_;
    return {to_dim(at::where(undefined_, kNan, of_logits)).to(type_),
            to_dim(at::where(undefined_, kNan, of_temperature))};
  }

 private:
  static c10::SymDimVector row_sizes(const Tensor& temperature, const Tensor& logits) {
    c10::SymDimVector sizes(logits.dim() - temperature.dim(), 1);
    sizes.append(temperature.sym_sizes().begin(), temperature.sym_sizes().end());
    return sizes;
  }
  Tensor to_dim(const Tensor& tensor) const {
    return is_number_ ? tensor.squeeze(-1) : tensor.movedim(-1, dim_);
  }

  at::ScalarType type_;
  std::int64_t dim_;
  bool has_draws_ = false, is_number_ = false;
  Tensor t_, zero_, safe_, undefined_, counts_, negative_, log_sum_, p_, mean_, index_;
};

std::tuple<Tensor, Tensor> run_below(const LogProbArguments& args) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_log_prob(args);
}

Tensor temperature_of(double number, const OptionalTensor& rows) {
  return rows ? *rows : at::scalar_tensor(number, at::kDouble);
}

class LogProbGradient : public torch::autograd::Function<LogProbGradient> {
 public:
  static constexpr bool is_traceable = true;

  // The function's inputs are the tensors that may have a gradient.
  static variable_list forward(AutogradContext* context, const Tensor& logits, const OptionalTensor& temperature_rows,
                               const LogProbArguments* args) {
    const auto [log_prob, entropy] = run_below(*args);
    context->set_materialize_grads(false);
    context->saved_data["dim"] = args->dim;
    context->saved_data["has_rows"] = temperature_rows.has_value();
    // A number as a tensor: for a compiler of backward, each value of a number is another graph.
    variable_list saved{logits, args->index, args->statistics, temperature_of(args->temperature, temperature_rows)};
    if (args->mask) saved.push_back(*args->mask);
    context->save_for_backward(std::move(saved));
    return {log_prob, entropy};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const OptionalTensor temperature = saved[3], mask = saved.size() > 4 ? OptionalTensor(saved[4]) : OptionalTensor();
    const LogProbArguments args{saved[0], mask, 1, temperature, saved[1], saved[2], context->saved_data["dim"].toInt()};
    const bool need_temperature = context->saved_data["has_rows"].toBool() && context->needs_input_grad(1);
    if (!grads[0].defined() && !grads[1].defined()) return {Tensor(), Tensor(), Tensor()};
    auto [grad_logits, grad_temperature] = of_answers(grads[0], grads[1], args, need_temperature);
    if (!context->needs_input_grad(0)) grad_logits = Tensor();
    return {grad_logits, need_temperature ? reduce_to(grad_temperature, *temperature) : Tensor(), Tensor()};
  }

 private:
  static std::tuple<Tensor, Tensor> of_answers(const Tensor& grad_log_prob, const Tensor& grad_entropy,
                                               const LogProbArguments& args, bool need_temperature) {
    bool has_graph = false, has_tangents = false;
    for (const Tensor& tensor : {grad_log_prob, grad_entropy, args.logits, *args.temperature_rows}) {
      if (!tensor.defined()) continue;
      has_graph |= tensor.requires_grad();
      has_tangents |= has_tangent(tensor);
    }
    if (has_tangents || (at::GradMode::is_enabled() && has_graph))
      return Formula(args, *args.temperature_rows).gradients(grad_log_prob, grad_entropy);
    const auto optional = [](const Tensor& grad) { return grad.defined() ? OptionalTensor(grad) : OptionalTensor(); };
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_log_prob_backward(optional(grad_log_prob), optional(grad_entropy), args, need_temperature);
  }
};

// The value of `tensor` without its derivatives.
Tensor constant(const Tensor& tensor) {
  return tensor._fw_primal(/*level=*/0).detach();
}

// In forward mode, and under torch.func, where no function of C++ may be: the kernel's values, with the derivatives of
// the formula.
std::tuple<Tensor, Tensor> with_formula(const LogProbArguments& args) {
  const auto [log_prob, entropy] = run_below(args);
  const auto [of_log_prob, of_entropy] =
      Formula(args, temperature_of(args.temperature, args.temperature_rows)).values();
  const auto with = [](const Tensor& value, const Tensor& formula) {
    return value + at::where(formula.isfinite(), formula - constant(formula), 0);
  };
  return {with(log_prob, of_log_prob), with(entropy, of_entropy)};
}

std::tuple<Tensor, Tensor> log_prob_autograd(const LogProbArguments& args) {
  const Tensor rows = args.temperature_rows.value_or(Tensor());
  const bool in_forward_mode = has_tangent(args.logits) || has_tangent(rows);
  if (!in_forward_mode && !torch::autograd::compute_requires_grad(args.logits, rows)) return run_below(args);
  if (in_forward_mode || at::functorch::maybeCurrentDynamicLayer()) return with_formula(args);
  const variable_list outputs = LogProbGradient::apply(args.logits, args.temperature_rows, &args);
  return {outputs[0], outputs[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, Autograd, m) {
  m.impl("_draw", torch::CppFunction::makeFallthrough());
  m.impl("_log_prob", log_prob_kernel<log_prob_autograd>);
  m.impl("_log_prob_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace gumbel_ext
