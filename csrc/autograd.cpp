// The one gradient of every operation: with p = softmax(u / tau) and u = logits + noise,
//   du = p * (dy - <p, dy>) / tau,    dtau = -sum_k du_k log p_k   (u / tau is log p but for a constant).
// The relaxed operations output p; the one-hot ones output it beside z, so that z can have its gradient
// (straight-through) and backward can itself be differentiated through p.
#include <ATen/Functions.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/FunctionsManual.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

#if defined(GUMBEL_EXT_WITH_CUDA)
#include <c10/cuda/CUDAGraphsC10Utils.h>
#endif

#include "autograd_node.h"
#include "core/gradient.h"
#include "cpu/caching_allocator.h"
#include "operators.h"

namespace gumbel_ext {
namespace {

using at::Tensor;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

bool has_tangent(const Tensor& tensor) {
  return torch::autograd::isFwGradDefined(tensor);
}

// A number for all rows, or a tensor with one for each.
struct Tau {
  double number;
  Tensor rows;  // or undefined
};

// Arithmetic is in float, as in the kernels; in double where that is asked for, and where tau is, or may be, far
// from 1.
at::ScalarType working_type(const Tensor& p, const Tau& tau) {
  const bool far = tau.rows.defined() || is_extreme_for_gradient<float>(tau.number);
  return p.scalar_type() == at::kDouble || far ? at::kDouble : at::kFloat;
}

Tensor divide(const Tensor& tensor, const Tau& tau) {
  return tau.rows.defined() ? tensor / tau.rows : tensor / tau.number;
}

// tau * kGradientScale times the tangent of p along du, or along -dtau log p; by the Jacobian's symmetry also, for
// du = dy, of the vector-Jacobian product. Made of differentiable operations. Scaled, and weighted before they meet,
// numbers do not overflow.
Tensor scaled_tangent(const Tensor& p, const Tensor& direction, std::int64_t dim) {
  const Tensor weighted = p * (direction * kGradientScale);
  return weighted - p * weighted.sum(dim, /*keepdim=*/true);
}
// What the kernels' terms of tau's gradient are scaled by besides.
constexpr double kTauTermScale = 1 / kGradientScale * kTauGradientScale;

// p in another type. A gradient that comes back and that p's own type does not hold becomes its largest number: an
// infinity would make NaN of rows that depend on nothing.
Tensor widened(const Tensor& p, at::ScalarType type) {
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
Tensor safe_log(const Tensor& p) {
  return at::log(at::clamp_min(p, std::numeric_limits<double>::min()));
}

// The gradient for tau's rows in tau's own shape, dtype and device.
Tensor reduce_to(const Tensor& grad_tau, const Tensor& rows) {
  return at::sum_to(grad_tau, rows.sym_sizes()).to(rows.options());
}

struct SoftmaxBackward : public torch::autograd::Node {
  variable_list apply(variable_list&& grads) override;
  std::string name() const override {
    return "GumbelExtSoftmaxBackward";
  }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    relaxed.reset_data();
    tau_rows.reset_data();
  }

  // Whether p may be overwritten: this is its last use, it is the very tensor that was saved and not what a hook made
  // of it, and nobody else can reach its memory. On a GPU, one-hot outputs alone: work that another stream has not done
  // yet may still read a p that was handed out. And not while a graph is captured, whose backward may be replayed
  // without its forward.
  bool take_relaxed(const Tensor& p);

  SavedVariable relaxed;   // p, an output of this node
  SavedVariable tau_rows;  // or none
  double tau = 1;
  std::int64_t dim = -1;
};

variable_list SoftmaxBackward::apply(variable_list&& grads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Tensor grad;
  for (const Tensor& part : grads)
    if (part.defined()) grad = grad.defined() ? grad + part : part;
  if (!grad.defined()) return variable_list(2);

  Tensor p = relaxed.unpack(pointer_to(this));
  const Tensor rows = tau_rows.unpack();
  const bool need_logits = task_should_compute_output(0), need_tau = rows.defined() && task_should_compute_output(1);
  Tensor grad_logits, grad_tau;
  const bool differentiated = (at::GradMode::is_enabled() && (grad.requires_grad() || p.requires_grad())) ||
                              has_tangent(grad) || has_tangent(p) || has_tangent(rows);
  if (differentiated) {
    const Tau temperature{tau, rows};
    const auto type = working_type(p, temperature);
    const Tensor wide_p = widened(p, type), product = scaled_tangent(wide_p, grad.to(type), dim);
    if (need_logits) grad_logits = (divide(product, temperature) / kGradientScale).to(p.scalar_type());
    if (need_tau) {
      const Tensor sum = (product * safe_log(wide_p) * kTauTermScale).sum(dim, /*keepdim=*/true);
      grad_tau = divide(sum, temperature) / -kTauGradientScale;
    }
    return {grad_logits, need_tau ? reduce_to(grad_tau, rows) : Tensor()};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;  // nothing here is differentiated
  const OptionalTensor optional_rows = rows.defined() ? OptionalTensor(rows) : OptionalTensor();
  if (need_logits && !at::isTensorSubclassLike(grad) && take_relaxed(p)) {
    grad_logits = p.detach();
    grad_tau = backward_in_place_operator().call(grad, p, tau, optional_rows, dim, need_tau);
    relaxed.reset_data();
  } else {
    std::tie(grad_logits, grad_tau) = backward_operator().call(grad, p, tau, optional_rows, dim, need_logits, need_tau);
  }
  return {grad_logits, need_tau ? reduce_to(grad_tau, rows) : Tensor()};
}

bool SoftmaxBackward::take_relaxed(const Tensor& p) {
  if (torch::autograd::get_current_graph_task_keep_graph() || at::isTensorSubclassLike(p)) return false;
  if (relaxed.has_hooks()) return false;
  constexpr std::size_t kHolders = 2;  // p, and what was saved of it
  const bool unseen = p.use_count() == 1 && p.storage().use_count() == kHolders;
#if defined(GUMBEL_EXT_WITH_CUDA)
  constexpr std::uint32_t kOneHotOutputs = 2;
  if (p.is_cuda())
    return unseen && num_inputs() == kOneHotOutputs &&
           c10::cuda::currentStreamCaptureStatusMayInitCtx() == c10::cuda::CaptureStatus::None;
#endif
  return unseen && p.is_cpu() && cpu::is_private(p);
}

// What a differentiable forward and its gradient have in common, whatever it outputs.
class Differentiable {
 public:
  explicit Differentiable(const Arguments& args) : args_(args), tau_rows_(args.tau_rows.value_or(Tensor())) {
    if (torch::autograd::compute_requires_grad(args.logits, tau_rows_)) {
      node_ = make_node<SoftmaxBackward>();
      node_->set_next_edges(torch::autograd::collect_next_edges(args.logits, tau_rows_));
      node_->tau = args.tau;
      node_->dim = args.dim;
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
      const Tensor tangent = output_tangent(relaxed);
      for (Tensor& output : outputs) output._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
    }
    if (node_) node_->relaxed = SavedVariable(relaxed, /*is_output=*/true);
  }

 private:
  Tensor output_tangent(const Tensor& p) const {
    const Tensor d_logits = args_.logits._fw_grad(/*level=*/0);
    const Tensor d_tau = tau_rows_.defined() ? tau_rows_._fw_grad(/*level=*/0) : Tensor();
    const Tau tau{args_.tau, d_tau.defined() ? tau_rows_._fw_primal(/*level=*/0) : tau_rows_};
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
  bool has_tangent_ = false;
};

Tensor relaxed_autograd(const Arguments& args) {
  Differentiable forward(args);
  Tensor p;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    p = call(relaxed_operator(), args);
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
  m.impl("_relaxed", forward_kernel<relaxed_autograd>);
  m.impl("_one_hot", forward_kernel<one_hot_autograd>);
  m.impl("_one_hot_relaxed", forward_kernel<one_hot_relaxed_autograd>);
  m.impl("_index", torch::CppFunction::makeFallthrough());
  m.impl("_backward", torch::autograd::autogradNotImplementedFallback());
  m.impl("_backward_", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace gumbel_ext
