// Log-probabilities of drawn classes, and the entropy (core/log_prob.h).
//
//   row_statistics       a team streams once over its row
//   log_probs            a thread for each draw, and for each row's entropy
//   log_prob_gradients   a team streams once more: the gradients as if no class had been drawn
//   drawn_gradients      a thread for each draw: those of the drawn classes
#pragma once

#include "../core/log_prob.h"
#include "scores.cuh"

namespace gumbel_ext::cuda {

constexpr int kLogProbThreads = 128;

// The exponentials of a pack's logits, shifted, relative to `max`, and their exponents, base 2, in the logits' place.
template <typename C, int kClasses>
__device__ __forceinline__ void exponentiate_with_log2(C (&powers)[kClasses], C (&logits)[kClasses],
                                                       const ExponentScale<C>& scale, C max) {
  const bool is_near = !scale.is_extreme && Exponential<C>::is_near(scale.scale, max);
  const auto exponential = Exponential<C>::of_row(scale.scale, scale.reach, max, is_near);
#pragma unroll
  for (int i = 0; i < kClasses; ++i) {
    const auto [power, log2] = exponential.with_log2(is_near ? logits[i] : scale.half_difference(logits[i], max));
    powers[i] = power;
    logits[i] = log2;
  }
}

// How many packs each of a team's threads has of a row.
template <typename Span, int kClasses>
__device__ __forceinline__ int packs_of(const Span& span, const Shape& shape) {
  const int at_once = span.team.size() * kClasses;
  return (static_cast<int>(shape.classes) + at_once - 1) / at_once;
}

struct CombineStatistics {
  double temperature;
  __device__ __forceinline__ RowStatistics operator()(const RowStatistics& a, const RowStatistics& b) const {
    return together(a, b, temperature);
  }
};

template <typename C, int kClasses>
__device__ __forceinline__ RowStatistics pack_statistics(C (&logits)[kClasses], const ExponentScale<C>& scale,
                                                         bool is_certain) {
  C max = logits[0];
  int first = 0;
#pragma unroll
  for (int i = 1; i < kClasses; ++i)
    if (beats(logits[i], max)) {
      max = logits[i];
      first = i;
    }
  RowStatistics pack{static_cast<double>(max), 0, 0};
  if (is_undefined(max) || is_certain) return pack;
  C powers[kClasses];
  exponentiate_with_log2(powers, logits, scale, max);
#pragma unroll
  for (int i = 0; i < kClasses; ++i) {
    if (i == first) powers[i] = 0;
    logits[i] *= powers[i];
  }
  pack.others = static_cast<double>(tree_sum<kClasses>(powers)) * FloatTraits<C>::kExp2Unshift;
  pack.weighted = static_cast<double>(tree_sum<kClasses>(logits)) * FloatTraits<C>::kExp2Unshift * -kLn2;
  return pack;
}

template <typename T, typename Team>
__global__ void __launch_bounds__(kLogProbThreads, 2) row_statistics(const __grid_constant__ IndexJob job) {
  using C = Compute<T>;
  constexpr int kClasses = kPackClasses<T>;
  GUMBEL_EXT_SHARED(typename Team::Scratch, scratch);
  const Team team{scratch};
  for (std::int64_t base = team.first(); base < job.scores.shape.rows; base += team.step()) {
    const Span<Team, kClasses> span(team, job.scores.shape, base);
    const Logits<T, kClasses> row(job.scores, span.row, 0);
    const double temperature = temperature_of(job.temperature, span.row, /*may_be_zero=*/true);
    const ExponentScale<C> scale(temperature > 0 ? temperature : 1);
    const CombineStatistics combine{temperature};
    RowStatistics mine{-__builtin_inf(), 0, 0};
    for (int p = 0; p < packs_of<decltype(span), kClasses>(span, job.scores.shape); ++p) {
      C logits[kClasses];
      row.load(logits, span.first(p), span.count);
      mine = combine(mine, pack_statistics(logits, scale, temperature == 0));
    }
    mine = team.combine(mine, combine);
    if (!(temperature == temperature)) mine.max = temperature;
    if (team.rank() == 0 && span.count > 0) reinterpret_cast<RowStatistics*>(job.statistics)[span.row] = mine;
  }
}

// A logit; -infinity where the mask is false.
template <typename T>
__device__ __forceinline__ double logit_at(const LogProbJob& job, std::int64_t row, std::int64_t cls) {
  if (job.mask && !*Row<std::uint8_t>::template of<1>(job.mask, row, cls).data) return -__builtin_inf();
  return static_cast<double>(widen(*Row<T>::template of<1>(job.logits, row, cls).data));
}

// body(i) for the thread's share of n.
template <typename Body>
__device__ __forceinline__ void for_each(std::int64_t n, Body body) {
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) body(i);
}

