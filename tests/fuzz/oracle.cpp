#include "oracle.h"

#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

namespace {

using Real = long double;
constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

// Rows along a call's dim, as doubles.
class Rows {
 public:
  Rows(const Call& call, const at::Tensor& tensor) : tensor_(to_rows(call, tensor)) {
  }
  // A tensor with one value a row.
  static Rows per_row(const at::Tensor& tensor) {
    return Rows(tensor.detach().to(at::kDouble).contiguous().view({tensor.numel(), 1}));
  }
  std::int64_t rows() const {
    return tensor_.size(0);
  }
  std::int64_t classes() const {
    return tensor_.size(1);
  }
  const double* operator[](std::int64_t row) const {
    return tensor_.const_data_ptr<double>() + row * classes();
  }

 private:
  explicit Rows(at::Tensor tensor) : tensor_(std::move(tensor)) {
  }
  static at::Tensor to_rows(const Call& call, const at::Tensor& tensor) {
    const at::Tensor whole = tensor.detach().to(at::kDouble);
    if (whole.dim() == 0) return whole.view({1, 1}).contiguous();
    const at::Tensor last = whole.movedim(call.wrapped_dim(), -1);
    const std::int64_t classes = last.size(-1);
    std::int64_t rows = 1;
    for (const std::int64_t size : last.sizes().slice(0, last.dim() - 1)) rows *= size;
    return last.reshape({rows, classes}).contiguous();
  }
  at::Tensor tensor_;
};

Rows masked_logits(const Call& call) {
  const at::Tensor logits = call.logits.detach();
  return {call,
          call.mask ? logits.masked_fill(call.mask->logical_not(), -std::numeric_limits<double>::infinity()) : logits};
}

Rows temperatures(const Call& call) {
  auto sizes = call.logits.sizes().vec();
  if (!sizes.empty()) sizes[call.wrapped_dim()] = 1;
  return Rows::per_row(call.tau.rows ? call.tau.rows->expand(sizes).to(at::kDouble)
                                     : at::full(sizes, call.tau.number, at::kDouble));
}

// The noise of the call's first draw, in its working precision; zeros where it has none.
Rows noise(const Call& call) {
  Call same = call;
  const auto type = call.logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor like = call.logits.detach();
  const bool scalar = like.dim() == 0;
  same.logits = (scalar ? like : like.movedim(call.wrapped_dim(), -1)).to(type);
  same.dim = -1;
  const bool none = !call.has_noise() || (!call.tau.rows && call.tau.number == 0);
  return {same, none ? at::zeros_like(same.logits) : same.run(Operation::kGumbelNoise)};
}

// NaN, +infinity, or no class above -infinity.
bool is_undefined(const double* logits, std::int64_t classes) {
  double largest = -std::numeric_limits<double>::infinity();
  for (std::int64_t k = 0; k < classes; ++k) {
    if (std::isnan(logits[k])) return true;
    largest = std::max(largest, logits[k]);
  }
  return std::isinf(largest);
}

// torch.argmax: NaN counts as the largest, the first one wins.
std::int64_t argmax(const double* values, std::int64_t classes) {
  std::int64_t best = 0;
  for (std::int64_t k = 1; k < classes && !std::isnan(values[best]); ++k)
    if (std::isnan(values[k]) || values[k] > values[best]) best = k;
  return best;
}

// In units of the working precision's rounding error.
Real epsilon(const Call& call) {
  return call.logits.scalar_type() == at::kDouble ? 0x1p-53L : 0x1p-24L;
}

// The bound on the relative error, where the dtype is the working precision: the rounding of the sums of logit and
// noise, and a few units more.
void check_values(const Call& call, const double* p, const double* logits, const double* noise, double tau,
                  std::int64_t classes) {
  if (call.logits.scalar_type() != at::kFloat) return;
  Real largest = 0, top = -kInfinity, sum = 0;
  for (std::int64_t k = 0; k < classes; ++k) {
    const Real u = Real(logits[k]) + noise[k];
    if (!std::isinf(u)) largest = std::max(largest, std::abs(u));
    top = std::max(top, u);
  }
  const Real bound = epsilon(call) * (8 + (call.has_noise() ? 2 * largest / tau : 0));
  if (bound > 0.01L) return;
  for (std::int64_t k = 0; k < classes; ++k) sum += std::exp((Real(logits[k]) + noise[k] - top) / tau);
  for (std::int64_t k = 0; k < classes; ++k) {
    const Real exact = std::exp((Real(logits[k]) + noise[k] - top) / tau) / sum;
    expect(std::abs(p[k] - exact) <= bound * exact + 0x1p-150L, "a value within the bound");
  }
}

void check_relaxed(const Call& call, const at::Tensor& result) {
  const Rows p(call, result), logits = masked_logits(call), taus = temperatures(call), g = noise(call);
  for (std::int64_t r = 0; r < p.rows() && p.classes() > 0; ++r) {
    const bool undefined = is_undefined(logits[r], p.classes());
    for (std::int64_t k = 0; k < p.classes(); ++k) {
      expect(std::isnan(p[r][k]) == undefined, "NaN along undefined rows, and only there");
      expect(undefined || (p[r][k] >= 0 && p[r][k] <= 1), "a value in [0, 1]");
      expect(undefined || !std::isinf(logits[r][k]) || p[r][k] == 0, "exactly 0 where the logit is -infinity");
    }
    if (!undefined) check_values(call, p[r], logits[r], g[r], taus[r][0], p.classes());
  }
}

// The class whose score is the largest, up to rounding.
void check_winner(const Call& call, std::int64_t winner, const double* logits, const double* noise, double tau,
                  std::int64_t classes) {
  const auto score = [&](std::int64_t k) { return tau == 0 ? Real(logits[k]) : Real(logits[k]) / tau + noise[k]; };
  expect(logits[winner] > -kInfinity, "a class whose logit is above -infinity");
  const Real won = score(winner);
  for (std::int64_t k = 0; k < classes; ++k) {
    const Real slack = 4 * epsilon(call) * (std::abs(won - noise[winner]) + std::abs(score(k)) + 50);
    expect(score(k) <= won + (tau == 0 ? 0 : slack), "the class with the largest score");
    if (score(k) == won && k < winner) expect(tau != 0 && call.has_noise(), "the lowest class of those that tie");
  }
}

void check_one_hot(const Call& call, const at::Tensor& result) {
  const Rows z(call, result), logits = masked_logits(call), g = noise(call);
  for (std::int64_t r = 0; r < z.rows() && z.classes() > 0; ++r) {
    const bool undefined = is_undefined(logits[r], z.classes());
    std::int64_t ones = 0, winner = 0;
    for (std::int64_t k = 0; k < z.classes(); ++k) {
      expect(std::isnan(z[r][k]) == undefined, "NaN along undefined rows, and only there");
      expect(undefined || z[r][k] == 0 || z[r][k] == 1, "0 or 1");
      if (z[r][k] == 1) winner = k, ++ones;
    }
    expect(ones == !undefined, "a single 1");
    if (!undefined) check_winner(call, winner, logits[r], g[r], 1, z.classes());
  }
}

void check_index(const Call& call, const at::Tensor& result) {
  const Rows logits = masked_logits(call), taus = temperatures(call), g = noise(call);
  const std::int64_t draws = call.num_samples.value_or(1), classes = logits.classes();
  const auto* index = result.const_data_ptr<std::int64_t>();
  std::optional<Rows> hard;
  if (!call.tau.rows && call.tau.number == 1 && logits.rows() > 0)
    hard.emplace(call, call.run(Operation::kGumbelSoftmaxHard));
  for (std::int64_t r = 0; r < logits.rows(); ++r)
    for (std::int64_t i = 0; i < draws; ++i, ++index) {
      expect(*index >= 0 && *index < classes, "an index in range");
      if (is_undefined(logits[r], classes)) {
        expect(*index == argmax(logits[r], classes), "torch.argmax's index in an undefined row");
        continue;
      }
      expect(logits[r][*index] > -kInfinity, "a class whose logit is above -infinity");
      if (i > 0) continue;
      check_winner(call, *index, logits[r], g[r], taus[r][0], classes);
      if (hard) expect((*hard)[r][*index] == 1, "the class of the hard sample");
    }
}

void check_noise(const at::Tensor& result) {
  const Rows g = Rows::per_row(result);
  for (std::int64_t i = 0; i < g.rows(); ++i) expect(g[i][0] > -3.5 && g[i][0] < 46, "noise between -3.5 and 46");
}

void check_shape(const Call& call, const at::Tensor& result) {
  auto sizes = call.logits.sizes().vec();
  if (call.operation == Operation::kGumbelMax) {
    if (!sizes.empty()) sizes.erase(sizes.begin() + call.wrapped_dim());
    if (call.num_samples) sizes.push_back(*call.num_samples);
  }
  expect(result.sizes() == at::IntArrayRef(sizes), "the promised shape");
  const bool is_index = call.operation == Operation::kGumbelMax;
  expect(result.scalar_type() == (is_index ? at::kLong : call.logits.scalar_type()), "the promised dtype");
  expect(!result.is_alias_of(call.logits), "memory of the result's own");
}

// dx = p * (dy - <p, dy>) / tau, up to rounding, and finite where that is finite in the dtype.
void check_row_gradient(const Call& call, const double* grad, const double* p, const double* dy, const double* logits,
                        double tau, std::int64_t classes) {
  const bool is_half = call.logits.scalar_type() == at::kHalf || call.logits.scalar_type() == at::kBFloat16;
  const Real largest = call.logits.scalar_type() == at::kDouble ? 1.7e308L
                       : call.logits.scalar_type() == at::kHalf ? 65000.0L
                                                                : 3.3e38L;
  Real dot = 0, absolute = 0;
  for (std::int64_t k = 0; k < classes; ++k) {
    dot += Real(p[k]) * dy[k];
    absolute += Real(p[k]) * std::abs(dy[k]);
  }
  if (!std::isfinite(absolute)) return;
  for (std::int64_t k = 0; k < classes; ++k) {
    if (!std::isfinite(dy[k])) return;
    const Real exact = Real(p[k]) * (dy[k] - dot) / tau, scale = Real(p[k]) * (std::abs(dy[k]) + absolute) / tau;
    if (std::isinf(logits[k])) expect(grad[k] == 0, "gradient 0 where the logit is -infinity");
    if (scale > largest) continue;
    expect(std::isfinite(grad[k]), "a finite gradient where its true value is");
    // p * (dy - dot) and each product of the dot may be subnormal, and rounded before they are divided.
    const Real subnormal = is_half ? 1e-7L : 1.5e-45L * (1 + (1 + p[k] * Real(classes)) / tau);
    const Real tolerance = scale * (is_half ? 0x1p-7L : (64 + Real(classes) / 8) * epsilon(call)) + subnormal;
    expect(std::abs(grad[k] - exact) <= tolerance, "softmax's gradient");
  }
}

}  // namespace

