// The argument checks, once for every device: of shapes, dtypes, devices and numbers, so that they serve tensors
// without data too. Elsewhere is what needs more: layouts, and devices without kernels (gumbel_ext.cpp); the values of
// a tau a row (device_operators.h); types of Python (python/module.cpp).
#pragma once

#include <ATen/WrapDimUtils.h>

#include <cmath>

#include "arguments.h"
#include "core/job.h"

namespace gumbel_ext {

constexpr std::int64_t kDraws = std::int64_t(1) << 31;    // of a row
constexpr std::int64_t kClasses = std::int64_t(1) << 34;  // whose noise differs

inline bool is_supported(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16;
}

// Sparse, quantized, nested and MKL-DNN tensors: the dispatcher's own words for them are a page long.
inline void check_dense(const char* name, const at::Tensor& tensor) {
  const bool dense = tensor.layout() == at::kStrided && !tensor.is_nested() && !tensor.is_quantized();
  const char* kind = tensor.is_nested() ? "nested" : tensor.is_quantized() ? "quantized" : "";
  TORCH_CHECK_TYPE(dense, name, ": expected a dense tensor, got a ", kind, *kind ? " " : "", tensor.layout(), " one");
}

inline void check_logits(const at::Tensor& logits) {
  const auto type = logits.scalar_type();
  TORCH_CHECK_TYPE(is_supported(type), "logits: expected float32, float64, float16 or bfloat16, got ", type);
}

// Whether a tensor stands for one number, which the host reads: it lies on the CPU, wherever the logits are.
inline bool is_number(const at::Tensor& tensor) {
  return tensor.dim() == 0 && tensor.device().is_cpu();
}

inline void check_same_device(const char* name, const at::Tensor& tensor, const at::Tensor& logits) {
  TORCH_CHECK_VALUE(tensor.device() == logits.device(), name, ": expected a tensor on ", logits.device(),
                    ", where the logits are, got one on ", tensor.device());
}

// A temperature: positive and finite; zero too where that means greedy.
inline void check_temperature(const char* name, double value, bool may_be_zero) {
  TORCH_CHECK_VALUE(std::isfinite(value) && (may_be_zero ? value >= 0 : value > 0), name, ": expected a ",
                    may_be_zero ? "finite number that is not negative" : "positive finite number", ", got ", value);
}

// Broadcasting to the logits' shape, with size 1 along `without` where that is a dimension.
inline bool broadcasts(const at::Tensor& tensor, const at::Tensor& logits, std::int64_t without) {
  const auto from = tensor.sym_sizes(), to = logits.sym_sizes();
  const std::int64_t missing = std::int64_t(to.size()) - std::int64_t(from.size());
  if (missing < 0) return false;
  for (std::int64_t d = 0; d < std::int64_t(from.size()); ++d)
    if (from[d] != 1 && (d + missing == without || from[d] != to[d + missing])) return false;
  return true;
}

inline void check_mask(const at::Tensor& mask, const at::Tensor& logits) {
  TORCH_CHECK_TYPE(mask.scalar_type() == at::kBool, "mask: expected a bool tensor, got ", mask.scalar_type());
  check_same_device("mask", mask, logits);
  TORCH_CHECK_VALUE(broadcasts(mask, logits, -1), "mask: expected a shape that broadcasts to the logits' ",
                    logits.sym_sizes(), ", got ", mask.sym_sizes());
}

inline void check_temperature_rows(const char* name, const at::Tensor& rows, const at::Tensor& logits,
                                   std::int64_t dim) {
  const auto type = rows.scalar_type();
  TORCH_CHECK_TYPE(at::isFloatingType(type) || at::isIntegralType(type, /*includeBool=*/false), name,
                   ": expected a number or a tensor of real numbers, got a ", type, " tensor");
  if (is_number(rows)) return;
  check_same_device(name, rows, logits);
  TORCH_CHECK_VALUE(broadcasts(rows, logits, dim), name, ": expected a shape that broadcasts to the logits' ",
                    logits.sym_sizes(), " with size 1 along dim ", dim, ", got ", rows.sym_sizes());
}

// The seeds of rows whose shape is `sizes` without dimension `dim`.
inline void check_seed(c10::SymIntArrayRef sizes, std::int64_t dim, at::Device device, const OptionalSeed& seed,
                       const OptionalTensor& row_seeds, const OptionalGenerator& generator) {
  TORCH_CHECK_VALUE(!(generator.has_value() && (seed.has_value() || row_seeds.has_value())),
                    "seed, generator: expected at most one of the two, got both");
  TORCH_CHECK_VALUE(!generator.has_value() || device.is_meta() || generator->device().type() == device.type(),
                    "generator: expected one on ", device, ", where the logits are, got one on ", generator->device());
  if (!row_seeds.has_value()) return;
  TORCH_CHECK_TYPE(row_seeds->scalar_type() == at::kLong, "seed: expected an int or an int64 tensor, got a ",
                   row_seeds->scalar_type(), " tensor");
  TORCH_CHECK_VALUE(row_seeds->device() == device, "seed: expected a tensor on ", device, ", got one on ",
                    row_seeds->device());
  c10::SymDimVector expected(sizes.begin(), sizes.end());
  if (!expected.empty()) expected.erase(expected.begin() + dim);
  TORCH_CHECK_VALUE(row_seeds->sym_sizes() == c10::SymIntArrayRef(expected), "seed: expected one a row, shape ",
                    c10::SymIntArrayRef(expected), ", got ", row_seeds->sym_sizes());
}

inline void check_numbers(const OptionalNumbers& numbers, std::int64_t ndim) {
  TORCH_CHECK_VALUE(!numbers.has_value() || std::int64_t(numbers->size()) == ndim + 2,
                    "numbers: expected the first row's, the first class's and a stride for each dimension, ", ndim + 2,
                    ", got ", numbers.has_value() ? numbers->size() : 0);
}

// Checks all of them; returns `dim` counted from the front.
inline std::int64_t check_arguments(const Arguments& args, const char* temperature_name, bool may_be_zero) {
  check_logits(args.logits);
  const std::int64_t dim = at::maybe_wrap_dim(args.dim, args.logits.dim());
  if (args.tau_rows.has_value())
    check_temperature_rows(temperature_name, *args.tau_rows, args.logits, dim);
  else
    check_temperature(temperature_name, args.tau, may_be_zero);
  if (args.mask.has_value()) check_mask(*args.mask, args.logits);
  check_seed(args.logits.sym_sizes(), dim, args.logits.device(), args.seed, args.row_seeds, args.generator);
  check_numbers(args.numbers, args.logits.dim());
  return dim;
}

// The same for a sample with an estimator's gradient: its temperatures T and tau.
inline std::int64_t check_sample(const Arguments& args, double tau, const OptionalTensor& tau_rows) {
  const std::int64_t dim = check_arguments(args, "temperature", /*may_be_zero=*/false);
  if (tau_rows.has_value())
    check_temperature_rows("tau", *tau_rows, args.logits, dim);
  else
    check_temperature("tau", tau, /*may_be_zero=*/false);
  return dim;
}

inline Estimator to_estimator(c10::string_view name) {
  if (name == "gumbel") return Estimator::kGumbel;
  if (name == "softmax") return Estimator::kSoftmax;
  if (name == "reinmax") return Estimator::kReinmax;
  TORCH_CHECK_VALUE(name == "rao", "estimator: expected 'gumbel', 'softmax', 'reinmax' or 'rao', got '", name, "'");
  return Estimator::kRao;
}

inline void check_num_noises(std::int64_t num_noises) {
  TORCH_CHECK_VALUE(num_noises >= 1 && num_noises < (std::int64_t(1) << 31),
                    "num_noises: expected 1 <= num_noises < 2^31, got ", num_noises);
}

// The matrices whose rows are chosen: [..., classes, size], whose first dimensions broadcast with the logits' without
// `dim`.
inline void check_weight(const at::Tensor& weight, const at::Tensor& logits, std::int64_t dim) {
  TORCH_CHECK_TYPE(is_supported(weight.scalar_type()), "weight: expected float32, float64, float16 or bfloat16, got ",
                   weight.scalar_type());
  check_same_device("weight", weight, logits);
  dim = at::maybe_wrap_dim(dim, logits.dim());
  c10::SymDimVector rows(logits.sym_sizes().begin(), logits.sym_sizes().end());
  const c10::SymInt classes = rows.empty() ? c10::SymInt(1) : rows[dim];
  if (!rows.empty()) rows.erase(rows.begin() + dim);
  const auto sizes = weight.sym_sizes();
  bool fits = weight.dim() >= 2 && std::size_t(weight.dim()) - 2 <= rows.size() && sizes[weight.dim() - 2] == classes;
  for (std::int64_t d = weight.dim() - 3, r = std::int64_t(rows.size()) - 1; fits && d >= 0; --d, --r)
    fits = sizes[d] == 1 || sizes[d] == rows[r];
  TORCH_CHECK_VALUE(fits, "weight: expected shape [..., ", classes, ", size], whose first dimensions broadcast to ",
                    c10::SymIntArrayRef(rows), ", got ", sizes);
}

// The shape of the index: one for each row, samples last.
inline c10::SymDimVector index_shape(const at::Tensor& logits, std::int64_t dim,
                                     const std::optional<c10::SymInt>& num_samples) {
  c10::SymDimVector shape(logits.sym_sizes().begin(), logits.sym_sizes().end());
  if (!shape.empty()) {
    TORCH_CHECK_INDEX(shape[dim] != 0, "logits: expected at least one class along dim ", dim, ", got shape ",
                      logits.sym_sizes());
    shape.erase(shape.begin() + dim);
  }
  if (num_samples.has_value()) {
    TORCH_CHECK_VALUE(*num_samples >= 0 && *num_samples < kDraws, "num_samples: expected 0 <= num_samples < 2^31, got ",
                      *num_samples);
    shape.push_back(*num_samples);
  }
  return shape;
}

inline void check_noise_size(c10::SymIntArrayRef size) {
  for (const c10::SymInt& n : size) TORCH_CHECK_VALUE(n >= 0, "size: expected no negative number, got ", size);
}

// Where noise of this size lies in a larger whole.
inline void check_offsets(c10::SymIntArrayRef size, const c10::SymInt& cls, const c10::SymInt& row,
                          const OptionalTensor& row_seeds) {
  const c10::SymInt classes = size.empty() ? c10::SymInt(1) : size.back();
  TORCH_CHECK_VALUE(cls >= 0 && cls + classes <= kClasses, "class_offset: expected 0 <= class_offset <= 2^34 - ",
                    classes, ", got ", cls);
  TORCH_CHECK_VALUE(row >= 0, "row_offset: expected no negative number, got ", row);
  TORCH_CHECK_VALUE(row == 0 || !row_seeds.has_value(),
                    "row_offset: expected 0 with a seed for each row, which all have number 0, got ", row);
}

// Noise like a tensor: its last dimension is the class.
inline void check_noise(const at::Tensor& like, const OptionalSeed& seed, const OptionalTensor& row_seeds,
                        const OptionalGenerator& generator, const OptionalNumbers& numbers, std::int64_t draw) {
  const auto type = like.scalar_type();
  TORCH_CHECK_TYPE(is_supported(type), "dtype: expected float32, float64, float16 or bfloat16, got ", type);
  check_seed(like.sym_sizes(), like.dim() - 1, like.device(), seed, row_seeds, generator);
  check_numbers(numbers, like.dim());
  TORCH_CHECK_VALUE(draw >= 0 && draw < kDraws, "draw: expected 0 <= draw < 2^31, got ", draw);
}

// Noise of one class a row and draw: rows, then draws.
inline void check_noise_at(const at::Tensor& classes, at::ScalarType dtype, const OptionalSeed& seed,
                           const OptionalTensor& row_seeds) {
  TORCH_CHECK_TYPE(classes.scalar_type() == at::kLong && classes.dim() > 0,
                   "classes: expected an int64 tensor with draws along its last dimension, got a ",
                   classes.scalar_type(), " tensor of shape ", classes.sym_sizes());
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble, "dtype: expected float32 or float64, got ", dtype);
  TORCH_CHECK_VALUE(seed.has_value() != row_seeds.has_value(), "seed, row_seeds: expected one of the two, got ",
                    seed.has_value() ? "both" : "neither");
  check_seed(classes.sym_sizes(), classes.dim() - 1, classes.device(), seed, row_seeds, {});
}

