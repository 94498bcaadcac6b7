// The search for argmax(logits / temperature + noise) in a span of a row, for some draws at once.
//
// In float, most classes need neither their noise nor their score: for g <= -log(v), a class's word bounds its score. A
// pass over the bounds keeps, in every thread, the largest one and where it was; for that class the score is computed,
// by the fixed sequence (core/gumbel.h). Where the best of these scores is not above all other bounds, and in rows with
// numbers that are not finite, all scores are computed.
#pragma once

#include "approximate.cuh"

namespace gumbel_ext::cuda {

// Packs that a thread loads before it looks at the first: enough bytes on their way to keep memory busy, and counters
// to share the keys of Philox's rounds.
template <typename T>
constexpr int kLoads = sizeof(T) == 4 ? 4 : 2;

// visit(logits, pack), of one pack or of kPacks from number `pack` on, for the packs of a span; of kPacks also where
// the row is contiguous but not aligned, if kUnaligned (which doubles the code). `length` is the span's `count`, also
// for threads whose row does not exist.
template <int kPacks, bool kUnaligned, typename T, typename Team, int kClasses, typename Visit>
__device__ __forceinline__ void for_each_pack(const Logits<T, kClasses>& row, const Span<Team, kClasses>& span,
                                              int length, Visit visit) {
  const int step = span.team.size() * kClasses;
  int pack = 0;
  const auto visit_whole = [&](auto load) {
    for (; (pack + kPacks) * step <= length; pack += kPacks) {
      Compute<T> logits[kPacks][kClasses];
      load(logits);
      visit(logits, pack);
    }
  };
  if (row.row.packed)
    visit_whole([&](auto& logits) { row.template load_whole<true>(logits, span, pack); });
  else if (kUnaligned && row.row.stride == 1)
    visit_whole([&](auto& logits) { row.template load_whole<false>(logits, span, pack); });
#pragma unroll 1
  for (; pack * step < length; ++pack) {
    Compute<T> logits[1][kClasses];
    row.load(logits[0], span.first(pack), span.count);
    visit(logits, pack);
  }
}

// Four classes, from position `first` of a span of `count`.
template <typename C>
__device__ __forceinline__ void try_classes(Winner<C>& best, const C* logits, const RowQuotient<C>& quotient,
                                            const C (&noise)[kPhiloxWords], int first, int count) {
#pragma unroll
  for (int i = 0; i < kPhiloxWords; ++i) {
    const C score = quotient.exact(logits[i]) + (quotient.is_noisy() ? noise[i] : C(0));
    if (first + i < count && beats(score, best.score)) best = {score, first + i};
  }
}

// The winners of draws [first_draw, first_draw + kDraws), the same for all of the team, from all scores.
template <typename T, int kDraws, typename Team, int kClasses>
__device__ __forceinline__ void search_scores(Winner<Compute<T>> (&best)[kDraws], const Logits<T, kClasses>& row,
                                              const NoiseKey& key, const Span<Team, kClasses>& span, int length,
                                              const RowQuotient<Compute<T>>& quotient, bool noisy,
                                              std::uint32_t first_draw) {
  using C = Compute<T>;
#pragma unroll
  for (Winner<C>& b : best) b = {-C(__builtin_inff()), 0};
  const auto try_packs = [&]<int kPacks>(const C(&logits)[kPacks][kClasses], int pack, auto noise_of) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
#pragma unroll
      for (int q = 0; q < kClasses; q += kPhiloxWords)
#pragma unroll
        for (int d = 0; d < kDraws; ++d) {
          const int first = span.first(pack + p) + q;
          C noise[kPhiloxWords] = {};
          noise_of(noise, first, first_draw + static_cast<std::uint32_t>(d));
          try_classes(best[d], &logits[p][q], quotient, noise, first, span.count);
        }
  };
  if (noisy)
    for_each_pack<sizeof(C) == 4 ? 1 : kLoads<T>, false>(row, span, length, [&](const auto& logits, int pack) {
      try_packs(logits, pack, [&](auto& noise, int first, std::uint32_t draw) {
        words_to_noise(noise, key.words(key.quad(first), draw), key, key.quad(first), draw);
      });
    });
  else
    for_each_pack<kLoads<T>, true>(row, span, length, [&](const auto& logits, int pack) {
      try_packs(logits, pack, [](auto&, int, std::uint32_t) {});
    });
#pragma unroll
  for (Winner<C>& b : best) b = span.team.combine(b, Better());
}

