// The k best classes of logits / temperature + noise: a block a row, in working memory of its own.
//
// A bisection finds the key (core/order.h) that k classes or more reach; these are collected, in any order, and sorted.
#pragma once

#include "top_k.cuh"

namespace gumbel_ext::cuda {

// A class with what it is ordered by.
struct RankedClass {
  std::int64_t key, logit_key;  // of its score, and, where that is -infinity, of its logit
  std::int64_t index;

  __device__ __forceinline__ bool is_before(const RankedClass& other) const {
    if (key != other.key) return key > other.key;
    return logit_key != other.logit_key ? logit_key > other.logit_key : index < other.index;
  }
};

// A block's working memory: the row's keys, and room for all of its classes, of a number that is a power of two.
struct RankMemory {
  std::int64_t* keys;
  RankedClass* ranked;

  __device__ __forceinline__ RankMemory(double* memory, std::int64_t doubles, const Shape& shape)
      : keys(reinterpret_cast<std::int64_t*>(memory + blockIdx.x * doubles)),
        ranked(reinterpret_cast<RankedClass*>(keys + shape.classes)) {
  }
  GUMBEL_EXT_INLINE static std::int64_t power_for(std::int64_t count) {
    std::int64_t power = 1;
    while (power < count) power *= 2;
    return power;
  }
  GUMBEL_EXT_INLINE static std::int64_t doubles(const Shape& shape) {
    return shape.classes + power_for(shape.classes) * std::int64_t(sizeof(RankedClass) / sizeof(double));
  }
};

// body(logits, first, count) for the thread's packs.
template <typename T, typename Body>
__device__ __forceinline__ void for_my_logits(const Scores& scores, std::int64_t row, const BlockTeam& team,
                                              Body body) {
  for_my_packs(team, scores.shape, [&](std::int64_t first, int count) {
    Compute<T> logits[kTopKPack];
    Logits<T, kTopKPack>(scores, row, first).load(logits, 0, count);
    body(logits, first, count);
  });
}

// The keys of a row's largest logit, and of its largest finite one; -infinity where there is none.
struct LargestKeys {
  std::int64_t of_all, of_finite;
};
struct LargerKeys {
  __device__ __forceinline__ LargestKeys operator()(const LargestKeys& a, const LargestKeys& b) const {
    return {a.of_all > b.of_all ? a.of_all : b.of_all, a.of_finite > b.of_finite ? a.of_finite : b.of_finite};
  }
};
template <typename T>
__device__ __forceinline__ LargestKeys largest_keys(const Scores& scores, std::int64_t row, const BlockTeam& team) {
  const std::int64_t none = order_key(-__builtin_inf());
  LargestKeys mine{none, none};
  for_my_logits<T>(scores, row, team, [&](const auto& logits, std::int64_t, int count) {
    for (int i = 0; i < count; ++i) {
      const std::int64_t key = order_key(static_cast<double>(logits[i]));
      mine = LargerKeys()(mine, {key, key < order_key(__builtin_inf()) ? key : none});
    }
  });
  return team.combine(mine, LargerKeys());
}

template <typename T>
__device__ __forceinline__ void find_keys(std::int64_t* keys, const Scores& scores, std::int64_t row,
                                          const RowQuotient<Compute<T>>& quotient, const BlockTeam& team) {
  using C = Compute<T>;
  for_my_logits<T>(scores, row, team, [&](auto& logits, std::int64_t first, int count) {
    for (C& logit : logits) logit = quotient.exact(logit);
    if (scores.noise.on && quotient.is_noisy()) add_noise(logits, NoiseKey(scores.noise, row, first), 0, /*draw=*/0);
    for (int i = 0; i < count; ++i) keys[first + i] = order_key(static_cast<double>(logits[i]));
  });
}

// The largest key that k classes or more reach, or a smaller one that exactly k reach.
__device__ __forceinline__ std::int64_t find_limit(const std::int64_t* keys, const Shape& shape, std::int64_t k,
                                                   const BlockTeam& team) {
  const auto reached = [&](std::int64_t key) {
    std::int64_t mine = 0;
    for_my_classes(team, shape, [&](std::int64_t i) { mine += keys[i] >= key ? 1 : 0; });
    return team.combine(mine, Plus());
  };
  if (reached(kLargestKey) >= k) return kLargestKey;
  std::int64_t low = order_key(-__builtin_inf()), high = kLargestKey, at_low = shape.classes;
  while (at_low != k) {
    const std::uint64_t distance = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
    if (distance <= 1) break;
    const std::int64_t middle = low + static_cast<std::int64_t>(distance / 2), count = reached(middle);
    (count >= k ? low : high) = middle;
    if (count >= k) at_low = count;
  }
  return low;
}

// Sorts `count` classes, the best first; behind them there is room up to a power of two.
__device__ __forceinline__ void sort_ranked(RankedClass* ranked, std::int64_t count, const BlockTeam& team) {
  const std::int64_t power = RankMemory::power_for(count);
  for (std::int64_t i = count + team.rank(); i < power; i += team.size())
    ranked[i] = {-kLargestKey - 1, 0, kLargestKey};
  __syncthreads();
  for (std::int64_t size = 2; size <= power; size *= 2)
    for (std::int64_t stride = size / 2; stride > 0; stride /= 2) {
      for (std::int64_t i = team.rank(); i < power / 2; i += team.size()) {
        const std::int64_t low = 2 * i - i % stride, high = low + stride;
        const RankedClass a = ranked[low], b = ranked[high];
        if (b.is_before(a) != ((low & size) == 0)) continue;
        ranked[low] = b;
        ranked[high] = a;
      }
      __syncthreads();
    }
}

template <typename T>
__global__ void __launch_bounds__(kTopKThreads, 1)
    top_classes_rows(const __grid_constant__ TopClassesJob job, double* memory, std::int64_t doubles) {
  using C = Compute<T>;
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  GUMBEL_EXT_SHARED(int, count);
  const BlockTeam team{scratch};
  const Shape& shape = job.scores.shape;
  const RankMemory working(memory, doubles, shape);
  for (std::int64_t row = team.first(); row < shape.rows; row += team.step()) {
    const double temperature = temperature_of(job.temperature, row, /*may_be_zero=*/true);
    const LargestKeys largest = largest_keys<T>(job.scores, row, team);
    // Where a low temperature takes the largest finite logit out of range, that is subtracted first.
    const double finite = score_of_key(largest.of_finite);
    const bool overflows = job.relative && temperature > 0 && temperature < 1 && finite > -__builtin_inf() &&
                           is_undefined(RowQuotient<C>(temperature).exact(static_cast<C>(finite)));
    const RowQuotient<C> quotient(temperature, overflows ? finite : 0);
    find_keys<T>(working.keys, job.scores, row, quotient, team);
    const std::int64_t limit = find_limit(working.keys, shape, job.k, team);

    if (team.rank() == 0) count = 0;
    __syncthreads();
    for_my_classes(team, shape, [&](std::int64_t k) {
      const std::int64_t key = working.keys[k];
      if (key < limit) return;
      C logit[1] = {};
      if (key == order_key(-__builtin_inf())) Logits<T, 1>(job.scores, row, k).load(logit, 0, 1);
      working.ranked[atomicAdd(&count, 1)] = {key, order_key(static_cast<double>(logit[0])), k};
    });
    __syncthreads();
    const bool defined = !is_undefined(score_of_key(largest.of_all)) && temperature == temperature;
    const C base = defined ? quotient.exact(static_cast<C>(finite)) : C(0);
    sort_ranked(working.ranked, count, team);
    for (std::int64_t i = team.rank(); i < job.k; i += team.size()) {
      job.index[row * job.k + i] = working.ranked[i].index;
      double score = score_of_key(working.ranked[i].key);
      if (job.relative) {
        score -= static_cast<double>(base);
        if (temperature == 0) score = i == 0 ? 0 : -__builtin_inf();
        if (!defined) score = __builtin_nan("");
      }
      static_cast<C*>(job.found)[row * job.k + i] = static_cast<C>(score);
    }
    __syncthreads();
  }
}

}  // namespace gumbel_ext::cuda