// The backward operator's tensors, which autograd passes; returns `dim` counted from the front.
inline std::int64_t check_backward(const at::Tensor& grad, const at::Tensor& relaxed, std::int64_t dim) {
  check_logits(relaxed);
  TORCH_CHECK_VALUE(grad.sym_sizes() == relaxed.sym_sizes() && grad.scalar_type() == relaxed.scalar_type(),
                    "grad: expected shape ", relaxed.sym_sizes(), " and dtype ", relaxed.scalar_type(), ", got shape ",
                    grad.sym_sizes(), " and dtype ", grad.scalar_type());
  check_same_device("grad", grad, relaxed);
  return at::maybe_wrap_dim(dim, relaxed.dim());
}

// How many of the classes along `dim`, counted from the front, are chosen.
inline void check_k(const at::Tensor& logits, std::int64_t dim, std::int64_t k) {
  const c10::SymInt classes = logits.dim() > 0 ? logits.sym_size(dim) : c10::SymInt(1);
  TORCH_CHECK_VALUE(k >= 1 && classes >= k, "k: expected 1 <= k <= ", classes, ", the number of classes along dim ",
                    dim, ", got ", k);
}

// The type of the scores that are kept: the working precision.
inline at::ScalarType scores_type(at::ScalarType logits) {
  return logits == at::kDouble ? at::kDouble : at::kFloat;
}