// What scores of classes are at most, in units of log(2) and less 32: log2(e) x / T - log2(2^32 v), where the word is
// not above 2^32 v. NaN or infinite where the score is not finite, and of the word 0.
class ScoreBound {
 public:
  __device__ __forceinline__ explicit ScoreBound(const RowQuotient<float>& quotient)
      : scale_(quotient.inverse * kLog2E) {
  }
  __device__ __forceinline__ float operator()(float logit, std::uint32_t word) const {
    return fused_multiply_add(logit, scale_, -approximate_log2(static_cast<float>(word)));
  }
  // The bounds of classes whose scores are `score` and more are not below this. The slack is that of the roundings here
  // and in scores (tests/test_approximate.py). Where it is infinite, so are those bounds.
  __device__ __forceinline__ static float least(float score) {
    constexpr float kSlack = 0x1p-19f;  // 16 units of the last place of kLog2E
    return fused_multiply_add(score, score < 0 ? kLog2E + kSlack : kLog2E - kSlack, -32.0002f);
  }

 private:
  static constexpr float kLog2E = static_cast<float>(kLog2EHigh);
  float scale_;
};

// Of a thread's bounds, each the largest of four classes: the largest, and its counter; the largest of the rest, NaN
// where one of all is.
struct Bounds {
  float largest = -__builtin_inff(), rest = -__builtin_inff();
  std::uint32_t quad = 0;

  __device__ __forceinline__ void add(float bound, std::uint32_t quad) {
    const bool leads = bound > largest;
    rest = larger_or_nan(rest, leads ? largest : bound);
    largest = leads ? bound : largest;
    this->quad = leads ? quad : this->quad;
  }
};

// The best class of those whose scores were computed, and the largest bound of the others: as keys (core/order.h), of
// which a warp takes one instruction to find the largest.
struct Found {
  std::int32_t score;
  int index;  // counted from where the span begins
  std::int32_t others;

  // Whether none of the others can be better.
  __device__ __forceinline__ bool is_best() const {
    return score_of_key(others) < ScoreBound::least(score_of_key(score));
  }
};
struct BetterFound {
  __device__ __forceinline__ Found operator()(const Found& a, const Found& b) const {
    const bool a_wins = a.score > b.score || (a.score == b.score && a.index < b.index);
    return {a_wins ? a.score : b.score, a_wins ? a.index : b.index, LargerKey()(a.others, b.others)};
  }
  __device__ __forceinline__ Found of_warp(const Found& found) const {
    const std::int32_t score = LargerKey().of_warp(found.score);
    const int index = __reduce_min_sync(kAllLanes, found.score == score ? found.index : 0x7fffffff);
    return {score, index, LargerKey().of_warp(found.others)};
  }
};

// A thread's class with the largest bound, with its score. A thread without packs, or all of whose bounds are
// -infinity, has some class of the span, which is counted where it belongs as well. `others` holds the second of the
// four: with two largest, that bound. (By maxima and minima that pass NaN on.)
template <typename T, typename Team, int kClasses>
__device__ __forceinline__ Found most_promising(const Bounds& bounds, const Logits<T, kClasses>& row,
                                                const NoiseKey& key, const Span<Team, kClasses>& span,
                                                const RowQuotient<float>& quotient, std::uint32_t draw) {
  const ScoreBound bound(quotient);
  const int first = key.first(bounds.quad);
  const PhiloxWords words = key.words(bounds.quad, draw);
  float logits[kPhiloxWords], b[kPhiloxWords];
  row.load(logits, first, span.count);
  int chosen = 0;
  float logit = logits[0];
  std::uint32_t word = words.word[0];
#pragma unroll
  for (int i = 0; i < kPhiloxWords; ++i) {
    b[i] = bound(logits[i], words.word[i]);
    if (i > 0 && b[i] == bounds.largest) chosen = i, logit = logits[i], word = words.word[i];
  }
  const float noise =
      word < kTailWords ? noise_of_class<float>(key, first + chosen, draw) : gumbel_from_word<float>(word);
  const float second_of_four = larger_or_nan(smaller_or_nan(larger_or_nan(b[0], b[1]), larger_or_nan(b[2], b[3])),
                                             larger_or_nan(smaller_or_nan(b[0], b[1]), smaller_or_nan(b[2], b[3])));
  const float others = larger_or_nan(bounds.rest, second_of_four);
  return {order_key(quotient.exact(logit) + noise), first + chosen,
          order_key(others == others ? others : __builtin_inff())};
}

