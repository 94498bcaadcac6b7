#include "softmax_backward.h"

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/graph_task.h>

#if defined(GUMBEL_EXT_WITH_CUDA)
#include <c10/cuda/CUDAGraphsC10Utils.h>
#endif

#include "../cpu/caching_allocator.h"
#include "../operators.h"

namespace gumbel_ext {

// What backward is asked for, and what the forward left for it.
struct Backward {
  Tensor p, tau_rows;  // the latter may be undefined
  double tau;
  std::int64_t dim;
  bool need_logits, need_tau;
  bool logarithms;  // `p` is log p

  variable_list gradients(const Tensor& grad) {
    const bool again = is_differentiated(grad);
    if (logarithms) return of_logarithm(grad, again);
    return again ? differentiable(grad) : by_kernel(grad, /*in_place=*/false);
  }
  // Those of y = log p, which are dx_k = (dy_k - p_k sum(dy)) / tau, dtau = -sum_k dx_k y_k, where a class of y = -inf
  // has part in neither; by operations that can be differentiated `again`, or by fewer.
  variable_list of_logarithm(const Tensor& grad, bool again) const {
    const Tau temperature = number_of(Tau{tau, tau_rows});
    const auto type = working_type(p, temperature);
    const double scale = sum_scale(p, dim);
    const Tensor y = widened(p, type), excluded = y == -std::numeric_limits<double>::infinity();
    const Tensor dy = grad.to(type) * scale;
    const Tensor all =
        again ? dy - y.exp() * dy.sum(dim, /*keepdim=*/true) : at::_log_softmax_backward_data(dy, y, dim, type);
    const Tensor product = all.masked_fill(excluded, 0);
    Tensor grad_logits, grad_tau;
    if (need_logits) grad_logits = (divide(product, temperature) / scale).to(p.scalar_type());
    if (need_tau) {
      const Tensor sum = (product * (y.masked_fill(excluded, 0) * kTauGradientScale)).sum(dim, /*keepdim=*/true);
      grad_tau = reduce_to(divide(sum, temperature) / scale / -kTauGradientScale, tau_rows);
    }
    return {grad_logits, grad_tau};
  }

