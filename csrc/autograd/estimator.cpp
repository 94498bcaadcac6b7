// Samples with an estimator's gradient: one_hot(index), or weight[index].
#include <ATen/Functions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include "estimator_backward.h"

namespace gumbel_ext {
namespace {

Tensor value_of(const OptionalTensor& weight, const EstimatorArguments& args) {
  return weight ? chosen_rows(*weight, args.index) : one_hot_of_operator().call(args.index, args.logits, args.dim);
}

OptionalTensor primal(const OptionalTensor& tensor) {
  return tensor && has_tangent(*tensor) ? OptionalTensor(tensor->_fw_primal(/*level=*/0)) : tensor;
}
Tensor tangent(const OptionalTensor& tensor) {
  return tensor && has_tangent(*tensor) ? tensor->_fw_grad(/*level=*/0) : Tensor();
}

// The estimators' Jacobians are symmetric: the tangent along the logits' is what a gradient would be.
Tensor value_tangent(const Choice& given) {
  Choice choice = given;
  choice.logits = *primal(given.logits);
  choice.weight = primal(given.weight);
  choice.temperature_rows = primal(given.temperature_rows);
  choice.tau_rows = primal(given.tau_rows);
  Tensor sum;
  const auto add = [&](const Tensor& part) { sum = sum.defined() ? sum + part : part; };
  // A tangent may be derived along again, at a level of torch.func's that cannot be seen from here.
  const bool again = Estimator(choice.estimator) != Estimator::kRao;
  const auto along = [&](const Tensor& direction) {
    return std::get<0>(estimate(direction, choice, false, false, again));
  };
  if (const Tensor d = tangent(given.logits); d.defined()) add(along(d));
  if (const Tensor d = tangent(given.temperature_rows);
      d.defined() && Estimator(choice.estimator) != Estimator::kSoftmax) {
    const Tensor finite = at::where(choice.logits.isfinite(), choice.logits, 0);
    add((along(finite) * (-d / *choice.temperature_rows)).to(finite.scalar_type()));
  }
  if (const Tensor d = tangent(given.tau_rows); d.defined()) add(tangent_along_tau(choice, d));
  Tensor result = sum.defined() ? choice.from_one_hot(sum) : sum;
  if (const Tensor d = tangent(given.weight); d.defined()) {
    const Tensor part = chosen_rows(d, choice.index);
    result = result.defined() ? result + part : part;
  }
  return result;
}

Tensor choice_autograd(const OptionalTensor& weight, const EstimatorArguments& args) {
  const Choice choice(weight, args);
  const Tensor w = weight.value_or(Tensor()), t = args.temperature_rows.value_or(Tensor()),
               tau = args.tau_rows.value_or(Tensor());
  decltype(make_node<EstimatorBackward>()) node;
  if (torch::autograd::compute_requires_grad(args.logits, w, t, tau)) {
    node = make_node<EstimatorBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(args.logits, w, t, tau));
    node->save(choice);
  }
  Tensor value;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    value = value_of(weight, args);
  }
  if (node) torch::autograd::set_history(value, node);
  if (has_tangent(args.logits) || has_tangent(w) || has_tangent(t) || has_tangent(tau))
    if (const Tensor d = value_tangent(choice); d.defined())
      value._set_fw_grad(d, /*level=*/0, /*is_inplace_op=*/false);
  return value;
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, CompositeExplicitAutograd, m) {
  m.impl("_choice", choice_kernel<value_of>);
}

TORCH_LIBRARY_IMPL(gumbel_ext, Autograd, m) {
  m.impl("_choice", choice_kernel<choice_autograd>);
  m.impl("_sample", torch::CppFunction::makeFallthrough());
  m.impl("_one_hot_of", torch::CppFunction::makeFallthrough());
  m.impl("_estimate", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace gumbel_ext
