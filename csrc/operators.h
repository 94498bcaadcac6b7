// The operators behind the public functions. Devices implement these; autograd wraps them; the public
// functions (ops.cpp) call them through the dispatcher.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <tuple>

namespace gumbel_ext {

using OptionalTensor = std::optional<at::Tensor>;
using OptionalInt = std::optional<std::int64_t>;
using OptionalGenerator = std::optional<at::Generator>;
// How the noise numbers rows that are part of a larger whole: the first row's number and, for each dimension, what a
// step along it adds (along `dim`, nothing); {}: in C order from 0.
using OptionalNumbers = at::OptionalSymIntArrayRef;

// gumbel_ext::_relaxed: softmax((logits + noise) / tau), the noise only where `noise` is set.
using RelaxedSignature = at::Tensor(const at::Tensor& logits, const OptionalTensor& mask, double tau,
                                    const OptionalTensor& tau_rows, bool noise, OptionalInt seed,
                                    const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                                    std::int64_t dim, OptionalNumbers numbers);

// gumbel_ext::_one_hot: one_hot(argmax(logits + noise)), and, with `keep_relaxed`, what _relaxed gives
// (else an empty tensor).
using OneHotSignature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& logits, const OptionalTensor& mask,
                                                           double tau, const OptionalTensor& tau_rows, bool noise,
                                                           OptionalInt seed, const OptionalTensor& row_seeds,
                                                           const OptionalGenerator& generator, std::int64_t dim,
                                                           bool keep_relaxed, OptionalNumbers numbers);

// gumbel_ext::_index: argmax(logits / temperature + noise).
using IndexSignature = at::Tensor(const at::Tensor& logits, const OptionalTensor& mask, double temperature,
                                  const OptionalTensor& temperature_rows, OptionalInt seed,
                                  const OptionalTensor& row_seeds, const OptionalGenerator& generator, std::int64_t dim,
                                  std::optional<c10::SymInt> num_samples, OptionalNumbers numbers);

// gumbel_ext::_noise: Gumbel noise shaped, typed and placed as `like`, whose values are not read.
using NoiseSignature = at::Tensor(const at::Tensor& like, OptionalInt seed, const OptionalTensor& row_seeds,
                                  const OptionalGenerator& generator, OptionalNumbers numbers);

// gumbel_ext::_backward: for p = softmax(u / tau), the gradient with respect to u, and with respect to
// tau, one a row (size 1 along dim, float64). Either is undefined where it is not needed.
using BackwardSignature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& grad, const at::Tensor& relaxed,
                                                             double tau, const OptionalTensor& tau_rows,
                                                             std::int64_t dim, bool need_logits, bool need_tau);

// gumbel_ext::_backward_: the same, with the gradient with respect to u written over `relaxed`; returns the
// one with respect to tau.
using BackwardInPlaceSignature = at::Tensor(const at::Tensor& grad, at::Tensor& relaxed, double tau,
                                            const OptionalTensor& tau_rows, std::int64_t dim, bool need_tau);

template <typename Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

inline const auto& relaxed_operator() {
  static const auto op = find_operator<RelaxedSignature>("gumbel_ext::_relaxed");
  return op;
}
inline const auto& one_hot_operator() {
  static const auto op = find_operator<OneHotSignature>("gumbel_ext::_one_hot");
  return op;
}
inline const auto& index_operator() {
  static const auto op = find_operator<IndexSignature>("gumbel_ext::_index");
  return op;
}
inline const auto& noise_operator() {
  static const auto op = find_operator<NoiseSignature>("gumbel_ext::_noise");
  return op;
}
inline const auto& backward_operator() {
  static const auto op = find_operator<BackwardSignature>("gumbel_ext::_backward");
  return op;
}
inline const auto& backward_in_place_operator() {
  static const auto op = find_operator<BackwardInPlaceSignature>("gumbel_ext::_backward_");
  return op;
}

}  // namespace gumbel_ext
