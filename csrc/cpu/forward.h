// The forward row kernel: softmax(scores / tau), and, where wanted, one_hot(argmax(scores)) beside it.
#pragma once

#include "../core/softmax.h"
#include "forward_lanes.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// Scores turned into exponentials, relative to their maximum, over whole vectors.
template <typename C>
GUMBEL_EXT_INLINE void exponentiate(C* __restrict scores, std::int64_t n, const ExponentScale<C>& scale, C max) {
  const bool is_near = !scale.is_extreme && Exponential<C>::is_near(scale.scale, max);
  if (!is_near) {
    const ExponentScale<C> local = scale;
#pragma omp simd
    for (std::int64_t k = 0; k < n; ++k) scores[k] = local.half_difference(scores[k], max);
  }
  const auto exponential = Exponential<C>::of_row(scale.scale, scale.reach, max, is_near);
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) scores[k] = exponential(scores[k]);
}

// one_hot(index) for the tile's rows, NaN where a row is undefined; best(r) is a row's maximum and argmax.
template <typename T, typename RowBest>
GUMBEL_EXT_INLINE void write_one_hot(const Rows& out, const Tile& tile, Buffers<Compute<T>>& buffers, RowBest best) {
  using C = Compute<T>;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const Best row = best(r);
    const std::int64_t hot = row.index - tile.begin;
    buffers.hot[r] = is_undefined(row.score) || hot < 0 || hot >= tile.width ? -1 : hot;
    buffers.filler[r] = is_undefined(row.score) ? C(__builtin_nanf("")) : C(0);
  }
  write_hot_rows<T>(out, tile.first_row, tile.rows, tile.begin, tile.width, buffers.hot, buffers.filler);
}

// out = values * a * b, where a * b may lie below the working precision's normal range.
template <typename T>
GUMBEL_EXT_INLINE void scale_values(T* out, const Compute<T>* values, std::int64_t n, double a, double b) {
  using C = Compute<T>;
  if (a * b >= static_cast<double>(FloatTraits<C>::kSmallestNormal)) {
    scale_row(out, values, static_cast<C>(a * b), n);
    return;
  }
  for (std::int64_t k = 0; k < n; ++k) narrow(static_cast<C>(static_cast<double>(values[k]) * a * b), out[k]);
}

template <typename T>
GUMBEL_EXT_INLINE void fill_values(T* out, std::int64_t n, Compute<T> value) {
  for (std::int64_t k = 0; k < n; ++k) narrow(value, out[k]);
}

// The scores of a tile's rows at `scores`, `stride` apart, turned into exponentials, and their statistics but for the
// sums.
template <typename T>
struct RowScorer {
  using C = Compute<T>;
  const ForwardJob& job;
  const Tile& tile;
  const Buffers<C>& buffers;
  C* scores;
  std::int64_t stride;
  TileStats* stats;
  ExponentScale<C> common;

  GUMBEL_EXT_INLINE LaneMax<C> add(std::int64_t r) const {
    const C* noise = job.scores.noise.on ? buffers.noise + r * tile.noise_stride() : nullptr;
    return buffers.template read_row<T>(r, [&](const auto* logits) __attribute__((always_inline)) {
      return add_noise(scores + r * stride, logits, noise, tile.width);
    });
  }

  GUMBEL_EXT_INLINE void finish(std::int64_t r, C max) const {
    C* row = scores + r * stride;
    stats[r] = {static_cast<double>(max), 0, 0, tile.begin};
    if (is_undefined(stats[r].max)) return;
    if (job.one_hot) stats[r].argmax += find_first(row, tile.width, max);
    exponentiate(row, padded<C>(tile.width),
                 job.tau.rows ? ExponentScale<C>(job.tau.rows[tile.first_row + r]) : common, max);
  }

  // A block of short rows, from row `first` on, their maxima at once.
  static constexpr int kBlock = kFoldedRows<C>;
  GUMBEL_EXT_INLINE void block(std::int64_t first) const {
    LaneMax<C> found[kBlock];
    Vec<C> lanes[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      found[i] = add(first + i);
      lanes[i] = found[i].max;
    }
    C max[kBlock];
    fold_rows<C>(max, lanes, Larger());
    for (int i = 0; i < kBlock; ++i) finish(first + i, any_lane<C>(found[i].nan) ? C(__builtin_nanf("")) : max[i]);
  }

  GUMBEL_EXT_INLINE void all() const {
    std::int64_t r = 0;
    if (tile.width <= kShortVectors * kLanes<C>)
      for (; r + kBlock <= tile.rows; r += kBlock) block(r);
    for (; r < tile.rows; ++r) finish(r, row_max(add(r)));
  }
};

// Where the first row's exponentials of a tile wait for the others; those of row r are r * tiles *
// kTileClasses further on.
template <typename T>
GUMBEL_EXT_INLINE Compute<T>* tile_values(const ForwardJob& job, const GroupState& group, std::int64_t tile) {
  using C = Compute<T>;
  if (!job.in_place) return static_cast<C*>(group.row_buffer) + tile * kTileClasses;
  if (tile == job.scores.shape.tiles() - 1) return static_cast<C*>(group.row_buffer);
  return reinterpret_cast<C*>(element<T>(job.relaxed, group.first_row, tile * kTileClasses));
}