// The log-probabilities of a draw: tensors that come from it; returns `dim` counted from the front.
inline std::int64_t check_log_prob(const LogProbArguments& args) {
  check_logits(args.logits);
  const std::int64_t dim = at::maybe_wrap_dim(args.dim, args.logits.dim());
  const auto rows = index_shape(args.logits, dim, {});
  const auto check_rows = [&](const char* name, const at::Tensor& tensor, at::ScalarType type) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == type, name, ": expected ", type, ", got ", tensor.scalar_type());
    check_same_device(name, tensor, args.logits);
    const auto sizes = tensor.sym_sizes();
    TORCH_CHECK_VALUE(sizes.size() >= rows.size() && sizes.slice(0, rows.size()) == c10::SymIntArrayRef(rows), name,
                      ": expected one a row, shape ", c10::SymIntArrayRef(rows), ", got ", sizes);
  };
  check_rows("index", args.index, at::kLong);
  check_rows("statistics", args.statistics, at::kDouble);
  return dim;
}
inline std::int64_t check_log_prob_backward(const OptionalTensor& grad_log_prob, const OptionalTensor& grad_entropy,
                                            const LogProbArguments& args) {
  const std::int64_t dim = check_log_prob(args);
  const auto check_grad = [&](const OptionalTensor& grad, c10::SymIntArrayRef sizes) {
    const auto type = scores_type(args.logits.scalar_type());
    TORCH_CHECK_VALUE(!grad || (grad->sym_sizes() == sizes && grad->scalar_type() == type), "grad: expected shape ",
                      sizes, " and dtype ", type, ", got another");
  };
  check_grad(grad_log_prob, args.index.sym_sizes());
  check_grad(grad_entropy, index_shape(args.logits, dim, {}));
  return dim;
}

// The gradient of relaxed_top_k: tensors that autograd passes; returns `dim` counted from the front.
inline std::int64_t check_top_k_backward(const at::Tensor& grad, const at::Tensor& scores, std::int64_t k,
                                         const at::Tensor& tau, std::int64_t dim) {
  check_logits(grad);
  TORCH_CHECK_VALUE(grad.sym_sizes() == scores.sym_sizes() && scores_type(grad.scalar_type()) == scores.scalar_type(),
                    "scores: expected shape ", grad.sym_sizes(), " and dtype ", scores_type(grad.scalar_type()),
                    ", got shape ", scores.sym_sizes(), " and dtype ", scores.scalar_type());
  check_same_device("scores", scores, grad);
  dim = at::maybe_wrap_dim(dim, grad.dim());
  check_k(grad, dim, k);
  check_temperature_rows("tau", tau, grad, dim);
  return dim;
}

}  // namespace gumbel_ext
