// The forward row kernel: softmax(scores / tau), and, where wanted, one_hot(argmax(scores)) beside it.
#pragma once

#include "scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// Softmax's exponent, base 2: with h = score / 2 - max / 2 (halved, so that no difference overflows) the
// exponential is 2^(h * scale).
template <typename C>
struct ExponentScale {
  double tau;
  TwoPart<C> scale;  // 2 log2(e) / tau
  C lowest;          // h below this underflows to zero
  bool is_extreme;   // tau so small that scale leaves the working precision

  GUMBEL_EXT_INLINE explicit ExponentScale(double tau) : tau(tau) {
    constexpr double kLog2EHigh = 0x1.71547652b82fep+0, kLog2ELow = 0x1.777d0ffda0d24p-56;
    constexpr double kLargest = sizeof(C) == 4 ? 0x1p120 : 0x1p1010;
    const double high = 2 * kLog2EHigh / tau;
    const double low = (fused_multiply_add(-high, tau, 2 * kLog2EHigh) + 2 * kLog2ELow) / tau;
    is_extreme = !(high < kLargest);
    scale.high = static_cast<C>(high);
    scale.low = static_cast<C>((high - static_cast<double>(scale.high)) + low);
    const double bound = FloatTraits<C>::kExp2Lowest / high;
    lowest = bound < -static_cast<double>(FloatTraits<C>::kLargest) ? -FloatTraits<C>::kLargest : static_cast<C>(bound);
  }
  // exp((score - max) / tau)
  GUMBEL_EXT_INLINE double relative(double score, double max) const {
    return __builtin_exp((score / 2 - max / 2) / tau * 2);
  }
};

// values[k] = exp(score / tau) * 2^kExp2Shift, where values held h = score / 2 - max / 2; exactly 0 where
// the score was -infinity.
template <typename C>
GUMBEL_EXT_INLINE void exponentials(C* __restrict values, std::int64_t n, const ExponentScale<C>& exponent) {
  const C lowest = exponent.lowest;
  const TwoPart<C> scale = exponent.scale;
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) {
    const C h = values[k];
    const C power = exp2_shifted(h > lowest ? h : lowest, scale);
    values[k] = h == -C(__builtin_inff()) ? C(0) : power;
  }
}

// values[k] = values[k] / 2 - max / 2, over whole vectors.
template <typename C>
GUMBEL_EXT_INLINE void subtract_max(C* values, std::int64_t n, C max) {
  const C half_max = C(0.5) * max;
  for (std::int64_t k = 0; k < n; k += kLanes<C>) store(values + k, load(values + k) * C(0.5) - half_max);
}

// A row with NaN, with +infinity or with nothing but -infinity has no softmax.
GUMBEL_EXT_INLINE bool is_undefined(double max) {
  return !(max - max == 0);
}

// one_hot(index) for the tile's rows, NaN where a row is undefined; best(r) is a row's maximum and argmax.
template <typename T, typename RowBest>
GUMBEL_EXT_INLINE void write_one_hot(const Rows& out, const Tile& tile, Buffers<Compute<T>>& buffers, RowBest best) {
  using C = Compute<T>;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const Best row = best(r);
    buffers.hot[r] = is_undefined(row.score) ? -1 : row.index - tile.begin;
    buffers.filler[r] = is_undefined(row.score) ? C(__builtin_nanf("")) : C(0);
  }
  write_hot_rows<T>(out, tile.first_row, tile.rows, tile.begin, tile.width, buffers.hot, buffers.filler);
}

// out = values * factor, where factor may lie below the working precision's normal range.
template <typename C>
GUMBEL_EXT_INLINE void scale_values(C* out, const C* values, std::int64_t n, double factor) {
  if (factor >= static_cast<double>(FloatTraits<C>::kSmallestNormal)) {
    scale_row(out, values, static_cast<C>(factor), n);
    return;
  }
  for (std::int64_t k = 0; k < n; ++k) out[k] = static_cast<C>(static_cast<double>(values[k]) * factor);
}

template <typename C>
GUMBEL_EXT_INLINE void fill_values(C* out, std::int64_t n, C value) {
  for (std::int64_t k = 0; k < n; ++k) out[k] = value;
}

// The scores of the tile's rows at `scores`, `stride` apart, turned into h for the exponentials, and their
// statistics but for the sums.
template <typename C>
GUMBEL_EXT_INLINE void score_rows(const ForwardJob& job, const Tile& tile, const Buffers<C>& buffers, C* scores,
                                  std::int64_t stride, TileStats* stats) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    C* row = scores + r * stride;
    const C* noise = job.scores.noise.on ? buffers.noise + r * tile.noise_stride() : nullptr;
    const RowMax<C> found = add_noise(row, buffers.rows[r], noise, tile.width);
    stats[r] = {static_cast<double>(found.has_nan ? C(__builtin_nanf("")) : found.max), 0, 0, tile.begin};
    if (is_undefined(stats[r].max)) continue;
    if (job.one_hot) stats[r].argmax += find_first(row, found.max);
    subtract_max(row, padded<C>(tile.width), found.max);
  }
}

