// What a tile's logits say of their softmax (core/log_prob.h).
#pragma once

#include "../../core/log_prob.h"
#include "exponentials.h"
#include "scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// A row's logits, to `scores`, padded with -infinity to whole vectors; returns the largest.
template <typename T>
GUMBEL_EXT_INLINE Compute<T> copy_logits(Compute<T>* scores, std::int64_t r, std::int64_t n,
                                         const Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  return row_max(buffers.template read_row<T>(r, [&](const auto* logits) __attribute__((always_inline)) {
    return add_noise(scores, logits, static_cast<const C*>(nullptr), n);
  }));
}

// statistics[r] of the tile's classes of each row, whose logits stage_logits has found.
template <typename T>
GUMBEL_EXT_INLINE void tile_statistics(const RowScalar& temperature, const Tile& tile, Buffers<Compute<T>>& buffers,
                                       RowStatistics* statistics) {
  using C = Compute<T>;
  C *scores = buffers.scores, *powers = buffers.second_staged;
  const std::int64_t width = padded<C>(tile.width);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const C max = copy_logits<T>(scores, r, tile.width, buffers);
    const double t = temperature[tile.first_row + r];
    statistics[r] = {static_cast<double>(max), 0, 0};
    if (is_undefined(statistics[r].max) || t == 0) continue;
    const std::int64_t first = find_first(scores, tile.width, max);
    exponentiate_with_log2(powers, scores, width, ExponentScale<C>(t), max);
    powers[first] = 0;
    statistics[r].others =
        FloatTraits<C>::kExp2Unshift *
        sum_chunks<C>(width / kLanes<C>, [&](std::int64_t chunk, auto) __attribute__((always_inline)) {
          return load(powers + chunk * kLanes<C>);
        });
    statistics[r].weighted =
        -kLn2 * FloatTraits<C>::kExp2Unshift *
        sum_chunks<C>(width / kLanes<C>, [&](std::int64_t chunk, auto) __attribute__((always_inline)) {
          return load(powers + chunk * kLanes<C>) * load(scores + chunk * kLanes<C>);
        });
  }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
