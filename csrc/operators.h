// The operators behind the public functions. Devices implement these; autograd wraps them; the public functions
// (gumbel_ext.cpp) call them through the dispatcher.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <tuple>

#include "arguments.h"

namespace gumbel_ext {

// ---- Forward --------------------------------------------------------------------------------------------------------

// The dispatcher hands arguments over one by one. Here alone they are parameters: everywhere else they travel as
// Arguments. The schemas (schemas.cpp) must match.
template <typename Result>
using ForwardSignature = Result(const at::Tensor& logits, const OptionalTensor& mask, double tau,
                                const OptionalTensor& tau_rows, bool noise, OptionalSeed seed,
                                const OptionalTensor& row_seeds, const OptionalGenerator& generator, std::int64_t dim,
                                OptionalNumbers numbers, std::int64_t call);
using IndexSignature = at::Tensor(const at::Tensor& logits, const OptionalTensor& mask, double temperature,
                                  const OptionalTensor& temperature_rows, OptionalSeed seed,
                                  const OptionalTensor& row_seeds, const OptionalGenerator& generator, std::int64_t dim,
                                  std::optional<c10::SymInt> num_samples, OptionalNumbers numbers, std::int64_t call);

// What the dispatcher calls for kernel(Arguments), or, of the index, kernel(Arguments, num_samples).
template <auto kernel>
auto forward_kernel(const at::Tensor& logits, const OptionalTensor& mask, double tau, const OptionalTensor& tau_rows,
                    bool noise, OptionalSeed seed, const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                    std::int64_t dim, OptionalNumbers numbers, std::int64_t call) {
  return kernel(Arguments{logits, mask, tau, tau_rows, noise, seed, row_seeds, generator, dim, numbers, call});
}
template <auto kernel>
at::Tensor index_kernel(const at::Tensor& logits, const OptionalTensor& mask, double temperature,
                        const OptionalTensor& temperature_rows, OptionalSeed seed, const OptionalTensor& row_seeds,
                        const OptionalGenerator& generator, std::int64_t dim, std::optional<c10::SymInt> num_samples,
                        OptionalNumbers numbers, std::int64_t call) {
  const bool noise = temperature_rows.has_value() || temperature != 0;
  return kernel(
      Arguments{logits, mask, temperature, temperature_rows, noise, seed, row_seeds, generator, dim, numbers, call},
      num_samples);
}

template <typename Result>
Result call(const c10::TypedOperatorHandle<ForwardSignature<Result>>& op, const Arguments& args) {
  return op.call(args.logits, args.mask, args.tau, args.tau_rows, args.noise, args.seed, args.row_seeds, args.generator,
                 args.dim, args.numbers, args.call);
}
inline at::Tensor call(const c10::TypedOperatorHandle<IndexSignature>& op, const Arguments& args,
                       const std::optional<c10::SymInt>& num_samples) {
  return op.call(args.logits, args.mask, args.tau, args.tau_rows, args.seed, args.row_seeds, args.generator, args.dim,
                 num_samples, args.numbers, args.call);
}

template <typename Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// softmax((logits + noise) / tau).
inline const auto& relaxed_operator() {
  static const auto op = find_operator<ForwardSignature<at::Tensor>>("gumbel_ext::_relaxed");
  return op;
}
// one_hot(argmax(logits + noise)).
inline const auto& one_hot_operator() {
  static const auto op = find_operator<ForwardSignature<at::Tensor>>("gumbel_ext::_one_hot");
  return op;
}
// Both: what _one_hot is where a gradient is wanted.
inline const auto& one_hot_relaxed_operator() {
  using Pair = std::tuple<at::Tensor, at::Tensor>;
  static const auto op = find_operator<ForwardSignature<Pair>>("gumbel_ext::_one_hot_relaxed");
  return op;
}
// argmax(logits / temperature + noise).
inline const auto& index_operator() {
  static const auto op = find_operator<IndexSignature>("gumbel_ext::_index");
  return op;
}

// ---- Noise ----------------------------------------------------------------------------------------------------------

// Gumbel noise shaped, typed and placed as `like`, whose values are not read.
using NoiseSignature = at::Tensor(const at::Tensor& like, OptionalSeed seed, const OptionalTensor& row_seeds,
                                  const OptionalGenerator& generator, OptionalNumbers numbers, std::int64_t call);

inline const auto& noise_operator() {
  static const auto op = find_operator<NoiseSignature>("gumbel_ext::_noise");
  return op;
}

// ---- Backward -------------------------------------------------------------------------------------------------------

// For p = softmax(u / tau), the gradient with respect to u, and with respect to tau, one a row (size 1 along dim,
// float64). Either is undefined where it is not needed.
using BackwardSignature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& grad, const at::Tensor& relaxed,
                                                             double tau, const OptionalTensor& tau_rows,
                                                             std::int64_t dim, bool need_logits, bool need_tau);
