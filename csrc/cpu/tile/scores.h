// The first stages of the forward, index and noise kernels: noise for a tile, and logits + noise.
#pragma once

#include "../../core/search.h"
#include "../simd/elementary.h"
#include "../simd/philox.h"
#include "../simd/reduce.h"
#include "buffers.h"
#include "tile.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

GUMBEL_EXT_INLINE std::uint64_t seed_of(const Noise& noise, std::int64_t row) {
  return noise.row_seeds ? static_cast<std::uint64_t>(noise.row_seeds[row]) : noise.seed;
}

// fill(keys_at), where keys_at(i) are the round keys of `noise` for the seeds at seeds_at(i).
template <typename SeedsAt, typename Fill>
GUMBEL_EXT_INLINE void with_round_keys(const Noise& noise, SeedsAt seeds_at, Fill fill) {
  if (noise.row_seeds) {
    fill([&](std::int64_t i) __attribute__((always_inline)) { return RoundKeys(seeds_at(i)); });
  } else {
    const RoundKeys keys = keep_round_keys(noise.seed);
    fill([&](std::int64_t) __attribute__((always_inline)) -> const RoundKeys& { return keys; });
  }
}

struct Nothing {
  GUMBEL_EXT_INLINE void operator()() const {
  }
};

// The words of `quads` counters from `first_quad` on, of each of the tile's rows, to buffers.words.
template <typename C, typename Meanwhile>
GUMBEL_EXT_INLINE void fill_counters(const Noise& noise, const Tile& tile, std::uint32_t draw, Buffers<C>& buffers,
                                     std::uint64_t first_quad, std::int64_t quads, Meanwhile& meanwhile) {
  if (tile.rows == 1 || (!noise.row_seeds && noise.numbers.rows_in_order && quads % kPhiloxLanes == 0)) {
    philox_fill_rows(buffers.words, tile.rows, quads, first_quad, draw, noise.counter_row(tile.first_row),
                     seed_of(noise, tile.first_row), meanwhile);
    return;
  }
  std::int64_t i = 0;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::uint64_t row = noise.counter_row(tile.first_row + r), seed = seed_of(noise, tile.first_row + r);
    for (std::int64_t quad = 0; quad < quads; ++quad, ++i) {
      buffers.quads[i] = first_quad + quad;
      buffers.counter_rows[i] = row;
      if (noise.row_seeds) buffers.counter_seeds[i] = seed;
    }
  }
  with_round_keys(
      noise, [&](std::int64_t at) __attribute__((always_inline)) { return buffers.counter_seeds + at; },
      [&](auto keys_at) __attribute__((always_inline)) {
        philox_fill_each(buffers.words, i, buffers.quads, draw, buffers.counter_rows, keys_at, meanwhile);
      });
}

// buffers.words[row][class] for the tile, rows noise_stride() apart.
template <typename C, typename Meanwhile = Nothing>
GUMBEL_EXT_INLINE void fill_words(const Noise& noise, const Tile& tile, std::uint32_t draw, Buffers<C>& buffers,
                                  Meanwhile meanwhile = Meanwhile()) {
  const ClassCounter first(noise, tile.begin);
  const std::int64_t quads = divide_up(first.place + tile.width, kPhiloxWords);
  fill_counters(noise, tile, draw, buffers, first.quad, quads, meanwhile);
  for (std::int64_t r = 0; first.place != 0 && r < tile.rows; ++r)
    __builtin_memmove(buffers.words + r * tile.noise_stride(), buffers.words + r * kPhiloxWords * quads + first.place,
                      tile.width * sizeof(*buffers.words));
}

// The word of one class.
GUMBEL_EXT_INLINE std::uint32_t word_of(const Noise& noise, std::int64_t row, std::int64_t cls, std::uint32_t draw) {
  const ClassCounter counter(noise, cls);
  return philox_words(seed_of(noise, row), noise.counter_row(row), counter.quad, draw).word[counter.place];
}

// The noise of one word below kTailWords.
template <typename C>
GUMBEL_EXT_INLINE C tail_noise(const Noise& noise, std::int64_t row, std::int64_t cls, std::uint32_t draw,
                               std::uint32_t word) {
  return gumbel_tail<C>(word, word_of(noise, row, cls, draw + kTailDraw));
}

// The noise of `count` words, as noise_of_words takes them; tail(i) is that of a word below kTailWords.
template <typename C, typename Tail>
GUMBEL_EXT_INLINE void words_to_noise(C* __restrict out, const std::uint32_t* __restrict words, std::int64_t count,
                                      Tail tail) {
  if (noise_of_words(out, words, count) >= kTailWords) return;
  for (std::int64_t i = 0; i < count; ++i)
    if (words[i] < kTailWords) out[i] = tail(i);
}

// buffers.noise[row][class] from buffers.words, both noise_stride() apart.
template <typename C>
GUMBEL_EXT_INLINE void tile_noise(const Noise& noise, const Tile& tile, std::uint32_t draw, Buffers<C>& buffers) {
  words_to_noise(buffers.noise, buffers.words, tile.rows * tile.noise_stride(),
                 [&](std::int64_t i) __attribute__((always_inline)) {
                   return tail_noise<C>(noise, tile.first_row + i / tile.noise_stride(),
                                        tile.begin + i % tile.noise_stride(), draw, buffers.words[i]);
                 });
}

