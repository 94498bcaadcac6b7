// The forward row kernel: softmax(scores / tau), one_hot(argmax(scores)), or both.
#pragma once

#include "scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// Softmax's exponent, base 2: with h = score / 2 - max / 2 (halved, so that no difference overflows) the
// exponential is 2^(h * scale).
template <typename C>
struct ExponentScale {
  TwoPart<C> scale;  // 2 log2(e) / tau
  C lowest;          // h below this underflows to zero

  GUMBEL_EXT_INLINE explicit ExponentScale(double tau) {
    constexpr double kLog2EHigh = 0x1.71547652b82fep+0, kLog2ELow = 0x1.777d0ffda0d24p-56;
    constexpr double kLargest = sizeof(C) == 4 ? 0x1p126 : 0x1p1022;  // keeps h * scale finite near h = 0
    double high = 2 * kLog2EHigh / tau;
    double low = (fused_multiply_add(-high, tau, 2 * kLog2EHigh) + 2 * kLog2ELow) / tau;
    if (!(high < kLargest)) high = kLargest, low = 0;
    scale.high = static_cast<C>(high);
    scale.low = static_cast<C>((high - static_cast<double>(scale.high)) + low);
    const double bound = FloatTraits<C>::kExp2Lowest / high;
    lowest = bound < -static_cast<double>(FloatTraits<C>::kLargest) ? -FloatTraits<C>::kLargest : static_cast<C>(bound);
  }
  GUMBEL_EXT_INLINE double relative(double score, double max) const {
    return __builtin_exp2((score / 2 - max / 2) * (static_cast<double>(scale.high) + static_cast<double>(scale.low)));
  }
};

// values[k] = exp((scores[k] - max) / tau) * 2^kExp2Shift, exactly 0 where the score is -infinity;
// the sum of them over whole vectors.
template <typename C>
GUMBEL_EXT_INLINE double exponentials(C* __restrict values, std::int64_t n, C max, const ExponentScale<C>& exponent) {
  const C minus_half_max = C(-0.5) * max, lowest = exponent.lowest;
  const TwoPart<C> scale = exponent.scale;
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) {
    const C score = values[k];
    C h = fused_multiply_add(score, C(0.5), minus_half_max);
    h = h > lowest ? h : lowest;
    const C power = exp2_shifted(h, scale);
    values[k] = score == -C(__builtin_inff()) ? C(0) : power;
  }
  return sum_chunks<C>(n / kLanes<C>, [&](std::int64_t chunk) __attribute__((always_inline)) {
    return load(values + chunk * kLanes<C>);
  });
}

// A row with NaN, with +infinity or with nothing but -infinity has no softmax.
GUMBEL_EXT_INLINE bool is_undefined(double max) {
  return !(max - max == 0);
}

template <typename T>
GUMBEL_EXT_INLINE void write_one_hot(const Rows& out, std::int64_t row, std::int64_t begin, std::int64_t width,
                                     double max, std::int64_t index) {
  using C = Compute<T>;
  const bool undefined = is_undefined(max);
  fill_row<T>(out, row, begin, width, undefined ? C(__builtin_nanf("")) : C(0));
  if (!undefined && index >= begin && index < begin + width) fill_row<T>(out, row, index, 1, C(1));
}

// y = values * factor, where factor may lie below the working precision's normal range.
template <typename T>
GUMBEL_EXT_INLINE void write_scaled(const Rows& out, std::int64_t row, std::int64_t begin, std::int64_t width,
                                    Compute<T>* values, double factor) {
  using C = Compute<T>;
  if (factor < static_cast<double>(FloatTraits<C>::kSmallestNormal)) {
    for (std::int64_t k = 0; k < width; ++k) values[k] = static_cast<C>(static_cast<double>(values[k]) * factor);
    factor = 1;
  }
  write_row<T>(out, row, begin, width, values, static_cast<C>(factor));
}

