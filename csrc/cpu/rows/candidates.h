// What the search (index.h) does with candidates for the k best classes.
#pragma once

#include "../tile/scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

static_assert(Candidates::kMostAtOnce >= kLanes<float>);

GUMBEL_EXT_INLINE void clear(Candidates& found) {
  found.clear();
}

// A bit for each of the first n lanes.
template <typename C>
GUMBEL_EXT_INLINE std::uint32_t first_lanes(std::int64_t n) {
  return n < kLanes<C> ? (1u << n) - 1 : (1u << kLanes<C>)-1;
}

// Takes those of the first n scores that beat found.score; index(lane) is a score's class.
template <typename C, typename Index>
GUMBEL_EXT_INLINE void take_lanes(Candidates& found, const Vec<C>& scores, std::int64_t n, Index index) {
  std::uint32_t bits = first_lanes<C>(n);
  if (!found.takes_all) {
    if (found.score != found.score) return;  // k of them are NaN
    bits &= lane_bits<C>(by_parts<VecMask<C>>(
        [](auto score, auto limit) __attribute__((always_inline)) { return (score > limit) | (score != score); },
        scores, broadcast(static_cast<C>(found.score))));
  }
  if (bits == 0) return;
  C lanes[kLanes<C>];
  store(lanes, scores);
  for (; bits != 0; bits &= bits - 1) {
    const int lane = __builtin_ctz(bits);
    found.take(static_cast<double>(lanes[lane]), index(lane));
  }
  found.make_room();
}

// Takes those of scores[0..n), of the classes from `begin` on.
template <typename C>
GUMBEL_EXT_INLINE void update_best(Candidates& found, const C* scores, std::int64_t n, const RunningMax<C>&,
                                   std::int64_t begin) {
  for (std::int64_t k = 0; k < n; k += kLanes<C>)
    take_lanes<C>(found, load(scores + k), n - k,
                  [&](int lane) __attribute__((always_inline)) { return begin + k + lane; });
}

// One row's tile. Part after part of it, the classes are found whose words are small enough, and then, of those alone,
// the scores.
template <typename T>
GUMBEL_EXT_INLINE void search_row(Candidates& found, const Noise& noise, const Tile& tile, std::int64_t row,
                                  std::uint32_t draw, const T* logits, const std::uint32_t* words) {
  constexpr int kWidth = kLanes<float>;
  constexpr std::int64_t kPart = 512;
  std::int64_t hits[kPart + kWidth];
  for (std::int64_t part = 0; part < tile.width; part += kPart) {
    const std::int64_t end = tile.width - part < kPart ? tile.width : part + kPart;
    const float offset = WordLimit::offset(static_cast<float>(found.score));
    std::int64_t count = 0;
    for (std::int64_t k = part; k < end; k += kWidth) {
      const std::int64_t left = end - k;
      const Vec<float> some = left < kWidth ? widen_lanes(logits + k, left) : widen_vector(logits + k);
      std::uint32_t bits = first_lanes<float>(left) & lane_bits<float>(may_win(some, words + k, offset));
      for (; bits != 0; bits &= bits - 1) hits[count++] = k + __builtin_ctz(bits);
    }
    for (int i = 0; i < kWidth; ++i) hits[count + i] = part;  // fills the last vector
    for (std::int64_t h = 0; h < count; h += kWidth) {
      float some[kWidth], some_noise[kWidth];
      std::uint32_t some_words[kWidth];
      for (int i = 0; i < kWidth; ++i) {
        some[i] = widen(logits[hits[h + i]]);
        some_words[i] = words[hits[h + i]];
      }
      words_to_noise(some_noise, some_words, kWidth, [&](std::int64_t lane) __attribute__((always_inline)) {
        return tail_noise<float>(noise, row, tile.begin + hits[h + lane], draw, some_words[lane]);
      });
      take_lanes<float>(found, load(some) + load(some_noise), count - h,
                        [&](int lane) __attribute__((always_inline)) { return tile.begin + hits[h + lane]; });
    }
  }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
