// The first stages of the forward, index and noise kernels: a team's logits in registers, masked, with noise.
#pragma once

#include "../core/gumbel.h"
#include "../core/search.h"
#include "rows.cuh"

namespace gumbel_ext::cuda {

// The seed of all rows.
__device__ __forceinline__ std::uint64_t common_seed(const Noise& noise) {
  if (noise.held_seed) return static_cast<std::uint64_t>(*noise.held_seed);
  if (!noise.captured.seed) return noise.seed;
  return generator_seed(static_cast<std::uint64_t>(*noise.captured.seed),
                        static_cast<std::uint64_t>(*noise.captured.offset) + noise.captured.offset_in_graph);
}

// The key and the counters of a span's noise: a counter, `quad`, is that of four classes.
struct NoiseKey {
  std::uint64_t seed;
  std::uint64_t row;
  std::uint32_t first_quad;
  const Noise& noise;  // (a parameter of the kernel: what is read through it takes no register)

  // Requires: `begin` is a multiple of kPhiloxWords.
  __device__ __forceinline__ NoiseKey(const Noise& noise, std::int64_t row, std::int64_t begin)
      : seed(noise.row_seeds ? static_cast<std::uint64_t>(noise.row_seeds[row]) : common_seed(noise)),
        row(noise.counter_row(row)),
        first_quad(ClassCounter(noise, begin).quad),
        noise(noise) {
  }
  // The counter of the four classes from `first` on, counted from the span's begin; and the other way round.
  __device__ __forceinline__ std::uint32_t quad(int first) const {
    return first_quad + static_cast<std::uint32_t>(first) / kPhiloxWords;
  }
  __device__ __forceinline__ int first(std::uint32_t quad) const {
    return static_cast<int>((quad - first_quad) * kPhiloxWords);
  }
  // Of a thread's packs from number `pack` on, those from number `skipped` on.
  template <int kCounters, typename Team, int kClasses>
  __device__ __forceinline__ void quads(std::uint32_t (&quads)[kCounters], const Span<Team, kClasses>& span, int pack,
                                        int skipped = 0) const {
    constexpr int kOfPack = kClasses / kPhiloxWords;
#pragma unroll
    for (int c = 0; c < kCounters; ++c)
      quads[c] = quad(span.first(pack + (skipped + c) / kOfPack)) + (skipped + c) % kOfPack;
  }

  template <int kCounters>
  __device__ __forceinline__ void words(PhiloxWords (&words)[kCounters], const std::uint32_t (&quads)[kCounters],
                                        std::uint32_t draw) const {
#pragma unroll
    for (int c = 0; c < kCounters; ++c) words[c] = philox_counter(row, quads[c], draw);
    philox4x32_10(words, seed);
    if (place() == 0) return;
#pragma unroll
    for (int c = 0; c < kCounters; ++c) continue_words(words[c], quads[c], draw);
  }
  __device__ __forceinline__ PhiloxWords words(std::uint32_t quad, std::uint32_t draw) const {
    PhiloxWords words[1];
    this->words(words, {quad}, draw);
    return words[0];
  }
  // Those that continue words below kTailWords: asked for in one pack of some hundreds.
  __device__ __forceinline__ PhiloxWords tail_words(std::uint32_t quad, std::uint32_t draw) const {
    draw += kTailDraw;
    PhiloxWords words = philox4x32_10_rolled(philox_counter(row, quad, draw), seed);
    if (place() != 0) continue_words(words, quad, draw);
    return words;
  }

