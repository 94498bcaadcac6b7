// The estimators' kernels: the gradients of a one-hot sample (core/estimator.h).
//
//   estimate_rows       a team streams over its row once for every sweep: the softmax's maximum and sum, and <p, dy>
//   estimate_gradients  once more, for all sweeps of a pack of classes at a time: dx is written once, and the sums for
//                       the temperatures with it
//
// Scores are computed anew wherever they are needed: nothing of the rows' size is kept.
#pragma once

#include "../core/estimator.h"
#include "forward.cuh"

namespace gumbel_ext::cuda {

constexpr int kEstimateThreads = 128;

// What estimate_rows leaves of a row, and of each of its sweeps.
struct EstimatedRow {
  double shift;           // is subtracted from the logits before they are divided
  double log_normaliser;  // log sum exp(logits / temperature), less the shift
};
struct EstimatedSweep {
  double max, sum, dot;  // dot: sum exp((score - max) / tau) dy * kGradientScale, then over the sum
};

// A row's softmax and its product with dy, over some of its classes.
template <typename C>
struct CombineSweeps {
  ExponentScale<C> exponent;

  __device__ __forceinline__ EstimatedSweep operator()(const EstimatedSweep& a, const EstimatedSweep& b) const {
    // (Selected number by number: a reference to one of two would have both in memory.)
    const bool a_is_high = a.max >= b.max;
    const double max = a_is_high ? a.max : b.max, low_max = a_is_high ? b.max : a.max;
    const double low_sum = a_is_high ? b.sum : a.sum, low_dot = a_is_high ? b.dot : a.dot;
    const double factor = low_sum > 0 ? exponent.relative(low_max, max) : 0;
    return {max, (a_is_high ? a.sum : b.sum) + low_sum * factor, (a_is_high ? a.dot : b.dot) + low_dot * factor};
  }
};

template <typename T, typename Team>
struct EstimateSpan {
  using C = Compute<T>;
  static constexpr int kClasses = kPackClasses<T>;
  static constexpr double kUnshift = FloatTraits<C>::kExp2Unshift;
  const EstimateJob& job;
  Span<Team, kClasses> span;
  Logits<T, kClasses> logits;
  NoiseKey key;
  RowEstimate row;
  std::int64_t index;
  int packs;  // of a thread

  __device__ __forceinline__ EstimateSpan(const EstimateJob& job, const Team& team, std::int64_t base)
      : job(job),
        span(team, job.scores.shape, base),
        logits(job.scores, span.row, 0),
        key(job.scores.noise, span.row, 0),
        row{job.estimator, temperature_of(job.temperature, span.row, false), temperature_of(job.tau, span.row, false),
            job.num_noises},
        index(job.index[span.row]),
        packs((static_cast<int>(job.scores.shape.classes) + team.size() * kClasses - 1) / (team.size() * kClasses)) {
  }
  __device__ __forceinline__ bool is_undefined_row() const {
    return index < 0 || !(row.temperature == row.temperature) || !(row.tau == row.tau);
  }
  // The winner's score of a conditional sweep.
  __device__ __forceinline__ C winner(const EstimatedRow& kept, std::uint32_t draw) const {
    const int first = static_cast<int>(index / kPhiloxWords * kPhiloxWords);
    C noise[kPhiloxWords];
    words_to_noise(noise, key.words(key.quad(first), draw), key, key.quad(first), draw);
    C g = noise[0];
#pragma unroll
    for (int i = 1; i < kPhiloxWords; ++i)
      if (index - first == i) g = noise[i];
    return static_cast<C>(kept.log_normaliser) + g;
  }
  // The scores of classes [first, first + kClasses); -infinity beyond the row.
  __device__ __forceinline__ void scores(C (&out)[kClasses], const Sweep& sweep, const EstimatedRow& kept, C best,
                                         int first) const {
    logits.load(out, first, span.count);
    if (!sweep.noisy) return;
    const RowQuotient<C> quotient(row.temperature, kept.shift);
#pragma unroll
    for (int i = 0; i < kClasses; ++i) out[i] = quotient.exact(out[i]);
    add_noise(out, key, first, sweep.draw);
    if (!sweep.is_conditional) return;
#pragma unroll
    for (int i = 0; i < kClasses; ++i) out[i] = first + i == index ? best : conditional_score(out[i], best);
  }
  __device__ __forceinline__ void gradient(C (&out)[kClasses], int first) const {
    load_numbers<T>(out, Row<T>::template of<kClasses>(job.grad, span.row, 0), first, span.count, C(0));
  }

