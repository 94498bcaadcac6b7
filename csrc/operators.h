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
template <typename Result>
using IndexSignature = Result(const at::Tensor& logits, const OptionalTensor& mask, double temperature,
                              const OptionalTensor& temperature_rows, OptionalSeed seed,
                              const OptionalTensor& row_seeds, const OptionalGenerator& generator, std::int64_t dim,
                              std::optional<c10::SymInt> num_samples, OptionalNumbers numbers, std::int64_t call);

using SampleSignature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& logits, const OptionalTensor& mask,
                                                           double temperature, const OptionalTensor& temperature_rows,
                                                           double tau, const OptionalTensor& tau_rows,
                                                           OptionalSeed seed, const OptionalTensor& row_seeds,
                                                           const OptionalGenerator& generator, std::int64_t dim,
                                                           OptionalNumbers numbers, std::int64_t call);

// What the dispatcher calls for kernel(Arguments), or, of the index, kernel(Arguments, num_samples), or, of samples,
// kernel(Arguments, tau, tau_rows).
template <auto kernel>
auto forward_kernel(const at::Tensor& logits, const OptionalTensor& mask, double tau, const OptionalTensor& tau_rows,
                    bool noise, OptionalSeed seed, const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                    std::int64_t dim, OptionalNumbers numbers, std::int64_t call) {
  return kernel(Arguments{logits, mask, tau, tau_rows, noise, seed, row_seeds, generator, dim, numbers, call});
}
template <auto kernel>
auto index_kernel(const at::Tensor& logits, const OptionalTensor& mask, double temperature,
                  const OptionalTensor& temperature_rows, OptionalSeed seed, const OptionalTensor& row_seeds,
                  const OptionalGenerator& generator, std::int64_t dim, std::optional<c10::SymInt> num_samples,
                  OptionalNumbers numbers, std::int64_t call) {
  const bool noise = temperature_rows.has_value() || temperature != 0;
  return kernel(
      Arguments{logits, mask, temperature, temperature_rows, noise, seed, row_seeds, generator, dim, numbers, call},
      num_samples);
}

template <auto kernel>
std::tuple<at::Tensor, at::Tensor> sample_kernel(const at::Tensor& logits, const OptionalTensor& mask,
                                                 double temperature, const OptionalTensor& temperature_rows, double tau,
                                                 const OptionalTensor& tau_rows, OptionalSeed seed,
                                                 const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                                                 std::int64_t dim, OptionalNumbers numbers, std::int64_t call) {
  return kernel(
      Arguments{logits, mask, temperature, temperature_rows, true, seed, row_seeds, generator, dim, numbers, call}, tau,
      tau_rows);
}

template <typename Result>
Result call(const c10::TypedOperatorHandle<ForwardSignature<Result>>& op, const Arguments& args) {
  return op.call(args.logits, args.mask, args.tau, args.tau_rows, args.noise, args.seed, args.row_seeds, args.generator,
                 args.dim, args.numbers, args.call);
}
template <typename Result>
Result call(const c10::TypedOperatorHandle<IndexSignature<Result>>& op, const Arguments& args,
            const std::optional<c10::SymInt>& num_samples) {
  return op.call(args.logits, args.mask, args.tau, args.tau_rows, args.seed, args.row_seeds, args.generator, args.dim,
                 num_samples, args.numbers, args.call);
}

