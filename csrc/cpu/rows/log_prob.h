// The log-probabilities of drawn classes, the entropy, and their gradient (core/log_prob.h).
#pragma once

#include "../tile/statistics.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// A logit; -infinity where the mask is false.
template <typename T>
GUMBEL_EXT_INLINE double logit_at(const LogProbJob& job, std::int64_t row, std::int64_t cls) {
  if (job.mask && *element<std::uint8_t>(job.mask, row, cls) == 0) return -__builtin_inf();
  return static_cast<double>(widen(*element<T>(job.logits, row, cls)));
}

template <typename T>
void log_prob_rows(const LogProbJob& job, std::int64_t first, std::int64_t rows) {
  using C = Compute<T>;
  for (std::int64_t row = first; row < first + rows; ++row) {
    const RowAnswers answers = answers_of(job, row);
    static_cast<C*>(job.entropy)[row] = static_cast<C>(answers.entropy());
    for (std::int64_t i = row * job.draws; i < (row + 1) * job.draws; ++i)
      static_cast<C*>(job.log_prob)[i] = static_cast<C>(
          answers.log_prob(logit_at<T>(job, row, job.index[i]), job.index[i] == job.index[row * job.draws]));
  }
}

// The gradients of a row's tile, as if no class had been drawn, from its logits, which are padded and overwritten.
// Returns what they add to T dT, where that is wanted.
template <typename C>
GUMBEL_EXT_INLINE double answers_gradients(C* out, C* logits, std::int64_t n, const AnswersGradient& exact,
                                           bool need_temperature) {
  const FastAnswersGradient<C> fast(exact);
  double sum = 0;
  if (!fast.is_possible) {
    for (std::int64_t k = 0; k < n; ++k) {
      const double distance = -exact.answers.minus_distance(static_cast<double>(logits[k]));
      const double power = exponential(-distance);
      out[k] = static_cast<C>(exact.of(power, distance));
      if (need_temperature) sum += exact.temperature_term(power, distance);
    }
    return sum;
  }
  const C* scores = logits;
  const auto exponential = exponential_of_row(logits, scores, padded<C>(n), ExponentScale<C>(exact.answers.temperature),
                                              static_cast<C>(exact.answers.row.max));
  for (std::int64_t k = 0; k < (need_temperature ? n : 0); ++k) {
    const auto [power, log2] = exponential.with_log2(logits[k]);
    sum += exact.temperature_term(static_cast<double>(power) * FloatTraits<C>::kExp2Unshift,
                                  -kLn2 * static_cast<double>(log2));
  }
#pragma omp simd
  for (std::int64_t k = 0; k < padded<C>(n); ++k) {
    const auto [power, log2] = exponential.with_log2(logits[k]);
    out[k] = fast(power, log2);
  }
  return sum;
}

// `drawn`, [rows][draws]: the classes that the draws of a row have hit, each once, in their order; after the last,
// classes that do not exist.
template <typename T>
void log_prob_backward_tile(const LogProbBackwardJob& job, const Plan& plan, const GroupState& group,
                            std::int64_t tile_index, const DrawnClass* drawn, Workspace workspace) {
  using C = Compute<T>;
  const LogProbJob& in = job.forward;
  const Tile tile(in.shape, group, tile_index);
  Buffers<C> buffers(in.shape, plan, workspace);
  stage_logits<T>(in.logits, in.mask, tile, buffers);
  C *logits = buffers.scores, *gradients = buffers.noise;
  const RowSink<T> sink = tile.sink<T>(job.grad_logits, buffers.second_staged);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t row = tile.first_row + r;
    const RowAnswers answers = answers_of(in, row);
    double& temperature_sum = group.stats[tile_index * group.rows + r].tau_sum;
    temperature_sum = 0;
    if (!answers.is_defined() || answers.temperature == 0) {
      const C value = answers.is_defined() ? C(0) : C(__builtin_nanf(""));
      temperature_sum = static_cast<double>(value);
      sink.row(r, [&](auto* out) __attribute__((always_inline)) { fill_values(out, tile.width, value); });
      continue;
    }
    double draws = 0;
    const auto* grads = static_cast<const C*>(job.grad_log_prob);
    for (std::int64_t i = row * in.draws; grads && i < (row + 1) * in.draws; ++i)
      draws += static_cast<double>(grads[i]);
    const double entropy = job.grad_entropy ? static_cast<double>(static_cast<const C*>(job.grad_entropy)[row]) : 0;
    const AnswersGradient gradient(answers, draws, entropy);

    copy_logits<T>(logits, r, tile.width, buffers);
    temperature_sum = answers_gradients(gradients, logits, tile.width, gradient, job.grad_temperature != nullptr);
    for (const DrawnClass* hit = drawn + row * in.draws; grads && hit < drawn + (row + 1) * in.draws; ++hit) {
      if (hit->index < tile.begin || hit->index >= tile.begin + tile.width) continue;
      const double distance = -answers.minus_distance(logit_at<T>(in, row, hit->index));
      gradients[hit->index - tile.begin] = static_cast<C>(gradient.of_drawn(distance, hit->weight));
      temperature_sum += gradient.drawn_temperature_term(distance, hit->weight);
    }
    sink.row(r, [&](auto* out) __attribute__((always_inline)) { convert_row(out, gradients, tile.width); });
  }
  sink.finish();
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
