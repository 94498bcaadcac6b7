// The forward row kernel: softmax(scores / tau) or its logarithm, and, where wanted, one_hot(argmax(scores)) beside it.
// A team holds a row in registers: one read, one write.
#pragma once

#include "approximate.cuh"

namespace gumbel_ext::cuda {

// The exponent of a job's rows: one for all, made beforehand, or the row's own.
template <typename C>
struct RowExponent {
  ExponentScale<C> common;

  explicit RowExponent(const RowScalar& tau) : common(tau.rows ? 1.0 : tau.value) {
  }
  __device__ __forceinline__ ExponentScale<C> operator()(const RowScalar& tau, std::int64_t row) const {
    return tau.rows ? ExponentScale<C>(temperature_of(tau, row, /*may_be_zero=*/false)) : common;
  }
};

// Logits become scores with the noise of `words`, those of the counters `quads`.
template <typename C, int kCounters>
__device__ __forceinline__ void add_noise(C* scores, const PhiloxWords (&words)[kCounters], const NoiseKey& key,
                                          const std::uint32_t (&quads)[kCounters], bool approximate) {
  if constexpr (sizeof(C) == 4)
    if (approximate) return Approximate::add_noise(scores, words, key, quads);
#pragma unroll
  for (int c = 0; c < kCounters; ++c) {
    C noise[kPhiloxWords];
    words_to_noise(noise, words[c], key, quads[c], /*draw=*/0);
#pragma unroll
    for (int i = 0; i < kPhiloxWords; ++i, ++scores) *scores += noise[i];
  }
}

template <typename T, typename Span, int kPacks, int kClasses>
__device__ __forceinline__ void load_scores(Compute<T> (&scores)[kPacks][kClasses], const Scores& in, const Span& span,
                                            bool approximate = false) {
  Logits<T, kClasses>(in, span.row, span.begin).load_all(scores, span);
  if (!in.noise.on) return;
  const NoiseKey key(in.noise, span.row, span.begin);
  constexpr int kCounters = kPacks * kClasses / kPhiloxWords;
  constexpr int kAtOnce = kCounters % 4 == 0 ? 4 : kCounters % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int counter = 0; counter < kCounters; counter += kAtOnce) {
    std::uint32_t quads[kAtOnce];
    PhiloxWords words[kAtOnce];
    key.quads(quads, span, /*pack=*/0, counter);
    key.words(words, quads, /*draw=*/0);
    add_noise(&scores[0][0] + counter * kPhiloxWords, words, key, quads, approximate);
  }
}

// The largest of a thread's numbers; NaN where one is.
template <typename C, int kCount>
__device__ __forceinline__ C largest(const C (&values)[kCount]) {
  C result = values[0];
#pragma unroll
  for (int i = 1; i < kCount; ++i) result = larger_or_nan(result, values[i]);
  return result;
}
template <typename C, int kPacks, int kClasses>
__device__ __forceinline__ C largest(const C (&values)[kPacks][kClasses]) {
  C of_packs[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) of_packs[p] = largest(values[p]);
  return largest(of_packs);
}

// The sum of a thread's packs, each kClasses numbers summed in a tree: of 16 numbers in float, of more in double.
template <int kPacks, int kClasses>
__device__ __forceinline__ double sum_of_packs(const float* sums) {
  if constexpr (kPacks * kClasses <= 16)
    return tree_sum<kPacks>(sums);
  else
    return sum_of_packs<kPacks / 2, kClasses>(sums) + sum_of_packs<kPacks - kPacks / 2, kClasses>(sums + kPacks / 2);
}