  // One pass over the row: the exponentials' sum, and their product with dy * scale.
  __device__ __forceinline__ EstimatedSweep pass(const Sweep& sweep, const EstimatedRow& kept, double scale) const {
    const CombineSweeps<C> combine{ExponentScale<C>(sweep.tau)};
    const C best = sweep.is_conditional ? winner(kept, sweep.draw) : C(0);
    EstimatedSweep mine{-__builtin_inf(), 0, 0};
    for (int p = 0; p < packs; ++p) {
      C values[1][kClasses], dy[kClasses];
      scores(values[0], sweep, kept, best, span.first(p));
      gradient(dy, span.first(p));
      C max = values[0][0];
#pragma unroll
      for (int i = 1; i < kClasses; ++i) max = values[0][i] > max ? values[0][i] : max;
      if (is_undefined(max)) continue;  // nothing but -infinity; NaN is in no row that comes here
      EstimatedSweep pack{static_cast<double>(max), 0, 0};
      pack.sum = static_cast<double>(exponentiate(values, combine.exponent, max));
#pragma unroll
      for (int i = 0; i < kClasses; ++i)
        if (values[0][i] != 0)  // unshifted first: dy may be subnormal
          pack.dot += static_cast<double>(values[0][i]) * kUnshift * (static_cast<double>(dy[i]) * scale);
      mine = combine(mine, pack);
    }
    return span.team.combine(mine, combine);
  }
  // <p, dy> * kGradientScale is its dot over its sum; of scaled numbers where the usual ones overflow.
  __device__ __forceinline__ EstimatedSweep sweep_row(const Sweep& sweep, const EstimatedRow& kept) const {
    constexpr double kSmall = 0x1p-64;
    EstimatedSweep found = pass(sweep, kept, kGradientScale);
    found.sum *= kUnshift;
    found.dot /= found.sum;
    if (found.dot - found.dot == 0) return found;
    const EstimatedSweep scaled = pass(sweep, kept, kGradientScale * kSmall);
    found.dot = scaled.dot / (scaled.sum * kUnshift) / kSmall;
    return found;
  }
  // Where finite quotients by a low temperature could leave the range, the largest logit is subtracted first.
  __device__ __forceinline__ EstimatedRow row_constants() const {
    EstimatedRow kept{0, 0};
    if (!takes_noise(job.estimator)) return kept;
    if (row.temperature < 1) kept.shift = pass({1, 1, false, false, 0}, kept, 0).max;
    if (job.estimator != Estimator::kRao) return kept;
    // The normaliser, of quotients: their sum at temperature 1 is the logits' at `temperature`.
    const EstimatedSweep all = pass({1, row.temperature, false, false, 0}, kept, 0);
    const double top = static_cast<double>(RowQuotient<C>(row.temperature, kept.shift).exact(static_cast<C>(all.max)));
    kept.log_normaliser = top + log_positive(all.sum) - FloatTraits<C>::kExp2Shift * 0x1.62e42fefa39efp-1;
    return kept;
  }
};

// rows: [rows]; sweeps: [rows][most].
template <typename T, typename Team>
__global__ void __launch_bounds__(kEstimateThreads, 2)
    estimate_rows(const __grid_constant__ EstimateJob job, std::int64_t most, EstimatedRow* rows,
                  EstimatedSweep* sweeps) {
  GUMBEL_EXT_SHARED(typename Team::Scratch, scratch);
  const Team team{scratch};
  for (std::int64_t base = team.first(); base < job.scores.shape.rows; base += team.step()) {
    const EstimateSpan<T, Team> state(job, team, base);
    const bool writes = team.rank() == 0 && state.span.count > 0;
    const EstimatedRow kept = state.row_constants();
    if (writes) rows[state.span.row] = kept;
    for (std::int64_t m = 0; m < state.row.sweeps(); ++m) {
      const Sweep sweep = state.row.sweep(m);
      const EstimatedSweep found = state.sweep_row(sweep, kept);
      if (writes) sweeps[state.span.row * most + m] = found;
    }
  }
}

// Adds sweep m to dx, in units of GradientOfLogit's scale but where the divisor is extreme; returns what it adds to
// tau's gradient, with the scale kTauGradientScale.
template <typename T, typename Team, typename C, int kClasses>
__device__ __forceinline__ double add_sweep(C (&dx)[kClasses], const C (&dy)[kClasses],
                                            const EstimateSpan<T, Team>& state, const EstimatedRow& kept,
                                            const EstimatedSweep& found, std::int64_t m, double dy_i, int first) {
  const Sweep sweep = state.row.sweep(m);
  const C best = sweep.is_conditional ? state.winner(kept, sweep.draw) : C(0);
  C p[1][kClasses];
  state.scores(p[0], sweep, kept, best, first);
  exponentiate(p, ExponentScale<C>(sweep.tau), static_cast<C>(found.max));
  const C scale = static_cast<C>(state.kUnshift / found.sum);
  const double s = found.dot, half = dy_i * kGradientScale;
  const double centre = state.row.centre(m, s, half), rest = state.row.rest(m, s, half);
  const double divisor = state.row.divisor();
  const bool is_extreme = is_extreme_for_gradient<C>(divisor);
  const ExtremeGradient<C> extreme(centre, divisor);
  const C weight = static_cast<C>(sweep.weight), bounded = bounded_dot<C>(centre);
  const bool with_tau = state.job.grad_tau && state.row.depends_on_tau();
  double tau_sum = 0;
#pragma unroll
  for (int i = 0; i < kClasses; ++i) {
    const C part = p[0][i] * scale;
    dx[i] += is_extreme ? weight * extreme(part, dy[i]) : GradientOfLogit()(part, dy[i], bounded, weight);
    if (first + i == state.index && rest != 0)
      dx[i] += is_extreme ? static_cast<C>(rest / kGradientScale / divisor) : bounded_dot<C>(rest);
    if (with_tau && part != 0)
      tau_sum += static_cast<double>(tau_gradient_term(part, dy[i], bounded_dot<C>(s), C(kTauGradientScale)));
  }
  return tau_sum * sweep.weight;
}

// sum_k dx_k x_k / T, of logits less one of them.
template <typename T, typename Team, typename C, int kClasses>
__device__ __forceinline__ double temperature_sum(const C (&dx)[kClasses], const EstimateSpan<T, Team>& state,
                                                  int first) {
  if (!state.row.depends_on_temperature() || state.index < 0) return 0;
  C x[kClasses];
  state.logits.load(x, first, state.span.count);
  const double of = static_cast<double>(
      widen(*(static_cast<const T*>(state.job.scores.logits.data) + state.job.scores.logits.offset(state.span.row) +
              state.index * state.job.scores.logits.class_stride)));
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kClasses; ++i)
    if (dx[i] != 0 && static_cast<double>(x[i]) != of)
      sum += static_cast<double>(dx[i]) * ((static_cast<double>(x[i]) - of) / state.row.temperature);
  return sum;
}

