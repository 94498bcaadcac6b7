// The first stages of every operation: noise for a tile of a group, and logits + noise.
#pragma once

#include "../core/gumbel.h"
#include "philox_fill.h"
#include "workspace.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// A tile of a group: rows [first_row, first_row + rows) x classes [begin, begin + width).
struct Tile {
  std::int64_t first_row;
  std::int64_t rows;
  std::int64_t begin;
  std::int64_t width;

  GUMBEL_EXT_INLINE Tile(const Shape& shape, const GroupState& group, std::int64_t tile)
      : first_row(group.first_row), rows(group.rows), begin(tile * kTileClasses) {
    const std::int64_t left = shape.classes - begin;
    width = left < kTileClasses ? left : kTileClasses;
  }
  template <typename T>
  GUMBEL_EXT_INLINE RowSink<T> sink(const Rows& out, Compute<T>* scratch) const {
    return RowSink<T>(out, first_row, rows, begin, width, scratch);
  }
  // Classes a row takes up in the noise buffers: whole Philox counters.
  GUMBEL_EXT_INLINE std::int64_t noise_stride() const {
    return round_up(width, kPhiloxWords);
  }
};

GUMBEL_EXT_INLINE std::uint64_t seed_of(const Noise& noise, std::int64_t row) {
  return noise.row_seeds ? static_cast<std::uint64_t>(noise.row_seeds[row]) : noise.seed;
}
GUMBEL_EXT_INLINE std::uint64_t counter_row_of(const Noise& noise, std::int64_t row) {
  return noise.row_seeds ? 0 : static_cast<std::uint64_t>(row);
}

// buffers.words[row][class] for the tile, rows noise_stride() apart.
template <typename C>
GUMBEL_EXT_INLINE void fill_words(const Noise& noise, const Tile& tile, std::uint32_t draw, Buffers<C>& buffers) {
  const std::int64_t quads = tile.noise_stride() / kPhiloxWords;
  const std::uint64_t first_quad = static_cast<std::uint64_t>(tile.begin / kPhiloxWords);
  if (tile.rows == 1 || quads % kPhiloxLanes == 0) {
    for (std::int64_t r = 0; r < tile.rows; ++r)
      philox_fill_row(buffers.words + r * tile.noise_stride(), quads, first_quad, draw,
                      counter_row_of(noise, tile.first_row + r), seed_of(noise, tile.first_row + r));
    return;
  }
  std::int64_t i = 0;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::uint64_t row = counter_row_of(noise, tile.first_row + r), seed = seed_of(noise, tile.first_row + r);
    for (std::int64_t quad = 0; quad < quads; ++quad, ++i) {
      buffers.quads[i] = first_quad + quad;
      buffers.counter_rows[i] = row;
      buffers.counter_seeds[i] = seed;
    }
  }
  philox_fill_each(buffers.words, i, buffers.quads, draw, buffers.counter_rows, buffers.counter_seeds);
}

// The noise of one word below kTailWords.
template <typename C>
GUMBEL_EXT_INLINE C tail_noise(const Noise& noise, std::int64_t row, std::int64_t cls, std::uint32_t draw,
                               std::uint32_t word) {
  const PhiloxWords more = philox_words(seed_of(noise, row), counter_row_of(noise, row),
                                        static_cast<std::uint32_t>(cls / kPhiloxWords), draw + kTailDraw);
  return gumbel_tail<C>(word, more.word[cls % kPhiloxWords]);
}

// buffers.noise[row][class] from buffers.words, both noise_stride() apart.
template <typename C>
GUMBEL_EXT_INLINE void words_to_noise(const Noise& noise, const Tile& tile, std::uint32_t draw, Buffers<C>& buffers) {
  const std::int64_t count = tile.rows * tile.noise_stride();
  const std::uint32_t* __restrict words = buffers.words;
  C* __restrict out = buffers.noise;
  std::uint32_t smallest = ~0u;
#pragma omp simd reduction(min : smallest)
  for (std::int64_t i = 0; i < count; ++i) {
    smallest = words[i] < smallest ? words[i] : smallest;
    out[i] = gumbel_from_word<C>(words[i]);
  }
  if (smallest >= kTailWords) return;
  for (std::int64_t i = 0; i < count; ++i)
    if (words[i] < kTailWords)
      out[i] = tail_noise<C>(noise, tile.first_row + i / tile.noise_stride(), tile.begin + i % tile.noise_stride(),
                             draw, words[i]);
}