template <typename T>
__global__ void __launch_bounds__(kLogProbThreads, 2) log_probs(const __grid_constant__ LogProbJob job) {
  using C = Compute<T>;
  const std::int64_t draws = job.shape.rows * job.draws;
  for_each(draws + job.shape.rows, [&](std::int64_t i) {
    if (i >= draws) {
      static_cast<C*>(job.entropy)[i - draws] = static_cast<C>(answers_of(job, i - draws).entropy());
      return;
    }
    const std::int64_t row = divide(i, job.draws).quotient;
    const double logit = logit_at<T>(job, row, job.index[i]);
    const bool is_first = job.index[i] == job.index[row * job.draws];
    static_cast<C*>(job.log_prob)[i] = static_cast<C>(answers_of(job, row).log_prob(logit, is_first));
  });
}

// Whether a class is one of this row's: of a part of the classes, draws may have hit others.
__device__ __forceinline__ bool is_here(const LogProbJob& job, std::int64_t cls) {
  return cls >= 0 && cls < job.shape.classes;
}

// The gradient of a draw's log-probability.
template <typename C>
__device__ __forceinline__ double grad_of_draw(const LogProbBackwardJob& job, std::int64_t i) {
  return job.grad_log_prob ? static_cast<double>(static_cast<const C*>(job.grad_log_prob)[i]) : 0;
}
template <typename C>
__device__ __forceinline__ double grad_of_entropy(const LogProbBackwardJob& job, std::int64_t row) {
  return job.grad_entropy ? static_cast<double>(static_cast<const C*>(job.grad_entropy)[row]) : 0;
}

// The gradients of a pack, as if no class had been drawn; returns what it adds to the temperature's.
template <typename C, int kClasses>
__device__ __forceinline__ double pack_gradients(C (&gradients)[kClasses], C (&logits)[kClasses],
                                                 const AnswersGradient& exact, const FastAnswersGradient<C>& fast,
                                                 const ExponentScale<C>& scale, bool need_temperature) {
  double sum = 0;
  if (!fast.is_possible) {
#pragma unroll
    for (int i = 0; i < kClasses; ++i) {
      const double distance = -exact.answers.minus_distance(static_cast<double>(logits[i]));
      const double power = exponential(-distance);
      gradients[i] = static_cast<C>(exact.of(power, distance));
      if (need_temperature) sum += exact.temperature_term(power, distance);
    }
    return sum;
  }
  C powers[kClasses];
  exponentiate_with_log2(powers, logits, scale, static_cast<C>(exact.answers.row.max));
#pragma unroll
  for (int i = 0; i < kClasses; ++i) {
    gradients[i] = fast(powers[i], logits[i]);
    if (need_temperature)
      sum += exact.temperature_term(static_cast<double>(powers[i]) * FloatTraits<C>::kExp2Unshift,
                                    -kLn2 * static_cast<double>(logits[i]));
  }
  return sum;
}