// As search_scores; whether the bounds decided, of all rows of the warp.
template <typename T, int kDraws, typename Team, int kClasses>
__device__ __forceinline__ bool search_bounds(Winner<float> (&best)[kDraws], const Logits<T, kClasses>& row,
                                              const NoiseKey& key, const Span<Team, kClasses>& span, int length,
                                              const RowQuotient<float>& quotient, std::uint32_t first_draw) {
  const ScoreBound bound(quotient);
  Bounds bounds[kDraws];
#pragma unroll
  for (Bounds& b : bounds) b.quad = key.quad(0);
  const auto add_packs = [&]<int kPacks>(const float (&logits)[kPacks][kClasses], int pack) {
    constexpr int kOfPack = kClasses / kPhiloxWords, kCounters = kPacks * kOfPack;
    std::uint32_t quads[kCounters];
    key.quads(quads, span, pack);
#pragma unroll
    for (int d = 0; d < kDraws; ++d) {
      PhiloxWords words[kCounters];
      key.words(words, quads, first_draw + static_cast<std::uint32_t>(d));
#pragma unroll
      for (int c = 0; c < kCounters; ++c) {
        const float* four = &logits[c / kOfPack][c % kOfPack * kPhiloxWords];
        float most = bound(four[0], words[c].word[0]);
#pragma unroll
        for (int i = 1; i < kPhiloxWords; ++i) most = larger_or_nan(most, bound(four[i], words[c].word[i]));
        bounds[d].add(most, quads[c]);
      }
    }
  };
  for_each_pack<kLoads<T>, kDraws == 1>(row, span, length, add_packs);
  bool decided = true;
#pragma unroll
  for (int d = 0; d < kDraws; ++d) {
    const auto draw = first_draw + static_cast<std::uint32_t>(d);
    const Found mine = most_promising<T>(bounds[d], row, key, span, quotient, draw);
    const Found found = span.team.combine(mine, BetterFound());
    best[d] = {score_of_key(found.score), found.index};
    decided &= span.count == 0 || found.is_best();
  }
  return __all_sync(kAllLanes, decided);
}

// Of so few classes, the best often has a large v, of which the bound is too far from its score to decide. (Teams of 4
// and of 8 lanes have no more: plan.cpp.)
constexpr int kFewClasses = 32;

// The winners of draws [first_draw, first_draw + kDraws) in the span, the same for all of its team. `length` is the
// span's `count`, also for threads whose row does not exist.
template <typename T, int kDraws, typename Team, int kClasses>
__device__ __forceinline__ void search_span(Winner<Compute<T>> (&best)[kDraws], const Scores& scores,
                                            const Span<Team, kClasses>& span, int length,
                                            const RowQuotient<Compute<T>>& quotient, std::int64_t first_draw) {
  const bool noisy = __any_sync(kAllLanes, scores.noise.on && quotient.is_noisy());
  const NoiseKey key(scores.noise, span.row, span.begin);
  Logits<T, kClasses> row(scores, span.row, span.begin);
  std::uint32_t packed = row.row.packed;
  keep(packed);  // in a register: else computed wherever it is asked for
  row.row.packed = packed != 0;
  const auto draw = static_cast<std::uint32_t>(first_draw);
  if constexpr (sizeof(Compute<T>) == 4 && Team::kLanes != 4 && Team::kLanes != 8)
    if (noisy && length > kFewClasses && search_bounds<T>(best, row, key, span, length, quotient, draw)) return;
  search_scores<T>(best, row, key, span, length, quotient, noisy, draw);
}

}  // namespace gumbel_ext::cuda