template <typename T>
void forward_tile(const ForwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Shape& shape = job.scores.shape;
  Tile tile(shape, group, tile_index);
  Buffers<C> buffers(shape, workspace);
  // Without noise nothing is asked for beforehand: where registers are long, rows one after the other are soon faster.
  const bool long_registers = kRegisterBytes == kVecBytes;
  const int lane_vectors = long_registers && !job.scores.noise.on ? 1 : kShortVectors;
  const bool is_extreme = any_row(job.tau, tile, ExponentScale<C>::is_extreme_tau);
  if (belongs_in_lanes<C>(job.scores.logits, shape.classes, lane_vectors) && !is_extreme) {
    for_lane_blocks<C>(tile, job.scores.logits, [&](const Tile& block, auto rows) __attribute__((always_inline)) {
      forward_lanes<rows, T>(job, block, buffers);
    });
    if (tile.rows == 0) return;
  }
  const bool only_tile = shape.tiles() == 1;
  C* scores = only_tile ? buffers.scores : tile_values<T>(job, group, tile_index);
  const std::int64_t stride = only_tile ? padded<C>(tile.width) : shape.tiles() * kTileClasses;
  TileStats* stats = group.stats + tile_index * group.rows;

  stage_logits<T>(job.scores.logits, job.scores.mask, tile, buffers);
  if (job.scores.noise.on) {
    fill_words(job.scores.noise, tile, 0, buffers, tile.prefetch<T>(job.scores.logits, job.relaxed, job.one_hot));
    tile_noise(job.scores.noise, tile, 0, buffers);
  }
  RowScorer<T>{job, tile, buffers, scores, stride, stats, ExponentScale<C>(job.tau.value)}.all();
  sum_rows<C>(
      tile.rows, padded<C>(tile.width) / kLanes<C>,
      [&](std::int64_t r, std::int64_t chunk, auto)
          __attribute__((always_inline)) { return load(scores + r * stride + chunk * kLanes<C>); },
      [&](std::int64_t r, double sum)
          __attribute__((always_inline)) { stats[r].sum = is_undefined(stats[r].max) ? 0 : sum; });
  if (!only_tile) return;
  const RowSink<T> sink = tile.sink<T>(job.relaxed, buffers.staged);
  for (std::int64_t r = 0; r < tile.rows; ++r)
    sink.row(r, [&](auto* out) __attribute__((always_inline)) {
      if (is_undefined(stats[r].max))
        fill_values(out, tile.width, C(__builtin_nanf("")));
      else
        scale_values(out, scores + r * stride, tile.width, 1, 1 / stats[r].sum);
    });
  sink.finish();
  if (job.one_hot)
    write_one_hot<T>(job.one_hot, tile, buffers, [&](std::int64_t r) __attribute__((always_inline)) {
      return Best{stats[r].max, stats[r].argmax};
    });
}

// Each row's statistics over all its tiles. An undefined maximum (NaN above +infinity) stays.
template <typename T>
void forward_combine(const ForwardJob& job, const GroupState& group) {
  const std::int64_t tiles = job.scores.shape.tiles();
  for (std::int64_t r = 0; r < group.rows; ++r) {
    TileStats row = group.stats[r];
    for (std::int64_t t = 1; t < tiles; ++t) {
      const TileStats& next = group.stats[t * group.rows + r];
      if (beats(next.max, row.max)) row = next;
    }
    const ExponentScale<Compute<T>> exponent(job.tau[group.first_row + r]);
    row.sum = 0;
    for (std::int64_t t = 0; t < tiles; ++t) {
      const TileStats& tile = group.stats[t * group.rows + r];
      if (tile.sum > 0) row.sum += tile.sum * exponent.relative(tile.max, row.max);
    }
    group.row_stats[r] = row;
  }
}

template <typename T>
void forward_finish(const ForwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Shape& shape = job.scores.shape;
  const Tile tile(shape, group, tile_index);
  Buffers<C> buffers(shape, workspace);
  const RowSink<T> sink = tile.sink<T>(job.relaxed, buffers.staged);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const TileStats& row = group.row_stats[r];
    const double tile_max = group.stats[tile_index * group.rows + r].max;
    const ExponentScale<C> exponent(job.tau[tile.first_row + r]);
    const C* values = tile_values<T>(job, group, tile_index) + r * shape.tiles() * kTileClasses;
    sink.row(r, [&](auto* out) __attribute__((always_inline)) {
      if (is_undefined(row.max) || is_undefined(tile_max))  // no row, or a tile of nothing but -infinity
        fill_values(out, tile.width, is_undefined(row.max) ? C(__builtin_nanf("")) : C(0));
      else
        scale_values(out, values, tile.width, exponent.relative(tile_max, row.max), 1 / row.sum);
    });
  }
  sink.finish();
  if (job.one_hot)
    write_one_hot<T>(job.one_hot, tile, buffers, [&](std::int64_t r) __attribute__((always_inline)) {
      return Best{group.row_stats[r].max, group.row_stats[r].argmax};
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
  tile_noise(job.noise, tile, 0, buffers);
  const RowSink<T> sink = tile.sink<T>(job.out, buffers.staged);
  for (std::int64_t r = 0; r < tile.rows; ++r)
    sink.row(r, [&](auto* out) __attribute__((always_inline)) {
      convert_row(out, buffers.noise + r * tile.noise_stride(), tile.width);
    });
  sink.finish();
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