inline std::tuple<at::Tensor, at::Tensor> call(const c10::TypedOperatorHandle<SampleSignature>& op,
                                               const Arguments& args, double tau, const OptionalTensor& tau_rows) {
  return op.call(args.logits, args.mask, args.tau, args.tau_rows, tau, tau_rows, args.seed, args.row_seeds,
                 args.generator, args.dim, args.numbers, args.call);
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
// Its logarithm.
inline const auto& log_relaxed_operator() {
  static const auto op = find_operator<ForwardSignature<at::Tensor>>("gumbel_ext::_log_relaxed");
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
  static const auto op = find_operator<IndexSignature<at::Tensor>>("gumbel_ext::_index");
  return op;
}
// The same, and the rows' statistics, RowStatistics (core/log_prob.h) in a last dimension, float64.
inline const auto& draw_operator() {
  using Pair = std::tuple<at::Tensor, at::Tensor>;
  static const auto op = find_operator<IndexSignature<Pair>>("gumbel_ext::_draw");
  return op;
}
// Both have a sibling that is called from Python alone, _scored_index and _scored_draw, of a part of the classes
// (gumbel_ext/_shards.py): with the best score too, in float64, which is infinite where a low temperature took it out
// of range, although the index is then that of another search.

// The same index, marked (core/job.h), and the call's seed, a tensor of no dimensions: what a gradient can be computed
// from later. `tau` is checked here alone.
inline const auto& sample_operator() {
  static const auto op = find_operator<SampleSignature>("gumbel_ext::_sample");
  return op;
}

// The k best classes of logits / temperature + noise, the best first, and their scores as TopClassesJob has them: both
// shaped as the logits without dim, with a last dimension k. And the rows' statistics, as _draw has them.
using Ranked = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using TopClassesSignature = Ranked(const at::Tensor& logits, std::int64_t k, const OptionalTensor& mask,
                                   double temperature, const OptionalTensor& temperature_rows, OptionalSeed seed,
                                   const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                                   std::int64_t dim, OptionalNumbers numbers, std::int64_t call, bool relative);

struct Ranking {
  std::int64_t k;
  bool relative = true;
};

template <auto kernel>
Ranked top_classes_kernel(const at::Tensor& logits, std::int64_t k, const OptionalTensor& mask, double temperature,
                          const OptionalTensor& temperature_rows, OptionalSeed seed, const OptionalTensor& row_seeds,
                          const OptionalGenerator& generator, std::int64_t dim, OptionalNumbers numbers,
                          std::int64_t call, bool relative) {
  const bool noise = temperature_rows.has_value() || temperature != 0;
  return kernel(
      Arguments{logits, mask, temperature, temperature_rows, noise, seed, row_seeds, generator, dim, numbers, call},
      Ranking{k, relative});
}
inline Ranked call(const c10::TypedOperatorHandle<TopClassesSignature>& op, const Arguments& args,
                   const Ranking& ranking) {
  return op.call(args.logits, ranking.k, args.mask, args.tau, args.tau_rows, args.seed, args.row_seeds, args.generator,
                 args.dim, args.numbers, args.call, ranking.relative);
}
inline const auto& top_classes_operator() {
  static const auto op = find_operator<TopClassesSignature>("gumbel_ext::_top_classes");
  return op;
}

// These scores less the logarithm of the sum of e^((x - max) / T), with the gradient of the classes' log-probabilities.
using TopScoresSignature = at::Tensor(const at::Tensor& found, const at::Tensor& statistics,
                                      const at::Tensor& log_probs);
inline const auto& top_scores_operator() {
  static const auto op = find_operator<TopScoresSignature>("gumbel_ext::_top_scores");
  return op;
}

// ---- Samples with an estimator's gradient ---------------------------------------------------------------------------

#define GUMBEL_EXT_ESTIMATOR_PARAMETERS                                                                             \
  const at::Tensor &logits, const OptionalTensor &mask, double temperature, const OptionalTensor &temperature_rows, \
      double tau, const OptionalTensor &tau_rows, const at::Tensor &index, const OptionalTensor &seed,              \
      const OptionalTensor &row_seeds, std::int64_t estimator, std::int64_t num_noises, std::int64_t dim,           \
      OptionalNumbers numbers, bool drawn
#define GUMBEL_EXT_ESTIMATOR_ARGUMENTS                                                                              \
  EstimatorArguments {                                                                                              \
    logits, mask, temperature, temperature_rows, tau, tau_rows, index, seed, row_seeds, estimator, num_noises, dim, \
        numbers, drawn                                                                                              \
  }

// one_hot(index), or, where `weight` is given, weight[index], with the estimator's gradient for the logits.
// weight: [..., classes, size], whose first dimensions broadcast with the index's.
using ChoiceSignature = at::Tensor(const OptionalTensor& weight, GUMBEL_EXT_ESTIMATOR_PARAMETERS);
// Of a gradient for one_hot(index), those for the logits and, where needed, for temperature and tau, one a row (size 1
// along dim, float64).
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using EstimateSignature = Gradients(const at::Tensor& grad, GUMBEL_EXT_ESTIMATOR_PARAMETERS, bool need_temperature,
                                    bool need_tau);
// one_hot(index), marked, shaped and typed as the logits, whose values are not read.
using OneHotOfSignature = at::Tensor(const at::Tensor& index, const at::Tensor& logits, std::int64_t dim);

template <auto kernel>
at::Tensor choice_kernel(const OptionalTensor& weight, GUMBEL_EXT_ESTIMATOR_PARAMETERS) {
  return kernel(weight, GUMBEL_EXT_ESTIMATOR_ARGUMENTS);
}
template <auto kernel>
Gradients estimate_kernel(const at::Tensor& grad, GUMBEL_EXT_ESTIMATOR_PARAMETERS, bool need_temperature,
                          bool need_tau) {
  return kernel(grad, GUMBEL_EXT_ESTIMATOR_ARGUMENTS, need_temperature, need_tau);
}

// call_choice(weight, args), call_estimate(grad, args, need_temperature, need_tau).
inline at::Tensor call_choice(const OptionalTensor& weight, const EstimatorArguments& a) {
  static const auto op = find_operator<ChoiceSignature>("gumbel_ext::_choice");
  return op.call(weight, a.logits, a.mask, a.temperature, a.temperature_rows, a.tau, a.tau_rows, a.index, a.seed,
                 a.row_seeds, a.estimator, a.num_noises, a.dim, a.numbers, a.drawn);
}
inline Gradients call_estimate(const at::Tensor& grad, const EstimatorArguments& a, bool need_temperature,
                               bool need_tau) {
  static const auto op = find_operator<EstimateSignature>("gumbel_ext::_estimate");
  return op.call(grad, a.logits, a.mask, a.temperature, a.temperature_rows, a.tau, a.tau_rows, a.index, a.seed,
                 a.row_seeds, a.estimator, a.num_noises, a.dim, a.numbers, a.drawn, need_temperature, need_tau);
}
inline const auto& one_hot_of_operator() {
  static const auto op = find_operator<OneHotOfSignature>("gumbel_ext::_one_hot_of");
  return op;
}

// ---- Noise ----------------------------------------------------------------------------------------------------------

// Gumbel noise of one draw shaped, typed and placed as `like`, whose values are not read.
using NoiseSignature = at::Tensor(const at::Tensor& like, OptionalSeed seed, const OptionalTensor& row_seeds,
                                  const OptionalGenerator& generator, OptionalNumbers numbers, std::int64_t call,
                                  std::int64_t draw);

// The noise of one class a row and draw: classes int64, shaped as an index with num_samples; the result in the working
// precision `dtype`. Exactly one of the seeds is given. Requires: no class is negative.
using NoiseAtSignature = at::Tensor(const at::Tensor& classes, at::ScalarType dtype, OptionalSeed seed,
                                    const OptionalTensor& row_seeds);

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

// ---- Log-probabilities ----------------------------------------------------------------------------------------------

// Of drawn classes, one a row or, in a last dimension, several, and the rows' entropies, given the statistics: both in
// the working precision.
using LogProbSignature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& logits, const OptionalTensor& mask,
                                                            double temperature, const OptionalTensor& temperature_rows,
                                                            const at::Tensor& index, const at::Tensor& statistics,
                                                            std::int64_t dim);
