// The forward row kernel: softmax(scores / tau) or its logarithm, and, where wanted, one_hot(argmax(scores)) beside it.
#pragma once

#include "../tile/exponentials.h"
#include "../tile/one_hot.h"
#include "../tile/scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

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

// Logarithms of scores, which they overwrite where that is no T; `out` may be `scores`.
template <typename T>
GUMBEL_EXT_INLINE void take_logarithms(T* out, Compute<T>* scores, std::int64_t n,
                                       const Logarithm<Compute<T>>& logarithm) {
  using C = Compute<T>;
  const Logarithm<C> local = logarithm;
  if constexpr (std::is_same_v<T, C>) {
#pragma omp simd
    for (std::int64_t k = 0; k < n; ++k) out[k] = local(scores[k]);
  } else {
#pragma omp simd
    for (std::int64_t k = 0; k < n; ++k) scores[k] = local(scores[k]);
    convert_row(out, scores, n);
  }
}

// Where the first row's exponentials (of logarithms, scores) of a tile wait for the others; those of row r are
// r * tiles * kTileClasses further on.
template <typename T>
GUMBEL_EXT_INLINE Compute<T>* tile_values(const ForwardJob& job, const Plan& plan, const GroupState& group,
                                          std::int64_t tile) {
  using C = Compute<T>;
  if (!plan.in_place) return static_cast<C*>(group.row_buffer) + tile * kTileClasses;
  if (tile == job.scores.shape.tiles() - 1) return static_cast<C*>(group.row_buffer);
  return reinterpret_cast<C*>(element<T>(job.relaxed, group.first_row, tile * kTileClasses));
}

// The exponentials of a tile's rows at `scores`, `stride` apart, relative to each row's maximum; and the statistics. Of
// logarithms the scores themselves.
template <typename T>
GUMBEL_EXT_INLINE void exponentiate_rows(const ForwardJob& job, const Tile& tile, const Buffers<Compute<T>>& buffers,
                                         Compute<T>* scores, std::int64_t stride, TileStats* stats) {
  using C = Compute<T>;
  const ExponentScale<C> common(job.tau.value);
  const std::int64_t width = padded<C>(tile.width), step = job.logarithms ? width : stride;
  C* exponentials = job.logarithms ? buffers.second_staged : scores;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    C* row = scores + r * stride;
    const C* noise = job.scores.noise.on ? buffers.noise + r * tile.noise_stride() : nullptr;
    const C max = row_max(buffers.template read_row<T>(r, [&](const auto* logits) __attribute__((always_inline)) {
      return add_noise(row, logits, noise, tile.width);
    }));
    stats[r] = {static_cast<double>(max), 0, 0, tile.begin};
    if (is_undefined(stats[r].max)) continue;
    if (job.one_hot) stats[r].argmax += find_first(row, tile.width, max);
    exponentiate(exponentials + r * step, row, width,
                 job.tau.rows ? ExponentScale<C>(job.tau.rows[tile.first_row + r]) : common, max);
  }
  sum_rows<C>(
      tile.rows, width / kLanes<C>,
      [&](std::int64_t r, std::int64_t chunk, auto)
          __attribute__((always_inline)) { return load(exponentials + r * step + chunk * kLanes<C>); },
      [&](std::int64_t r, double sum)
          __attribute__((always_inline)) { stats[r].sum = is_undefined(stats[r].max) ? 0 : sum; });
}

// A tile of some rows: all of the work where it is their only tile, else exponentials and statistics.
template <typename T>
GUMBEL_EXT_INLINE void forward_rows(const ForwardJob& job, const Plan& plan, const GroupState& group, const Tile& tile,
                                    Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  const Shape& shape = job.scores.shape;
  const bool only_tile = shape.tiles() == 1;
  C* scores = only_tile ? buffers.scores : tile_values<T>(job, plan, group, tile.index());
  const std::int64_t stride = only_tile ? padded<C>(tile.width) : shape.tiles() * kTileClasses;
  TileStats* stats = group.stats + tile.index() * group.rows;

  stage_logits<T>(job.scores.logits, job.scores.mask, tile, buffers);
  if (job.scores.noise.on) {
    fill_words(job.scores.noise, tile, 0, buffers, tile.prefetch<T>(job.scores.logits, job.relaxed, job.one_hot));
    tile_noise(job.scores.noise, tile, 0, buffers);
  }
  exponentiate_rows<T>(job, tile, buffers, scores, stride, stats);
  if (!only_tile) return;
  const RowSink<T> sink = tile.sink<T>(job.relaxed, buffers.staged);
  for (std::int64_t r = 0; r < tile.rows; ++r)
    sink.row(r, [&](auto* out) __attribute__((always_inline)) {
      if (is_undefined(stats[r].max))
        fill_values(out, tile.width, C(__builtin_nanf("")));
      else if (job.logarithms)
        take_logarithms(out, scores + r * stride, tile.width,
                        Logarithm<C>(job.tau[tile.first_row + r], stats[r].max, stats[r].sum));
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
void forward_finish(const ForwardJob& job, const Plan& plan, const GroupState& group, std::int64_t tile_index,
                    Workspace workspace) {
  using C = Compute<T>;
  const Shape& shape = job.scores.shape;
  const Tile tile(shape, group, tile_index);
  Buffers<C> buffers(shape, plan, workspace);
  const RowSink<T> sink = tile.sink<T>(job.relaxed, buffers.staged);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const TileStats& row = group.row_stats[r];
    const double tile_max = group.stats[tile_index * group.rows + r].max;
    const ExponentScale<C> exponent(job.tau[tile.first_row + r]);
    C* values = tile_values<T>(job, plan, group, tile_index) + r * shape.tiles() * kTileClasses;
    sink.row(r, [&](auto* out) __attribute__((always_inline)) {
      if (is_undefined(row.max))
        fill_values(out, tile.width, C(__builtin_nanf("")));
      else if (job.logarithms)
        take_logarithms(out, values, tile.width, Logarithm<C>(exponent.tau, row.max, row.sum));
      else if (is_undefined(tile_max))  // a tile of nothing but -infinity
        fill_values(out, tile.width, C(0));
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

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