void check_result(const Call& call, const at::Tensor& result) {
  check_shape(call, result);
  if (call.is_relaxed()) return check_relaxed(call, result);
  if (call.is_one_hot()) return check_one_hot(call, result);
  if (call.operation == Operation::kGumbelMax) return check_index(call, result);
  check_noise(result);
}

void check_gradients(const Call& call, const at::Tensor& result) {
  std::vector<at::Tensor> inputs;
  if (call.logits.requires_grad()) inputs.push_back(call.logits);
  if (call.tau.rows && call.tau.rows->requires_grad()) inputs.push_back(*call.tau.rows);
  if (inputs.empty() || call.operation == Operation::kGumbelMax) return;
  expect(result.requires_grad(), "a result that is differentiable");
  const Rows p(call, call.run(call.has_noise() ? Operation::kGumbelSoftmax : Operation::kSoftmax));
  const auto grads = torch::autograd::grad({result}, inputs, {call.upstream}, /*retain_graph=*/std::nullopt,
                                           /*create_graph=*/call.differentiate_twice, /*allow_unused=*/false);
  for (std::size_t i = 0; i < grads.size(); ++i) {
    expect(grads[i].sizes() == inputs[i].sizes(), "a gradient of its input's shape");
    expect(grads[i].scalar_type() == inputs[i].scalar_type(), "a gradient of its input's dtype");
  }
  if (call.logits.requires_grad()) {
    const Rows grad(call, grads[0]), dy(call, call.upstream), logits = masked_logits(call), taus = temperatures(call);
    for (std::int64_t r = 0; r < p.rows() && p.classes() > 0; ++r)
      if (!is_undefined(logits[r], p.classes()))
        check_row_gradient(call, grad[r], p[r], dy[r], logits[r], taus[r][0], p.classes());
  }
  if (call.differentiate_twice && grads[0].requires_grad()) {
    const auto second = torch::autograd::grad({grads[0]}, {inputs[0]}, {at::ones_like(grads[0])}, std::nullopt, false,
                                              /*allow_unused=*/true);
    expect(!second[0].defined() || second[0].sizes() == inputs[0].sizes(), "a second gradient of its input's shape");
  }
}