// Points buffers.rows at the tile's logits; where there is a mask, staged, and -infinity where it is false.
template <typename T>
GUMBEL_EXT_INLINE void stage_logits(const Rows& logits, const Rows& mask, const Tile& tile,
                                    Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  stage_rows<T>(buffers.rows, buffers.staged, logits, tile.first_row, tile.rows, tile.begin, tile.width,
                stays_in_tensor<T>(logits, tile.width));
  if (!mask) return;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::uint8_t* row = element<std::uint8_t>(mask, tile.first_row + r, tile.begin);
    if (mask.class_stride != 1) {
      for (std::int64_t k = 0; k < tile.width; ++k) buffers.mask[k] = row[k * mask.class_stride];
      row = buffers.mask;
    }
    C* out = buffers.writable_row(r, padded<C>(tile.width));
    buffers.template read_row<T>(r, [&](const auto* in) __attribute__((always_inline)) {
#pragma omp simd
      for (std::int64_t k = 0; k < tile.width; ++k) {
        const std::int32_t allowed = row[k];  // the bytes of a bool tensor: 0 and 1
        const C logit = widen(in[k]);
        out[k] = allowed != 0 ? logit : -C(__builtin_inff());
      }
    });
    buffers.rows[r] = out;
  }
}

// Row r of the tile's logits, staged, less their shift over their temperature.
template <typename T>
GUMBEL_EXT_INLINE void divide_row(const Quotient<Compute<T>>& quotient, std::int64_t r, const Tile& tile,
                                  Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  if (quotient.changes_nothing()) return;
  C* out = buffers.writable_row(r, padded<C>(tile.width));
  buffers.template read_row<T>(r, [&](const auto* in) __attribute__((always_inline)) {
    if (quotient.is_extreme) {
      for (std::int64_t k = 0; k < tile.width; ++k) out[k] = quotient(widen(in[k]));
      return;
    }
    const C shift = quotient.shift, t = quotient.temperature;
#pragma omp simd
    for (std::int64_t k = 0; k < tile.width; ++k) out[k] = (widen(in[k]) - shift) / t;
  });
  buffers.rows[r] = out;
}

// scores[k] = logits[k] (+ noise[k]), and their maximum. Pads to a whole vector with -infinity.
template <typename C, typename T>
GUMBEL_EXT_INLINE RunningMax<C> add_noise(C* scores, const T* logits, const C* noise, std::int64_t n) {
  constexpr std::int64_t kLane = kLanes<C>, kPart = kPartLanes<C>;
  constexpr int kRuns = 4;  // independent maxima: one would wait for itself
  RunningMax<C> found;
  std::int64_t k = 0;
  const auto add_runs = [&](auto score) __attribute__((always_inline)) {
    Part<Vec<C>> max[kRuns];
    Part<VecMask<C>> nan[kRuns] = {};
    for (auto& run : max) run = part_of(found.max, 0);
    for (const std::int64_t whole = n - n % (kRuns * kPart); k < whole; k += kRuns * kPart) {
      Part<Vec<C>> parts[kRuns];
#pragma GCC unroll 4
      for (int run = 0; run < kRuns; ++run) {
        parts[run] = score(k + run * kPart);
        max[run] = larger(parts[run], max[run]);
        if constexpr (!kLargerKeepsNan) nan[run] |= parts[run] != parts[run];
      }
#pragma GCC unroll 4
      for (int run = 0; run < kRuns; ++run) __builtin_memcpy(scores + k + run * kPart, parts + run, sizeof *parts);
    }
    for (int run = 0; run < kRuns; run += kVecBytes / kRegisterBytes) {
      RunningMax<C> runs;
      __builtin_memcpy(&runs.max, max + run, sizeof runs.max);
      __builtin_memcpy(&runs.nan, nan + run, sizeof runs.nan);
      found.take(runs);
    }
  };
  if (noise)
    add_runs([&](std::int64_t i)
                 __attribute__((always_inline)) { return load_wide(logits + i) + load_part(noise + i); });
  else
    add_runs([&](std::int64_t i) __attribute__((always_inline)) { return load_wide(logits + i); });
  for (; k < n; k += kLane) {
    Vec<C> v = widen_lanes(logits + k, n - k < kLane ? n - k : kLane);
    if (noise) v += load(noise + k);
    if (k + kLane > n) v = keep_first(v, n - k, -C(__builtin_inff()));
    store(scores + k, v);
    found.take(v);
  }
  return found;
}

// The first k < n with scores[k] == value, or, where `value` is NaN, the first NaN. Requires: there is one; scores
// padded to whole vectors with -infinity.
template <typename C>
GUMBEL_EXT_INLINE std::int64_t find_first(const C* scores, std::int64_t n, C value) {
  const auto hits = [&](std::int64_t k) __attribute__((always_inline)) {
    const Vec<C> v = load(scores + k);
    return lane_bits<C>(value == value ? equal<C>(v, broadcast(value)) : is_nan<C>(v));
  };
  if (n <= kShortVectors * kLanes<C>) {
    static_assert(kShortVectors * kLanes<C> <= 64, "the hits of a short row have to fit a word");
    std::uint64_t bits = 0;  // no branch: where the class lies is as good as random
    for (std::int64_t k = 0; k < n; k += kLanes<C>) bits |= std::uint64_t{hits(k)} << k;
    return __builtin_ctzll(bits);
  }
  for (std::int64_t k = 0;; k += kLanes<C>)
    if (const std::uint32_t bits = hits(k)) return k + __builtin_ctz(bits);
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