template <typename T>
void forward_tile(const ForwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Shape& shape = job.scores.shape;
  const Tile tile(shape, group, tile_index);
  Buffers<C> buffers(shape, workspace);
  const bool only_tile = shape.tiles() == 1;
  const std::int64_t stride = padded<C>(tile.width);

  stage_logits<T>(job.scores.logits, job.scores.mask, tile, buffers);
  if (job.scores.noise.on) {
    fill_words(job.scores.noise, tile, 0, buffers);
    words_to_noise(job.scores.noise, tile, 0, buffers);
  }
  ExponentScale<C> exponent(job.tau[tile.first_row]);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t row = tile.first_row + r;
    C* scores = only_tile ? buffers.scores + r * stride
                          : static_cast<C*>(group.row_buffer) + (r * shape.tiles() + tile_index) * kTileClasses;
    const C* noise = job.scores.noise.on ? buffers.noise + r * tile.noise_stride() : nullptr;
    const RowMax<C> found = add_noise(scores, buffers.rows[r], noise, tile.width);
    TileStats stats{static_cast<double>(found.has_nan ? C(__builtin_nanf("")) : found.max), 0, 0, tile.begin};
    if (job.one_hot && !is_undefined(stats.max)) stats.argmax += find_first(scores, found.max);
    if (job.relaxed && !is_undefined(stats.max)) {
      if (job.tau.rows && r > 0) exponent = ExponentScale<C>(job.tau[row]);
      stats.sum = exponentials(scores, stride, found.max, exponent);
    }
    if (!only_tile) {
      group.stats[tile_index * group.rows + r] = stats;
      continue;
    }
    if (job.one_hot) write_one_hot<T>(job.one_hot, row, 0, tile.width, stats.max, stats.argmax);
    if (!job.relaxed) continue;
    if (is_undefined(stats.max))
      fill_row<T>(job.relaxed, row, 0, tile.width, C(__builtin_nanf("")));
    else
      write_scaled<T>(job.relaxed, row, 0, tile.width, scores, 1 / stats.sum);
  }
}

// One row's statistics over all its tiles. An undefined maximum (NaN above +infinity) stays.
GUMBEL_EXT_INLINE TileStats combine_max(const GroupState& group, std::int64_t tiles, std::int64_t r) {
  TileStats row = group.stats[r];
  for (std::int64_t t = 1; t < tiles; ++t) {
    const TileStats& next = group.stats[t * group.rows + r];
    if (row.max == row.max && !(next.max <= row.max)) row = next;
  }
  return row;
}

template <typename T>
void forward_finish(const ForwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace) {
  using C = Compute<T>;
  const Shape& shape = job.scores.shape;
  const Tile tile(shape, group, tile_index);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t row = tile.first_row + r, tiles = shape.tiles();
    const TileStats best = combine_max(group, tiles, r);
    if (job.one_hot) write_one_hot<T>(job.one_hot, row, tile.begin, tile.width, best.max, best.argmax);
    if (!job.relaxed) continue;
    if (is_undefined(best.max)) {
      fill_row<T>(job.relaxed, row, tile.begin, tile.width, C(__builtin_nanf("")));
      continue;
    }
    const ExponentScale<C> exponent(job.tau[row]);
    double sum = 0;
    for (std::int64_t t = 0; t < tiles; ++t) {
      const TileStats& stats = group.stats[t * group.rows + r];
      if (stats.sum > 0) sum += stats.sum * exponent.relative(stats.max, best.max);
    }
    const double tile_max = group.stats[tile_index * group.rows + r].max;
    C* values = static_cast<C*>(group.row_buffer) + (r * tiles + tile_index) * kTileClasses;
    // A tile of nothing but -infinity was left as it is.
    const bool empty = is_undefined(tile_max);
    if (empty)
      fill_row<T>(job.relaxed, row, tile.begin, tile.width, C(0));
    else
      write_scaled<T>(job.relaxed, row, tile.begin, tile.width, values, exponent.relative(tile_max, best.max) / sum);
  }
}

// One-hot rows whose argmax is known.
template <typename T>
void one_hot_rows(const ForwardJob& job, const GroupState& group, const Best* best) {
  for (std::int64_t r = 0; r < group.rows; ++r)
    write_one_hot<T>(job.one_hot, group.first_row + r, 0, job.scores.shape.classes, best[r].score, best[r].index);
}

template <typename T>
void noise_tile(const NoiseJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Tile tile(job.shape, group, tile_index);
  Buffers<C> buffers(job.shape, workspace);
  fill_words(job.noise, tile, 0, buffers);
  words_to_noise(job.noise, tile, 0, buffers);
  for (std::int64_t r = 0; r < tile.rows; ++r)
    write_row<T>(job.out, tile.first_row + r, tile.begin, tile.width, buffers.noise + r * tile.noise_stride(), C(1));
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
