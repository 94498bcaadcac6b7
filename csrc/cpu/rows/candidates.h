// What the search (index.h) does with candidates for the k best classes.
#pragma once

#include "../tile/scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

static_assert(Candidates::kMostAtOnce >= kLanes<float>);

GUMBEL_EXT_INLINE void clear(Candidates& found) {
  found.clear();
}

// Takes those of scores[0..n), of the classes from `begin` on, that beat found.score.
template <typename C>
GUMBEL_EXT_INLINE void update_best(Candidates& found, const C* scores, std::int64_t n, const RunningMax<C>&,
                                   std::int64_t begin) {
  constexpr std::uint32_t kAll = (1u << kLanes<C>) - 1;
  for (std::int64_t k = 0; k < n; k += kLanes<C>) {
    std::uint32_t bits = n - k < kLanes<C> ? (1u << (n - k)) - 1 : kAll;
    if (!found.takes_all) {
      if (found.score != found.score) return;
      const Vec<C> limit = broadcast(static_cast<C>(found.score)), some = load(scores + k);
      bits &= lane_bits<C>(by_parts<VecMask<C>>(
          [](auto score, auto limit) __attribute__((always_inline)) { return (score > limit) | (score != score); }, some,
          limit));
    }
    for (; bits != 0; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      found.take(static_cast<double>(scores[k + lane]), begin + k + lane);
    }
    found.make_room();
  }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