 private:
  __device__ __forceinline__ int place() const {
    return ClassCounter(noise, 0).place;
  }
  // The four words from `place` on of these and the next ones.
  __device__ __forceinline__ void continue_words(PhiloxWords& words, std::uint32_t quad, std::uint32_t draw) const {
    PhiloxWords next = philox4x32_10_rolled(philox_counter(row, quad + 1, draw), seed);
#pragma unroll 1
    for (int i = 0; i < place(); ++i) {
#pragma unroll
      for (int w = 0; w + 1 < kPhiloxWords; ++w) words.word[w] = words.word[w + 1];
      words.word[kPhiloxWords - 1] = next.word[0];
#pragma unroll
      for (int w = 0; w + 1 < kPhiloxWords; ++w) next.word[w] = next.word[w + 1];
    }
  }
};

__device__ __forceinline__ std::uint32_t smallest(const PhiloxWords& words) {
  std::uint32_t smallest = ~0u;
#pragma unroll
  for (const std::uint32_t word : words.word) smallest = word < smallest ? word : smallest;
  return smallest;
}

// The noise of the four classes of a counter, of which `words` are the words.
template <typename C>
__device__ __forceinline__ void words_to_noise(C (&noise)[kPhiloxWords], const PhiloxWords& words, const NoiseKey& key,
                                               std::uint32_t quad, std::uint32_t draw) {
#pragma unroll
  for (int i = 0; i < kPhiloxWords; ++i) noise[i] = gumbel_from_word<C>(words.word[i]);
  if (smallest(words) >= kTailWords) return;
  const PhiloxWords more = key.tail_words(quad, draw);
#pragma unroll
  for (int i = 0; i < kPhiloxWords; ++i)
    if (words.word[i] < kTailWords) noise[i] = gumbel_tail<C>(words.word[i], more.word[i]);
}

template <typename C, int kClasses>
__device__ __forceinline__ void add_noise(C (&scores)[kClasses], const NoiseKey& key, int first, std::uint32_t draw) {
#pragma unroll
  for (int q = 0; q < kClasses; q += kPhiloxWords) {
    const std::uint32_t quad = key.quad(first + q);
    C noise[kPhiloxWords];
    words_to_noise(noise, key.words(quad, draw), key, quad, draw);
#pragma unroll
    for (int i = 0; i < kPhiloxWords; ++i) scores[q + i] += noise[i];
  }
}

// The noise of one class.
template <typename C>
__device__ __forceinline__ C noise_of_class(const NoiseKey& key, int cls, std::uint32_t draw) {
  const std::uint32_t quad = key.quad(cls);
  const auto chosen = [cls](const PhiloxWords& words) {
    const std::uint32_t low = cls & 1 ? words.word[1] : words.word[0], high = cls & 1 ? words.word[3] : words.word[2];
    return cls & 2 ? high : low;
  };
  const std::uint32_t word = chosen(key.words(quad, draw));
  return word < kTailWords ? gumbel_tail<C>(word, chosen(key.tail_words(quad, draw))) : gumbel_from_word<C>(word);
}

// The logits of a span, -infinity where its mask is false.
template <typename T, int kClasses>
struct Logits {
  Row<T> row;
  Row<std::uint8_t> mask;
  bool masked;

  __device__ __forceinline__ Logits(const Rows& logits, const Rows& allowed, std::int64_t r, std::int64_t begin)
      : row(Row<T>::template of<kClasses>(logits, r, begin)), mask{}, masked(allowed) {
    if (masked) mask = Row<std::uint8_t>::template of<kClasses>(allowed, r, begin);
  }
  __device__ __forceinline__ Logits(const Scores& scores, std::int64_t r, std::int64_t begin)
      : Logits(scores.logits, scores.mask, r, begin) {
  }
  // Classes [first, first + kCount), of one pack; -infinity from class `count` on.
  template <int kCount>
  __device__ __forceinline__ void load(Compute<T> (&out)[kCount], int first, int count) const {
    load_numbers<T>(out, row, first, count, -Compute<T>(__builtin_inff()));
    if (masked) apply_mask(out, first, count);
  }
  // All packs of a thread.
  template <typename Span, int kPacks>
  __device__ __forceinline__ void load_all(Compute<T> (&out)[kPacks][kClasses], const Span& span) const {
    load_all_numbers<T>(out, row, span, -Compute<T>(__builtin_inff()));
    if (!masked) return;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) apply_mask(out[p], span.first(p), span.count);
  }
  // A thread's packs from number `pack` on. Requires: they are whole, and contiguous; row.packed if kPacked.
  template <bool kPacked, typename Span, int kPacks>
  __device__ __forceinline__ void load_whole(Compute<T> (&out)[kPacks][kClasses], const Span& span, int pack) const {
    T elements[kPacks][kClasses];
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if constexpr (kPacked)
        load_whole_pack(elements[p], row, span.first(pack + p));
      else
        load_contiguous_pack(elements[p], row, span.first(pack + p));
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if constexpr (kPacked)
        widen_pairs(out[p], elements[p]);
      else
        widen_all(out[p], elements[p]);
    if (!masked) return;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) apply_mask(out[p], span.first(pack + p), span.count);
  }

 private:
  template <int kCount>
  __device__ __forceinline__ void apply_mask(Compute<T> (&out)[kCount], int first, int count) const {
    std::uint8_t allowed[kCount];
    load_pack<std::uint8_t>(allowed, mask, first, count, 1);
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      if (!allowed[i]) out[i] = -Compute<T>(__builtin_inff());
  }
};

