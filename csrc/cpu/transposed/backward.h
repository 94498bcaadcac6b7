// The backward kernel for transposed blocks: what rows/backward.h does, to the same bits, for the logits' gradient
// alone.
#pragma once

#include "../rows/backward.h"
#include "blocks.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// The gradients of a block's rows. Requires: no tau is extreme.
template <int kRows, typename T>
GUMBEL_EXT_NOINLINE void backward_block(const BackwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  constexpr int kLane = kLanes<C>;
  C *const p = buffers.staged, *const dy = buffers.second_staged;
  load_block<kRows, C, T>(p, job.relaxed, tile);
  load_block<kRows, C, T>(dy, job.grad, tile);
  C scaled_dots[kRows], factors[kRows];
  const GradientTemperature<C> common(job.tau.value);
  for (int first = 0; first < kRows; first += kLane) {
    double sum[kLane];
    sum_each_lane<C>(tile.width, [&](std::int64_t k) __attribute__((always_inline)) {
      return load(p + k * kRows + first) * load(dy + k * kRows + first);
    }).store(sum);
    for (int j = first; j < first + kLane; ++j) {
      scaled_dots[j] = bounded_dot<C>(scaled_dot(sum[j - first], p + j, dy + j, tile.width, kRows));
      factors[j] = job.tau.rows ? GradientTemperature<C>(job.tau.rows[tile.first_row + j]).factor : common.factor;
    }
  }
  store_block<kRows, T>(job.grad_logits, tile, [&](std::int64_t k, std::int64_t first) __attribute__((always_inline)) {
    const C *some_p = p + k * kRows + first, *some_dy = dy + k * kRows + first;
    return by_parts<Vec<C>>(GradientOfLogit(), load(some_p), load(some_dy), load(scaled_dots + first),
                            load(factors + first));
  });
}

// The tile's rows that fill blocks; returns the others.
template <typename T>
GUMBEL_EXT_INLINE Tile backward_blocks(const BackwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers) {
  return for_each_block<Compute<T>>(tile, job.relaxed,
                                    [&](const Tile& block, auto rows) __attribute__((always_inline)) {
                                      backward_block<rows, T>(job, block, buffers);
                                    });
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