// The same, with the gradient with respect to u written over `relaxed`; returns the one with respect to tau.
using BackwardInPlaceSignature = at::Tensor(const at::Tensor& grad, at::Tensor& relaxed, double tau,
                                            const OptionalTensor& tau_rows, std::int64_t dim, bool need_tau);

inline const auto& backward_operator() {
  static const auto op = find_operator<BackwardSignature>("gumbel_ext::_backward");
  return op;
}
inline const auto& backward_in_place_operator() {
  static const auto op = find_operator<BackwardInPlaceSignature>("gumbel_ext::_backward_");
  return op;
}

// ---- Relaxed top-k --------------------------------------------------------------------------------------------------

// The value, and logits + noise, -infinity where the mask is false, in the working precision: of which the gradient is
// made.
using TopKSignature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& logits, std::int64_t k, bool hard,
                                                         const OptionalTensor& mask, double tau,
                                                         const OptionalTensor& tau_rows, OptionalSeed seed,
                                                         const OptionalTensor& row_seeds,
                                                         const OptionalGenerator& generator, std::int64_t dim,
                                                         OptionalNumbers numbers, std::int64_t call);
// The gradients with respect to the logits, and to tau, one a row (size 1 along dim, float64). Either is undefined
// where it is not needed.
using TopKBackwardSignature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& grad, const at::Tensor& scores,
                                                                 std::int64_t k, const at::Tensor& tau,
                                                                 std::int64_t dim, bool need_logits, bool need_tau);

struct TopK {
  std::int64_t k;
  bool hard;
};

template <auto kernel>
std::tuple<at::Tensor, at::Tensor> top_k_kernel(const at::Tensor& logits, std::int64_t k, bool hard,
                                                const OptionalTensor& mask, double tau, const OptionalTensor& tau_rows,
                                                OptionalSeed seed, const OptionalTensor& row_seeds,
                                                const OptionalGenerator& generator, std::int64_t dim,
                                                OptionalNumbers numbers, std::int64_t call) {
  return kernel(Arguments{logits, mask, tau, tau_rows, /*noise=*/true, seed, row_seeds, generator, dim, numbers, call},
                TopK{k, hard});
}
inline std::tuple<at::Tensor, at::Tensor> call(const c10::TypedOperatorHandle<TopKSignature>& op, const Arguments& args,
                                               const TopK& top) {
  return op.call(args.logits, top.k, top.hard, args.mask, args.tau, args.tau_rows, args.seed, args.row_seeds,
                 args.generator, args.dim, args.numbers, args.call);
}

inline const auto& top_k_operator() {
  static const auto op = find_operator<TopKSignature>("gumbel_ext::_top_k");
  return op;
}
inline const auto& top_k_backward_operator() {
  static const auto op = find_operator<TopKBackwardSignature>("gumbel_ext::_top_k_backward");
  return op;
}

}  // namespace gumbel_ext
