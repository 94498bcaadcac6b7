#include "estimator_backward.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "../core/job.h"

namespace gumbel_ext {
namespace {

// J(p) dy along dim.
Tensor along(const Tensor& p, const Tensor& dy, std::int64_t dim) {
  return p * (dy - (p * dy).sum(dim, /*keepdim=*/true));
}

// The estimator's formula by operations that can be differentiated again; of kRao there is none.
struct Formula {
  const Choice& c;
  at::ScalarType type;
  Tensor x, t, tau;

  explicit Formula(const Choice& c)
      : c(c), type(c.logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat), x(c.logits) {
    TORCH_CHECK_NOT_IMPLEMENTED(of() != Estimator::kRao,
                                "gumbel_ext: expected another estimator than 'rao' where a gradient is differentiated");
    const auto options = x.options().dtype(at::kDouble);
    t = c.temperature_rows ? *c.temperature_rows : at::scalar_tensor(c.temperature, options);
    tau = c.tau_rows ? *c.tau_rows : at::scalar_tensor(c.tau, options);
  }
  Estimator of() const {
    return Estimator(c.estimator);
  }
  Tensor softmax(const Tensor& logits, const Tensor& rows, bool noisy) const {
    const OptionalTensor none;
    const OptionalSeed seed = noisy && !c.row_seeds ? OptionalSeed(c.seed->item<std::int64_t>()) : OptionalSeed();
    const OptionalTensor& row_seeds = noisy ? c.row_seeds : none;
    const auto numbers = c.arguments().numbers;
    return call(relaxed_operator(), {logits, c.mask, 1, rows, noisy, seed, row_seeds, {}, c.dim, numbers, 0}).to(type);
  }
  // The softmax of kGumbel and kSoftmax.
  Tensor p() const {
    return of() == Estimator::kGumbel ? softmax((x / t).to(x.scalar_type()), tau, true) : softmax(x, tau, false);
  }
  Tensor reinmax(const Tensor& dy) const {
    const Tensor z = one_hot_of_operator().call(c.index, x, c.dim).to(type);
    const Tensor q = softmax(x, t * tau, false), r = softmax(x, t, false);
    return (2 * along((z + q) / 2, dy, c.dim) - along(r, dy, c.dim) / 2) / t;
  }
  Gradients gradients(const Tensor& grad, bool need_temperature, bool need_tau) const {
    const Tensor dy = grad.to(type);
    const auto sum = [&](const Tensor& terms) { return terms.sum(c.dim, /*keepdim=*/true); };
    Tensor dx, dt, dtau;
    if (of() == Estimator::kReinmax) {
      dx = reinmax(dy);
      if (need_tau) dtau = at::zeros_like(sum(dx));
    } else {
      const Tensor softmax = p(), product = along(softmax, dy, c.dim) / tau;
      dx = of() == Estimator::kGumbel ? product / t : product;
      if (need_tau) dtau = -sum(product * safe_log(softmax.to(at::kDouble)));
    }
    if (need_temperature)
      dt = of() == Estimator::kSoftmax ? at::zeros_like(sum(dx)) : -sum(dx * at::where(dx == 0, 0, x.to(type))) / t;
    return {dx.to(x.scalar_type()), dt, dtau};
  }
};

bool is_differentiated(const Tensor& grad, const Choice& c) {
  bool found = has_tangent(grad), requires_grad = grad.requires_grad();
  for (const OptionalTensor& tensor : {OptionalTensor(c.logits), c.weight, c.temperature_rows, c.tau_rows}) {
    if (!tensor) continue;
    found |= has_tangent(*tensor);
    requires_grad |= tensor->requires_grad();
  }
  return found || (at::GradMode::is_enabled() && requires_grad);
}

variable_list gradients(const Tensor& grad, const Choice& c, const std::vector<bool>& needed) {
  variable_list result(EstimatorBackward::kInputs);
  if (needed[1]) result[1] = c.to_weight(grad);
  if (!needed[0] && !needed[2] && !needed[3]) return result;
  const auto [dx, dt, dtau] = estimate(c.to_one_hot(grad), c, needed[2], needed[3]);
  if (needed[0]) result[0] = dx;
  if (needed[2]) result[2] = reduce_to(dt, *c.temperature_rows);
  if (needed[3]) result[3] = reduce_to(dtau, *c.tau_rows);
  return result;
}

}  // namespace

Gradients estimate(const Tensor& grad, const Choice& choice, bool need_temperature, bool need_tau, bool again) {
  if (again || is_differentiated(grad, choice)) return Formula(choice).gradients(grad, need_temperature, need_tau);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_estimate(grad, choice.arguments(), need_temperature, need_tau);
}

Tensor tangent_along_tau(const Choice& choice, const Tensor& d_tau) {
  const Formula formula(choice);
  if (formula.of() == Estimator::kReinmax) return at::zeros_like(choice.logits);
  const Tensor p = formula.p();
  return (along(p, safe_log(p.to(at::kDouble)), choice.dim) * (-d_tau / formula.tau)).to(choice.logits.scalar_type());
}

void EstimatorBackward::save(const Choice& choice) {
  rest_ = choice;
  tensors_[0] = SavedVariable(choice.logits, /*is_output=*/false);
  tensors_[1] = SavedVariable(choice.index, /*is_output=*/false);
  rest_.logits = rest_.index = Tensor();
  SavedVariable* saved = tensors_ + 2;
  for (OptionalTensor* tensor : rest_.optional()) {
    if (*tensor) *saved = SavedVariable(**tensor, /*is_output=*/false);
    tensor->reset();
    ++saved;
  }
}

Choice EstimatorBackward::unpack() {
  Choice choice = rest_;
  choice.logits = tensors_[0].unpack();
  choice.index = tensors_[1].unpack();
  const SavedVariable* saved = tensors_ + 2;
  for (OptionalTensor* tensor : choice.optional())
    if (const Tensor unpacked = (saved++)->unpack(); unpacked.defined()) *tensor = unpacked;
  return choice;
}

void EstimatorBackward::release_variables() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (SavedVariable& tensor : tensors_) tensor.reset_data();
}