// scores become exponentials, relative to `max`, unless they are kept; returns the thread's share of the sum of those.
template <typename C, int kPacks, int kClasses>
__device__ __forceinline__ C exponentiate(C (&scores)[kPacks][kClasses], const ExponentScale<C>& scale, C max,
                                          bool keep_scores = false) {
  const bool is_near = !scale.is_extreme && Exponential<C>::is_near(scale.scale, max);
  const auto exponential = Exponential<C>::of_row(scale.scale, scale.reach, max, is_near);
  C sums[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    C values[kClasses];
#pragma unroll
    for (int i = 0; i < kClasses; ++i) {
      values[i] = exponential(is_near ? scores[p][i] : scale.half_difference(scores[p][i], max));
      if (!keep_scores) scores[p][i] = values[i];
    }
    sums[p] = tree_sum<kClasses>(values);
  }
  return tree_sum<kPacks>(sums);
}

// The same, approximate: exponents are fused products of score and scale, but of differences where the largest is far
// from 0. (Those are exact where the exponential is not 0.)
template <int kPacks, int kClasses>
__device__ __forceinline__ double exponentiate_approximately(float (&scores)[kPacks][kClasses],
                                                             const TwoPart<float>& scale, float max) {
  if (!Exponential<float>::is_near(scale, max)) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
#pragma unroll
      for (int i = 0; i < kClasses; ++i) scores[p][i] -= max;
    max = 0;
  }
  const float offset = -max * scale.high;
  float sums[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
#pragma unroll
    for (int i = 0; i < kClasses; ++i) scores[p][i] = Approximate::exponential(scores[p][i], scale.high, offset);
    sums[p] = tree_sum<kClasses>(scores[p]);
  }
  return sum_of_packs<kPacks, kClasses>(sums);
}

// The exponentials times `factor`; NaN where `undefined`.
template <typename T, typename Span, int kPacks, int kClasses>
__device__ __forceinline__ void store_relaxed(const Rows& out, const Span& span,
                                              const Compute<T> (&exponentials)[kPacks][kClasses], double factor,
                                              bool undefined) {
  using C = Compute<T>;
  const Row<T> row = Row<T>::template of<kClasses>(out, span.row, span.begin);
  const C scale = undefined ? C(__builtin_nanf("")) : static_cast<C>(factor);
  C values[kPacks][kClasses];
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int i = 0; i < kClasses; ++i) values[p][i] = exponentials[p][i] * scale;
  store_all_numbers<T>(row, span, values);
}

// The scores' logarithms; NaN where `undefined`.
template <typename T, typename Span, int kPacks, int kClasses>
__device__ __forceinline__ void store_logarithms(const Rows& out, const Span& span,
                                                 const Compute<T> (&scores)[kPacks][kClasses],
                                                 const Logarithm<Compute<T>>& logarithm, bool undefined) {
  using C = Compute<T>;
  const Row<T> row = Row<T>::template of<kClasses>(out, span.row, span.begin);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    C values[kClasses];
#pragma unroll
    for (int i = 0; i < kClasses; ++i) values[i] = undefined ? C(__builtin_nanf("")) : logarithm(scores[p][i]);
    store_numbers<T>(row, span.first(p), span.count, values);
  }
}

// `hot` counts from where the span begins; a class outside is none.
template <typename T, int kPacks, int kClasses, typename Span>
__device__ __forceinline__ void store_one_hot(const Rows& out, const Span& span, std::int64_t hot, bool undefined) {
  using C = Compute<T>;
  const Row<T> row = Row<T>::template of<kClasses>(out, span.row, span.begin);
  T one, filler;
  narrow(undefined ? C(__builtin_nanf("")) : C(1), one);
  narrow(undefined ? C(__builtin_nanf("")) : C(0), filler);
  T values[kPacks][kClasses];
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int i = 0; i < kClasses; ++i) values[p][i] = span.first(p) + i == hot ? one : filler;
  store_packs(row, span, values);
}

// The classes of a row that may have its largest score.
struct Candidates {
  int count, first;  // how many, and the first, counted from where the span begins

  __device__ __forceinline__ Candidates operator+(const Candidates& other) const {
    return {count + other.count, first < other.first ? first : other.first};
  }
};