// The rows' h turned into exponentials.
template <typename C>
GUMBEL_EXT_INLINE void exponentiate_rows(const RowScalar& tau, const Tile& tile, C* scores, std::int64_t stride) {
  const ExponentScale<C> first(tau[tile.first_row]);
  const std::int64_t width = padded<C>(tile.width);
  if (!tau.rows && stride == width && !first.is_extreme) {
    exponentials(scores, tile.rows * stride, first);
    return;
  }
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    C* row = scores + r * stride;
    const ExponentScale<C> exponent(tau[tile.first_row + r]);
    if (!exponent.is_extreme) {
      exponentials(row, width, exponent);
      continue;
    }
    const double unit = FloatTraits<C>::kExp2Shift == 64 ? 0x1p64 : 0x1p512;
    for (std::int64_t k = 0; k < width; ++k)
      row[k] = static_cast<C>(__builtin_exp(static_cast<double>(row[k]) / exponent.tau * 2) * unit);
  }
}

template <typename T>
void forward_tile(const ForwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Shape& shape = job.scores.shape;
  const Tile tile(shape, group, tile_index);
  Buffers<C> buffers(shape, workspace);
  const bool only_tile = shape.tiles() == 1;
  C* scores = only_tile ? buffers.scores : static_cast<C*>(group.row_buffer) + tile_index * kTileClasses;
  const std::int64_t stride = only_tile ? padded<C>(tile.width) : shape.tiles() * kTileClasses;
  TileStats* stats = group.stats + tile_index * group.rows;

  stage_logits<T>(job.scores.logits, job.scores.mask, tile, buffers);
  if (job.scores.noise.on) {
    fill_words(job.scores.noise, tile, 0, buffers);
    words_to_noise(job.scores.noise, tile, 0, buffers);
  }
  score_rows(job, tile, buffers, scores, stride, stats);
  exponentiate_rows(job.tau, tile, scores, stride);
  const RowSink<T> sink = tile.sink<T>(job.relaxed, buffers.staged);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const C* values = scores + r * stride;
    const bool undefined = is_undefined(stats[r].max);
    if (!undefined)
      stats[r].sum = sum_chunks<C>(padded<C>(tile.width) / kLanes<C>,
                                   [&](std::int64_t chunk)
                                       __attribute__((always_inline)) { return load(values + chunk * kLanes<C>); });
    if (!only_tile) continue;
    if (undefined)
      fill_values(sink.row(r), tile.width, C(__builtin_nanf("")));
    else
      scale_values(sink.row(r), values, tile.width, 1 / stats[r].sum);
  }
  if (!only_tile) return;
  sink.finish();
  if (job.one_hot)
    write_one_hot<T>(job.one_hot, tile, buffers, [&](std::int64_t r) __attribute__((always_inline)) {
      return Best{stats[r].max, stats[r].argmax};
    });
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
void forward_finish(const ForwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Shape& shape = job.scores.shape;
  const Tile tile(shape, group, tile_index);
  Buffers<C> buffers(shape, workspace);
  const RowSink<T> sink = tile.sink<T>(job.relaxed, buffers.staged);
  const std::int64_t tiles = shape.tiles();
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const TileStats best = combine_max(group, tiles, r);
    const double tile_max = group.stats[tile_index * group.rows + r].max;
    if (is_undefined(best.max) || is_undefined(tile_max)) {  // no row, or a tile of nothing but -infinity
      fill_values(sink.row(r), tile.width, is_undefined(best.max) ? C(__builtin_nanf("")) : C(0));
      continue;
    }
    const ExponentScale<C> exponent(job.tau[tile.first_row + r]);
    double sum = 0;
    for (std::int64_t t = 0; t < tiles; ++t) {
      const TileStats& stats = group.stats[t * group.rows + r];
      if (stats.sum > 0) sum += stats.sum * exponent.relative(stats.max, best.max);
    }
    const C* values = static_cast<C*>(group.row_buffer) + (r * tiles + tile_index) * kTileClasses;
    scale_values(sink.row(r), values, tile.width, exponent.relative(tile_max, best.max) / sum);
  }
  sink.finish();
  if (job.one_hot)
    write_one_hot<T>(job.one_hot, tile, buffers, [&](std::int64_t r) __attribute__((always_inline)) {
      const TileStats best = combine_max(group, tiles, r);
      return Best{best.max, best.argmax};
    });
}

// A tile of one-hot rows whose argmax is known.
template <typename T>
void one_hot_tile(const ForwardJob& job, const GroupState& group, std::int64_t tile_index, const Best* best,
                  Workspace workspace) {
  Buffers<Compute<T>> buffers(job.scores.shape, workspace);
  write_one_hot<T>(job.one_hot, Tile(job.scores.shape, group, tile_index), buffers,
                   [&](std::int64_t r) __attribute__((always_inline)) { return best[r]; });
}

template <typename T>
void noise_tile(const NoiseJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Tile tile(job.shape, group, tile_index);
  Buffers<C> buffers(job.shape, workspace);
  fill_words(job.noise, tile, 0, buffers);
  words_to_noise(job.noise, tile, 0, buffers);
  const RowSink<T> sink = tile.sink<T>(job.out, buffers.staged);
  for (std::int64_t r = 0; r < tile.rows; ++r)
    scale_row(sink.row(r), buffers.noise + r * tile.noise_stride(), C(1), tile.width);
  sink.finish();
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