variable_list EstimatorBackward::apply(variable_list&& grads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!grads[0].defined()) return variable_list(kInputs);
  std::vector<bool> needed;
  for (std::size_t i = 0; i < kInputs; ++i) needed.push_back(task_should_compute_output(i));
  return gradients(grads[0], unpack(), needed);
}

namespace compiled = torch::dynamo::autograd;

namespace {

// A graph's view of a Choice: all tensors, with others in the place of those that are none, and numbers.
void pack(compiled::PackedArgs& args, Choice& c, const std::vector<bool>& needed) {
  const auto optional = c.optional();
  std::int64_t present = 0, inputs = 0;
  for (std::size_t i = 0; i < optional.size(); ++i) present |= std::int64_t(optional[i]->has_value()) << i;
  for (std::size_t i = 0; i < needed.size(); ++i) inputs |= std::int64_t(needed[i]) << i;
  for (const Tensor& tensor : {c.logits, c.index}) args.pack(tensor);
  for (const OptionalTensor* tensor : optional) args.pack(tensor->value_or(c.index));
  for (const std::int64_t number : {present, inputs, c.estimator, c.num_noises, c.dim, std::int64_t(c.drawn)})
    args.pack(number);
}
constexpr std::size_t kPackedTensors = 8, kPackedNumbers = 6;

variable_list apply_traced(const variable_list& grads, const std::vector<at::IValue>& packed) {
  compiled::PackedArgs args(packed);
  Choice c;
  c.logits = args.unpack<Tensor>();
  c.index = args.unpack<Tensor>();
  const auto optional = c.optional();
  for (OptionalTensor* tensor : optional) *tensor = args.unpack<Tensor>();
  const auto present = args.unpack<std::int64_t>(), inputs = args.unpack<std::int64_t>();
  c.estimator = args.unpack<std::int64_t>();
  c.num_noises = args.unpack<std::int64_t>();
  c.dim = args.unpack<std::int64_t>();
  c.drawn = args.unpack<std::int64_t>() != 0;
  for (std::size_t i = 0; i < optional.size(); ++i)
    if (!(present >> i & 1)) optional[i]->reset();
  std::vector<bool> needed;
  for (std::size_t i = 0; i < EstimatorBackward::kInputs; ++i) needed.push_back(inputs >> i & 1);
  return grads[0].defined() ? gradients(grads[0], c, needed) : variable_list(EstimatorBackward::kInputs);
}

}  // namespace

void EstimatorBackward::compiled_args(compiled::CompiledNodeArgs& args) const {
  TORCH_CHECK_NOT_IMPLEMENTED(!rest_.numbers, "gumbel_ext: expected no vmap around the forward of ", name(),
                              " under compiled autograd");
  for (const SavedVariable& tensor : tensors_) args.collect(tensor, /*is_output=*/false);
  for (const std::int64_t number : {rest_.estimator, rest_.num_noises, rest_.dim, std::int64_t(rest_.drawn)})
    args.collect(number);
  // Of a compiler, for which each value of a number is another graph.
  numbers_as_tensors_[0] = at::scalar_tensor(rest_.temperature, at::kDouble);
  numbers_as_tensors_[1] = at::scalar_tensor(rest_.tau, at::kDouble);
  for (const Tensor& number : numbers_as_tensors_) args.collect(number);
}

variable_list EstimatorBackward::apply_with_saved(const variable_list& grads, compiled::SwapSavedVariables& saved) {
  for (SavedVariable& tensor : tensors_) saved.before(tensor);
  for (Tensor& number : numbers_as_tensors_) saved.before(number);
  Choice choice = unpack();
  std::vector<bool> needed;
  for (std::size_t i = 0; i < kInputs; ++i) needed.push_back(task_should_compute_output(i));
  if (!choice.temperature_rows) choice.temperature_rows = numbers_as_tensors_[0];
  if (!choice.tau_rows) choice.tau_rows = numbers_as_tensors_[1];
  compiled::PackedArgs args;
  pack(args, choice, needed);
  std::vector<at::TypePtr> types(kPackedTensors, at::TensorType::get());
  types.insert(types.end(), kPackedNumbers, at::IntType::get());
  const auto& compiler = compiled::getPyCompilerInterface();
  const std::string function = compiler->bind_function(saved.get_py_compiler(), name(), apply_traced, types,
                                                       /*is_custom_function=*/true, /*is_traceable=*/true);
  const auto outputs = compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
      compiled::get_input_metadata(next_edges()));
  variable_list result =
      compiler->call_function(saved.get_py_compiler(), "apply_functional", function, grads, args.vec(), outputs);
  for (SavedVariable& tensor : tensors_) saved.after(tensor);
  for (Tensor& number : numbers_as_tensors_) saved.after(number);
  return result;
}

}  // namespace gumbel_ext