  // The gradients for the logits and for tau, by operations that can be differentiated again.
  variable_list differentiable(const Tensor& grad) const {
    const Tau temperature{tau, tau_rows};
    const auto type = working_type(p, temperature);
    const Tensor wide_p = widened(p, type), product = scaled_tangent(wide_p, grad.to(type), dim);
    Tensor grad_logits, grad_tau;
    if (need_logits) grad_logits = (divide(product, temperature) / kGradientScale).to(p.scalar_type());
    if (need_tau) {
      const Tensor sum = (product * safe_log(wide_p) * kTauTermScale).sum(dim, /*keepdim=*/true);
      grad_tau = reduce_to(divide(sum, temperature) / -kTauGradientScale, tau_rows);
    }
    return {grad_logits, grad_tau};
  }
  // The same by the kernel; `in_place`, with the gradient for the logits written over p.
  variable_list by_kernel(const Tensor& grad, bool in_place) {
    const OptionalTensor rows = tau_rows.defined() ? OptionalTensor(tau_rows) : OptionalTensor();
    Tensor grad_logits, grad_tau;
    if (in_place) {
      grad_logits = p.detach();
      grad_tau = backward_in_place_operator().call(grad, p, tau, rows, dim, need_tau);
    } else {
      std::tie(grad_logits, grad_tau) = backward_operator().call(grad, p, tau, rows, dim, need_logits, need_tau);
    }
    return {grad_logits, need_tau ? reduce_to(grad_tau, tau_rows) : Tensor()};
  }
  bool is_differentiated(const Tensor& grad) const {
    return (at::GradMode::is_enabled() && (grad.requires_grad() || p.requires_grad())) || has_tangent(grad) ||
           has_tangent(p) || has_tangent(tau_rows);
  }
};

bool is_captured([[maybe_unused]] const Tensor& tensor) {
#if defined(GUMBEL_EXT_WITH_CUDA)
  return tensor.is_cuda() && !at::isTensorSubclassLike(tensor) &&
         c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
#else
  return false;
#endif
}

namespace {

// What comes back to the outputs, of which each has p's gradient; undefined where nothing does.
Tensor sum_of(const variable_list& grads) {
  Tensor sum;
  for (const Tensor& part : grads)
    if (part.defined()) sum = sum.defined() ? sum + part : part;
  return sum;
}

}  // namespace

Backward SoftmaxBackward::unpack() {
  const Tensor p = relaxed.unpack(pointer_to(this)), rows = tau_rows.unpack();
  const bool need_tau = rows.defined() && task_should_compute_output(1);
  return {p, rows, tau, dim, task_should_compute_output(0), need_tau, logarithms};
}

variable_list SoftmaxBackward::apply(variable_list&& grads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Tensor grad = sum_of(grads);
  if (!grad.defined()) return variable_list(2);
  Backward backward = unpack();
  if (backward.is_differentiated(grad)) return backward.gradients(grad);
  const at::AutoDispatchBelowADInplaceOrView guard;  // nothing here is differentiated
  if (logarithms) return backward.gradients(grad);
  const bool in_place = backward.need_logits && !at::isTensorSubclassLike(grad) && take_relaxed(backward.p);
  variable_list result = backward.by_kernel(grad, in_place);
  if (in_place) relaxed.reset_data();
  return result;
}

namespace compiled = torch::dynamo::autograd;

variable_list apply_traced(const variable_list& grads, const std::vector<at::IValue>& packed) {
  compiled::PackedArgs args(packed);
  Backward backward;
  backward.p = args.unpack<Tensor>();
  backward.tau_rows = args.unpack<Tensor>();
  backward.tau = 1;
  backward.dim = args.unpack<std::int64_t>();
  backward.need_logits = args.unpack<bool>();
  backward.need_tau = args.unpack<bool>();
  backward.logarithms = args.unpack<bool>();
  const Tensor grad = sum_of(grads);
  return grad.defined() ? backward.gradients(grad) : variable_list(2);
}

void SoftmaxBackward::compiled_args(compiled::CompiledNodeArgs& args) const {
  args.collect(relaxed, /*is_output=*/true);
  args.collect(tau_rows, /*is_output=*/false);
  const Tensor rows = tau_rows.unpack();
  tau_as_tensor = rows.defined() ? Tensor() : at::scalar_tensor(tau, at::kDouble);
  args.collect(tau_as_tensor);
  args.collect(dim);
  args.collect(logarithms);
}

variable_list SoftmaxBackward::apply_with_saved(const variable_list& grads, compiled::SwapSavedVariables& saved) {
  saved.before(relaxed);
  saved.before(tau_rows);
  saved.before(tau_as_tensor);
  Backward backward = unpack();
  if (!backward.tau_rows.defined()) backward.tau_rows = tau_as_tensor;
  compiled::PackedArgs args;
  args.pack(backward.p);
  args.pack(backward.tau_rows);
  args.pack(backward.dim);
  args.pack(backward.need_logits);
  args.pack(backward.need_tau);
  args.pack(backward.logarithms);
  const std::vector<at::TypePtr> types = {at::TensorType::get(), at::TensorType::get(), at::IntType::get(),
                                          at::BoolType::get(),   at::BoolType::get(),   at::BoolType::get()};
  const auto& compiler = compiled::getPyCompilerInterface();
  const std::string function = compiler->bind_function(saved.get_py_compiler(), name(), apply_traced, types,
                                                       /*is_custom_function=*/true, /*is_traceable=*/true);
  const auto outputs = compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
      compiled::get_input_metadata(next_edges()));
  variable_list result =
      compiler->call_function(saved.get_py_compiler(), "apply_functional", function, grads, args.vec(), outputs);
  saved.after(relaxed);
  saved.after(tau_rows);
  saved.after(tau_as_tensor);
  return result;
}

bool SoftmaxBackward::take_relaxed(const Tensor& p) {
  if (torch::autograd::get_current_graph_task_keep_graph() || at::isTensorSubclassLike(p)) return false;
  if (relaxed.has_hooks()) return false;
  constexpr std::size_t kHolders = 2;  // p, and what was saved of it
  const bool unseen = p.use_count() == 1 && p.storage().use_count() == kHolders;
  constexpr std::uint32_t kOneHotOutputs = 2;
  if (p.is_cuda()) return unseen && num_inputs() == kOneHotOutputs && !captured && !is_captured(p);
  return unseen && p.is_cpu() && cpu::is_private(p);
}

}  // namespace gumbel_ext
