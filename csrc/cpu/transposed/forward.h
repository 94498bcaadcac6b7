// The forward kernel for transposed blocks: what rows/forward.h does, to the same bits.
#pragma once

#include "../../core/softmax.h"
#include "../tile/one_hot.h"
#include "blocks.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// noise[class][row] for the tile, in buffers.noise.
template <int kRows, typename C, typename Meanwhile>
GUMBEL_EXT_INLINE void block_noise(const Noise& noise, const Tile& tile, Buffers<C>& buffers, Meanwhile meanwhile) {
  const ClassCounter first(noise, tile.begin);
  const std::int64_t quads = divide_up(first.place + tile.width, kPhiloxWords);
  std::uint64_t rows[kRows];
  for (int j = 0; j < kRows; ++j) rows[j] = noise.counter_row(tile.first_row + j);
  const auto* seeds = reinterpret_cast<const std::uint64_t*>(noise.row_seeds);
  with_round_keys(
      noise, [&](std::int64_t j) __attribute__((always_inline)) { return seeds + tile.first_row + j; },
      [&](auto keys_at) __attribute__((always_inline)) {
        philox_fill_block<kRows>(buffers.words, quads, first.quad, 0, rows, keys_at, meanwhile);
      });
  const std::uint32_t* words = buffers.words + first.place * kRows;
  words_to_noise(buffers.noise, words, tile.width * kRows, [&](std::int64_t i) __attribute__((always_inline)) {
    return tail_noise<C>(noise, tile.first_row + i % kRows, tile.begin + i / kRows, 0, words[i]);
  });
}

// What is known of a block's rows.
template <int kRows, typename C>
struct BlockStats {
  C max[kRows];     // of the scores; NaN where there is one
  C factor[kRows];  // makes probabilities of the exponentials; NaN where the row is undefined
  C filler[kRows];  // what a one-hot row holds but for its class: 0, or NaN
  Lane<C> argmax[kRows];
};

// buffers.scores[class][row] = logits (masked) + noise, and their maxima.
template <int kRows, typename T>
GUMBEL_EXT_INLINE void score_block(const ForwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers,
                                   BlockStats<kRows, Compute<T>>& stats) {
  using C = Compute<T>;
  constexpr int kLane = kLanes<C>;
  RunningBest<C> best[kRows / kLane];
  const std::int64_t step = kTileClasses / kRows / kPhiloxWords * kPhiloxWords;
  for (std::int64_t begin = 0; begin < tile.width; begin += step) {
    const Tile part = tile.classes(begin, step);
    if (job.scores.noise.on)
      block_noise<kRows>(job.scores.noise, part, buffers,
                         part.prefetch<T>(job.scores.logits, job.relaxed, job.one_hot));
    C* values = buffers.scores + begin * kRows;
    load_block<kRows, C, T>(values, job.scores.logits, part);
    if (job.scores.mask) load_block<kRows, C, Allowed<C>>(buffers.staged, job.scores.mask, part);
    for (int j = 0; j < kRows; j += kLane) {
      RunningBest<C> found = best[j / kLane];
      for (std::int64_t k = 0; k < part.width; ++k) {
        const std::int64_t at = k * kRows + j;
        Vec<C> v = load(values + at);
        if (job.scores.noise.on) v += load(buffers.noise + at);
        if (job.scores.mask)
          v = select_at<C>((VecMask<C>)load(buffers.staged + at), VecMask<C>{}, broadcast(-C(__builtin_inff())), v);
        store(values + at, v);
        found.take(v, begin + k);
      }
      best[j / kLane] = found;
    }
  }
  for (int j = 0; j < kRows; j += kLane) best[j / kLane].store(stats.max + j, stats.argmax + j);
}