// The class with the largest score: the lowest of those, by the fixed sequence, where the scores are approximate. None
// where `max`, the team's largest, is not finite.
template <typename T, typename Span, int kPacks, int kClasses>
__device__ __forceinline__ int winning_class(const Compute<T> (&scores)[kPacks][kClasses], Compute<T> max,
                                             const Scores& in, const Span& span, bool approximate) {
  using C = Compute<T>;
  constexpr int kNone = 0x7fffffff;
  C threshold = is_undefined(max) ? C(__builtin_nanf("")) : max;  // which no score reaches
  if constexpr (sizeof(C) == 4)
    if (approximate) threshold -= Approximate::margin(max);
  Candidates mine{0, kNone};
#pragma unroll
  for (int p = kPacks - 1; p >= 0; --p) {
    if (!(largest(scores[p]) >= threshold)) continue;
#pragma unroll
    for (int i = kClasses - 1; i >= 0; --i)
      if (scores[p][i] >= threshold) mine = {mine.count + 1, span.first(p) + i};
  }
  const Candidates all = span.team.combine(mine, Plus());
  if (!__any_sync(kAllLanes, approximate && all.count > 1)) return all.first;
  // Bit p * kClasses + i stands for class i of the thread's pack p.
  std::uint64_t candidates = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int i = 0; i < kClasses; ++i) candidates |= std::uint64_t(scores[p][i] >= threshold) << (p * kClasses + i);
  Winner<C> best{-C(__builtin_inff()), kNone};
  for (; candidates != 0; candidates &= candidates - 1) {
    const int bit = __ffsll(static_cast<long long>(candidates)) - 1;
    const int cls = span.first(bit / kClasses) + bit % kClasses;
    best = Better()(best, Winner<C>{score_of_class<T>(in, span, cls), cls});
  }
  return span.team.combine(best, Better()).index;
}

template <typename T, typename Team, int kPacks>
__global__ void __launch_bounds__(max_threads<T, Team>(), min_blocks<T, Team, kPacks>())
    forward_rows(const __grid_constant__ ForwardJob job, const __grid_constant__ RowExponent<Compute<T>> exponents) {
  using C = Compute<T>;
  constexpr int kClasses = kPackClasses<T>;
  GUMBEL_EXT_SHARED(typename Team::Scratch, scratch);
  const Team team{scratch};
  const Shape& shape = job.scores.shape;
  for (std::int64_t base = team.first(); base < shape.rows; base += team.step()) {
    const Span<Team, kClasses> span(team, shape, base);
    const double tau = temperature_of(job.tau, span.row, /*may_be_zero=*/false);
    std::uint32_t is_approximate = sizeof(C) == 4 && !job.logarithms && Approximate::serves(tau);
    keep(is_approximate);  // in one register: else in a predicate for each of its uses
    const bool approximate = is_approximate != 0;
    C scores[kPacks][kClasses];
    load_scores<T>(scores, job.scores, span, approximate);
    const C max = team.combine(largest(scores), LargerOrNan());
    const bool undefined = is_undefined(max) || !(tau == tau);
    if (job.one_hot) {
      const int hot = winning_class<T>(scores, max, job.scores, span, approximate && job.scores.noise.on);
      store_one_hot<T, kPacks, kClasses>(job.one_hot, span, hot, undefined);
    }
    std::int64_t row = span.row;
    keep(row);  // so that the exponent takes registers from here on
    const ExponentScale<C> exponent = exponents(job.tau, row);
    double sum;
    if constexpr (sizeof(C) == 4)
      sum = approximate ? exponentiate_approximately(scores, exponent.scale, max)
                        : exponentiate(scores, exponent, max, job.logarithms);
    else
      sum = exponentiate(scores, exponent, max, job.logarithms);
    const double total = team.combine(sum, Plus());
    if (job.logarithms)
      store_logarithms<T>(job.relaxed, span, scores, Logarithm<C>(exponent.tau, max, total), undefined);
    else
      store_relaxed<T>(job.relaxed, span, scores, 1 / total, undefined);
  }
}

}  // namespace gumbel_ext::cuda