// The score of one class, by the fixed sequence.
template <typename T, typename Span>
__device__ __forceinline__ Compute<T> score_of_class(const Scores& in, const Span& span, int cls) {
  Compute<T> score[1];
  Logits<T, 1>(in, span.row, span.begin + cls).load(score, 0, 1);
  if (in.noise.on) score[0] += noise_of_class<Compute<T>>(NoiseKey(in.noise, span.row, span.begin), cls, /*draw=*/0);
  return score[0];
}

// The row's temperature; NaN in place of an invalid one.
__device__ __forceinline__ double temperature_of(const RowScalar& tau, std::int64_t row, bool may_be_zero) {
  const double t = tau[row];
  const bool valid = t < __builtin_inf() && (t > 0 || (may_be_zero && t == 0));
  return valid ? t : __builtin_nan("");
}

// A row's quotients; and the inverse of the temperature: NaN, with which bounds decide nothing, where the temperature
// is not a normal number, or logits are shifted.
template <typename C>
struct RowQuotient : Quotient<C> {
  C inverse;

  GUMBEL_EXT_INLINE explicit RowQuotient(double t, double shift = 0) : Quotient<C>(t, shift) {
    inverse = this->is_extreme || shift != 0 ? C(__builtin_nanf("")) : C(1) / this->temperature;
  }
  __device__ __forceinline__ C exact(C logit) const {
    return this->changes_nothing() ? logit : (*this)(logit);
  }
};

// Those of a job's rows: one for all, made beforehand, or the row's own.
template <typename C>
struct RowQuotients {
  RowQuotient<C> common;

  explicit RowQuotients(const RowScalar& temperature) : common(temperature.rows ? 1.0 : temperature.value) {
  }
  __device__ __forceinline__ RowQuotient<C> operator()(const RowScalar& temperature, std::int64_t row) const {
    if (temperature.rows) return RowQuotient<C>(temperature_of(temperature, row, /*may_be_zero=*/true));
    RowQuotient<C> result = common;
    result.shift = 0;  // which the compiler does not know of
    return result;
  }
};

// The best class of some.
template <typename C>
struct Winner {
  C score;
  int index;
};

// The better of two results for one row (core/order.h).
struct Better {
  template <typename Result>
  __device__ __forceinline__ Result operator()(const Result& a, const Result& b) const {
    const bool a_wins = wins(a.score, a.index, b.score, b.index);
    return {a_wins ? a.score : b.score, a_wins ? a.index : b.index};
  }
};

// The team's best class, counted from where the span begins.
template <typename C, typename Span, int kPacks, int kClasses>
__device__ __forceinline__ Winner<C> winner_of(const C (&scores)[kPacks][kClasses], const Span& span) {
  Winner<C> best{scores[0][0], span.first(0)};
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int i = 0; i < kClasses; ++i)
      if (beats(scores[p][i], best.score)) best = {scores[p][i], span.first(p) + i};
  return span.team.combine(best, Better());
}

}  // namespace gumbel_ext::cuda