template <typename T, typename Team>
__global__ void __launch_bounds__(kLogProbThreads, 2)
    log_prob_gradients(const __grid_constant__ LogProbBackwardJob job) {
  using C = Compute<T>;
  constexpr int kClasses = kPackClasses<T>;
  GUMBEL_EXT_SHARED(typename Team::Scratch, scratch);
  const Team team{scratch};
  const LogProbJob& in = job.forward;
  for (std::int64_t base = team.first(); base < in.shape.rows; base += team.step()) {
    const Span<Team, kClasses> span(team, in.shape, base);
    const RowAnswers answers = answers_of(in, span.row);
    const bool is_certain = answers.temperature == 0;
    double draws = 0, temperature_sum = 0;
    for (std::int64_t d = team.rank(); d < in.draws; d += team.size())
      draws += grad_of_draw<C>(job, span.row * in.draws + d);
    draws = team.combine(draws, Plus());
    const RowAnswers some(answers.is_defined() ? answers.row : RowStatistics{0, 0, 0},
                          is_certain ? 1 : answers.temperature);
    const AnswersGradient gradient(some, draws, grad_of_entropy<C>(job, span.row));
    const FastAnswersGradient<C> fast(gradient);
    const ExponentScale<C> scale(some.temperature);
    const Logits<T, kClasses> row(in.logits, in.mask, span.row, 0);
    const Row<T> out = Row<T>::template of<kClasses>(job.grad_logits, span.row, 0);
    const C filler = answers.is_defined() ? C(0) : C(__builtin_nanf(""));
    for (int p = 0; p < packs_of<decltype(span), kClasses>(span, in.shape); ++p) {
      C logits[kClasses], gradients[kClasses];
      row.load(logits, span.first(p), span.count);
      const double sum = pack_gradients(gradients, logits, gradient, fast, scale, job.grad_temperature != nullptr);
      temperature_sum += sum;
#pragma unroll
      for (int i = 0; i < kClasses; ++i)
        if (is_certain || !answers.is_defined()) gradients[i] = filler;
      store_numbers<T>(out, span.first(p), span.count, gradients);
    }
    if (!job.grad_temperature) continue;
    for (std::int64_t d = team.rank(); d < in.draws; d += team.size()) {
      const std::int64_t i = span.row * in.draws + d;
      if (!is_here(in, in.index[i])) continue;
      const double distance = -some.minus_distance(logit_at<T>(in, span.row, in.index[i]));
      temperature_sum += gradient.drawn_temperature_term(distance, grad_of_draw<C>(job, i));
    }
    temperature_sum = team.combine(temperature_sum, Plus());
    if (team.rank() == 0 && span.count > 0)
      job.grad_temperature[span.row] =
          is_certain || !answers.is_defined() ? static_cast<double>(filler) : temperature_sum / some.temperature;
  }
}

template <typename T>
__global__ void __launch_bounds__(kLogProbThreads, 2) drawn_gradients(const __grid_constant__ LogProbBackwardJob job) {
  using C = Compute<T>;
  const LogProbJob& in = job.forward;
  for_each(in.shape.rows * in.draws, [&](std::int64_t i) {
    const std::int64_t row = divide(i, in.draws).quotient, first = row * in.draws, cls = in.index[i];
    const RowAnswers answers = answers_of(in, row);
    if (!answers.is_defined() || answers.temperature == 0 || !is_here(in, cls)) return;
    double weight = 0, draws = 0;  // in the draws' order, of those of this class
    for (std::int64_t d = first; d < first + in.draws; ++d) {
      const bool is_same = in.index[d] == cls;
      if (is_same && d < i) return;  // that thread's
      draws += grad_of_draw<C>(job, d);
      if (is_same) weight += grad_of_draw<C>(job, d);
    }
    const AnswersGradient gradient(answers, draws, grad_of_entropy<C>(job, row));
    const double distance = -answers.minus_distance(logit_at<T>(in, row, cls));
    narrow(static_cast<C>(gradient.of_drawn(distance, weight)),
           *Row<T>::template of<1>(job.grad_logits, row, cls).data);
  });
}

}  // namespace gumbel_ext::cuda