// The gradients with respect to the logits, and, where needed, to the temperature, one a row (size 1 along dim,
// float64).
using LogProbBackwardSignature = std::tuple<at::Tensor, at::Tensor>(
    const OptionalTensor& grad_log_prob, const OptionalTensor& grad_entropy, const at::Tensor& logits,
    const OptionalTensor& mask, double temperature, const OptionalTensor& temperature_rows, const at::Tensor& index,
    const at::Tensor& statistics, std::int64_t dim, bool need_temperature);

template <auto kernel>
std::tuple<at::Tensor, at::Tensor> log_prob_kernel(const at::Tensor& logits, const OptionalTensor& mask,
                                                   double temperature, const OptionalTensor& temperature_rows,
                                                   const at::Tensor& index, const at::Tensor& statistics,
                                                   std::int64_t dim) {
  return kernel(LogProbArguments{logits, mask, temperature, temperature_rows, index, statistics, dim});
}
template <auto kernel>
std::tuple<at::Tensor, at::Tensor> log_prob_backward_kernel(const OptionalTensor& grad_log_prob,
                                                            const OptionalTensor& grad_entropy,
                                                            const at::Tensor& logits, const OptionalTensor& mask,
                                                            double temperature, const OptionalTensor& temperature_rows,
                                                            const at::Tensor& index, const at::Tensor& statistics,
                                                            std::int64_t dim, bool need_temperature) {
  return kernel(grad_log_prob, grad_entropy,
                LogProbArguments{logits, mask, temperature, temperature_rows, index, statistics, dim},
                need_temperature);
}

inline std::tuple<at::Tensor, at::Tensor> call_log_prob(const LogProbArguments& a) {
  static const auto op = find_operator<LogProbSignature>("gumbel_ext::_log_prob");
  return op.call(a.logits, a.mask, a.temperature, a.temperature_rows, a.index, a.statistics, a.dim);
}
inline std::tuple<at::Tensor, at::Tensor> call_log_prob_backward(const OptionalTensor& grad_log_prob,
                                                                 const OptionalTensor& grad_entropy,
                                                                 const LogProbArguments& a, bool need_temperature) {
  static const auto op = find_operator<LogProbBackwardSignature>("gumbel_ext::_log_prob_backward");
  return op.call(grad_log_prob, grad_entropy, a.logits, a.mask, a.temperature, a.temperature_rows, a.index,
                 a.statistics, a.dim, need_temperature);
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

struct SoftTopK {
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
                SoftTopK{k, hard});
}
inline std::tuple<at::Tensor, at::Tensor> call(const c10::TypedOperatorHandle<TopKSignature>& op, const Arguments& args,
                                               const SoftTopK& top) {
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