// What the classes of a thread add to the temperatures' gradients.
struct TemperatureSums {
  double tau, temperature;
};

template <typename T, typename Team>
__global__ void __launch_bounds__(kEstimateThreads, 2)
    estimate_gradients(const __grid_constant__ EstimateJob job, std::int64_t most, const EstimatedRow* rows,
                       const EstimatedSweep* sweeps) {
  using C = Compute<T>;
  constexpr int kClasses = kPackClasses<T>;
  GUMBEL_EXT_SHARED(typename Team::Scratch, scratch);
  const Team team{scratch};
  for (std::int64_t base = team.first(); base < job.scores.shape.rows; base += team.step()) {
    const EstimateSpan<T, Team> state(job, team, base);
    const EstimatedRow kept = rows[state.span.row];
    const bool undefined = state.is_undefined_row();
    const C nan = C(__builtin_nanf(""));
    C dy_i = nan;
    if (!undefined)
      dy_i = widen(*(static_cast<const T*>(job.grad.data) + job.grad.offset(state.span.row) +
                     state.index * job.grad.class_stride));
    const Row<T> out = Row<T>::template of<kClasses>(job.grad_logits, state.span.row, 0);
    TemperatureSums sums{0, 0};
    for (int p = 0; p < state.packs; ++p) {
      const int first = state.span.first(p);
      C dx[kClasses] = {}, dy[kClasses];
      state.gradient(dy, first);
      for (std::int64_t m = 0; m < (undefined ? 0 : state.row.sweeps()); ++m)
        sums.tau +=
            add_sweep(dx, dy, state, kept, sweeps[state.span.row * most + m], m, static_cast<double>(dy_i), first);
      const double divisor = state.row.divisor();
      const C factor = is_extreme_for_gradient<C>(divisor) ? C(1) : static_cast<C>(gradient_factor(divisor));
#pragma unroll
      for (int i = 0; i < kClasses; ++i) dx[i] = undefined ? nan : dx[i] * factor;
      if (job.grad_temperature) sums.temperature += temperature_sum(dx, state, first);
      store_numbers<T>(out, first, state.span.count, dx);
    }
    const auto plus = [](const TemperatureSums& a, const TemperatureSums& b) {
      return TemperatureSums{a.tau + b.tau, a.temperature + b.temperature};
    };
    if (!job.grad_tau && !job.grad_temperature) continue;
    sums = team.combine(sums, plus);
    if (team.rank() != 0 || state.span.count == 0) continue;
    if (job.grad_tau && state.row.depends_on_tau())
      job.grad_tau[state.span.row] = undefined ? __builtin_nan("") : tau_gradient(sums.tau, state.row.tau);
    if (job.grad_temperature && state.row.depends_on_temperature())
      job.grad_temperature[state.span.row] = undefined ? __builtin_nan("") : -sums.temperature;
  }
}

}  // namespace gumbel_ext::cuda