// exponentiate() for a vector of rows, one in each lane, given their scales; `step` is the distance of their classes.
template <typename C>
GUMBEL_EXT_INLINE void exponentiate_vector(C* __restrict scores, std::int64_t classes, std::int64_t step, C* high,
                                           C* low, const C* reach, const C* max) {
  constexpr int kLane = kLanes<C>;
  C lowest[kLane], product[kLane], rounder[kLane], rest[kLane];
  C factor[kLane], shift[kLane];  // what makes half differences where they are wanted
  bool all_near = true;
#pragma omp simd reduction(& : all_near)
  for (int j = 0; j < kLane; ++j) {
    const TwoPart<C> scale{high[j], low[j]};
    const bool is_near = Exponential<C>::is_near(scale, max[j]);
    const auto row = Exponential<C>::of_row(scale, reach[j], max[j], is_near);
    high[j] = row.scale.high;
    low[j] = row.scale.low;
    lowest[j] = row.lowest;
    product[j] = row.product;
    rounder[j] = row.rounder;
    rest[j] = row.rest;
    factor[j] = is_near ? C(1) : C(0.5);
    shift[j] = is_near ? C(0) : C(0.5) * max[j];
    all_near &= is_near;
  }
  for (std::int64_t k = 0; k < classes; ++k) {
    C* values = scores + k * step;
    if (!all_near)
#pragma omp simd
      for (int j = 0; j < kLane; ++j) values[j] = values[j] * factor[j] - shift[j];
#pragma omp simd
    for (int j = 0; j < kLane; ++j)
      values[j] = Exponential<C>{{high[j], low[j]}, lowest[j], product[j], rounder[j], rest[j]}(values[j]);
  }
}

// Scores turned into exponentials, and the factor that makes probabilities of them. Requires: no tau is extreme.
template <int kRows, typename C>
GUMBEL_EXT_INLINE void exponentiate_block(const RowScalar& tau, const Tile& tile, C* scores,
                                          BlockStats<kRows, C>& stats) {
  constexpr int kLane = kLanes<C>;
  const ExponentScale<C> common(tau.value);
  for (int first = 0; first < kRows; first += kLane) {
    C high[kLane], low[kLane], reach[kLane];
    for (int j = 0; j < kLane; ++j) {
      const ExponentScale<C> exponent = tau.rows ? ExponentScale<C>(tau.rows[tile.first_row + first + j]) : common;
      high[j] = exponent.scale.high;
      low[j] = exponent.scale.low;
      reach[j] = exponent.reach;
    }
    exponentiate_vector(scores + first, tile.width, kRows, high, low, reach, stats.max + first);
    double sum[kLane];
    sum_each_lane<C>(tile.width, [&](std::int64_t k) __attribute__((always_inline)) {
      return load(scores + k * kRows + first);
    }).store(sum);
    for (int j = 0; j < kLane; ++j) {
      const C filler = is_undefined(stats.max[first + j]) ? C(__builtin_nanf("")) : C(0);
      stats.factor[first + j] = static_cast<C>(1 / sum[j]) + filler;
      stats.filler[first + j] = filler;
    }
  }
}

// softmax(scores / tau) of the tile's rows, and, where wanted, one_hot(argmax(scores)).
template <int kRows, typename T>
GUMBEL_EXT_NOINLINE void forward_block(const ForwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  BlockStats<kRows, C> stats;
  score_block<kRows, T>(job, tile, buffers, stats);
  exponentiate_block<kRows, C>(job.tau, tile, buffers.scores, stats);
  store_block<kRows, T>(job.relaxed, tile, [&](std::int64_t k, std::int64_t j) __attribute__((always_inline)) {
    return load(buffers.scores + k * kRows + j) * load(stats.factor + j);
  });
  if (!job.one_hot) return;
  if (job.one_hot.class_stride != 1) {
    store_block<kRows, T>(job.one_hot, tile, [&](std::int64_t k, std::int64_t j) __attribute__((always_inline)) {
      VecMask<C> argmax;
      __builtin_memcpy(&argmax, stats.argmax + j, sizeof argmax);
      const Vec<C> filler = load(stats.filler + j);
      return select_at<C>(static_cast<Lane<C>>(k) - VecMask<C>{}, argmax, broadcast(C(1)) + filler, filler);
    });
    return;
  }
  for (std::int64_t j = 0; j < kRows; ++j)
    write_hot_row(element<T>(job.one_hot, tile.first_row + j, tile.begin), tile.width,
                  stats.filler[j] == 0 ? std::int64_t{stats.argmax[j]} : -1, stats.filler[j]);
}

// The tile's rows that fill blocks; returns the others.
template <typename T>
GUMBEL_EXT_INLINE Tile forward_blocks(const ForwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers) {
  return for_each_block<Compute<T>>(tile, job.scores.logits,
                                    [&](const Tile& block, auto rows) __attribute__((always_inline)) {
                                      forward_block<rows, T>(job, block, buffers);
                                    });
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