// Points buffers.rows at the tile's logits as C, -infinity where the mask is false.
template <typename T>
GUMBEL_EXT_INLINE void stage_logits(const Rows& logits, const Rows& mask, const Tile& tile,
                                    Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  stage_rows<T>(buffers.rows, buffers.staged, logits, tile.first_row, tile.rows, tile.begin, tile.width);
  if (!mask) return;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::uint8_t* row = element<std::uint8_t>(mask, tile.first_row + r, tile.begin);
    if (mask.class_stride != 1) {
      for (std::int64_t k = 0; k < tile.width; ++k) buffers.mask[k] = row[k * mask.class_stride];
      row = buffers.mask;
    }
    const C* in = buffers.rows[r];
    C* out = buffers.writable_row(r, padded<C>(tile.width));
#pragma omp simd
    for (std::int64_t k = 0; k < tile.width; ++k) {
      const std::int32_t allowed = row[k];  // the bytes of a bool tensor: 0 and 1
      const C logit = in[k];
      out[k] = allowed != 0 ? logit : -C(__builtin_inff());
    }
    buffers.rows[r] = out;
  }
}

template <typename C>
struct RowMax {
  C max;
  bool has_nan;
};

// scores[k] = logits[k] (+ noise[k]), and their maximum. Pads to a whole vector with -infinity.
template <typename C>
GUMBEL_EXT_INLINE RowMax<C> add_noise(C* scores, const C* logits, const C* noise, std::int64_t n) {
  const C lowest = -C(__builtin_inff());
  constexpr int kRuns = 4;  // maxima of every fourth vector: one alone would wait for itself
  Vec<C> largest[kRuns];
  VecMask<C> nan[kRuns] = {};
  for (Vec<C>& run : largest) run = broadcast(lowest);
  const auto add = [&](std::int64_t k, Vec<C> v, int run) __attribute__((always_inline)) {
    store(scores + k, v);
    largest[run] = max<C>(v, largest[run]);
    nan[run] |= v != v;
  };
  std::int64_t k = 0;
  if (noise) {
    for (; k + kRuns * kLanes<C> <= n; k += kRuns * kLanes<C>)
#pragma GCC unroll 4
      for (int run = 0; run < kRuns; ++run) {
        const std::int64_t i = k + run * kLanes<C>;
        add(i, load(logits + i) + load(noise + i), run);
      }
  }
  for (; k + kLanes<C> <= n; k += kLanes<C>) add(k, noise ? load(logits + k) + load(noise + k) : load(logits + k), 0);
  if (k < n) {
    Vec<C> v = load_first(logits + k, n - k);
    if (noise) v += load(noise + k);
    add(k, keep_first(v, n - k, lowest), 0);
  }
  const Vec<C> all = max<C>(max<C>(largest[0], largest[1]), max<C>(largest[2], largest[3]));
  return {largest_lane<C>(all), any_lane<C>(nan[0] | nan[1] | nan[2] | nan[3])};
}

// The first k with scores[k] == value, or, where `value` is NaN, the first NaN. Requires: there is one.
template <typename C>
GUMBEL_EXT_INLINE std::int64_t find_first(const C* scores, C value) {
  for (std::int64_t k = 0;; k += kLanes<C>) {
    const Vec<C> v = load(scores + k);
    const VecMask<C> hit = value == value ? (v == broadcast(value)) : (v != v);
    if (any_lane<C>(hit)) return k + first_lane<C>(hit);
  }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
