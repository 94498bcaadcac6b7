// The noise of single classes: what there is to know of a choice after the draw.
#pragma once

#include "gumbel.h"
#include "job.h"

namespace gumbel_ext {

// g(seed, row, cls, draw), the bits that the row kernels add. Requires: cls >= 0.
template <typename C>
GUMBEL_EXT_INLINE C noise_at(std::uint64_t seed, std::uint64_t row, std::int64_t cls, std::uint32_t draw) {
  const std::uint32_t quad = static_cast<std::uint32_t>(cls / kPhiloxWords);
  const auto word = [=](std::uint32_t number) {
    const PhiloxWords words = philox_words(seed, row, quad, number);
    const std::uint32_t low = cls & 1 ? words.word[1] : words.word[0], high = cls & 1 ? words.word[3] : words.word[2];
    return cls & 2 ? high : low;
  };
  const std::uint32_t first = word(draw);
  return first >= kTailWords ? gumbel_from_word<C>(first) : gumbel_tail<C>(first, word(draw + kTailDraw));
}

// out[r * draws + d] = the noise of class classes[r * draws + d] of row r in draw d, in the working precision.
struct NoiseAtJob {
  std::int64_t rows = 0, draws = 0;
  Noise noise;  // with a seed, or one a row
  const std::int64_t* classes = nullptr;
  void* out = nullptr;
};

// The number that is out[i].
template <typename C>
GUMBEL_EXT_INLINE C noise_at(const NoiseAtJob& job, std::int64_t i) {
  const Division at = divide(i, job.draws);
  const std::int64_t row = at.quotient;
  const std::uint64_t seed =
      job.noise.row_seeds ? static_cast<std::uint64_t>(job.noise.row_seeds[row]) : job.noise.seed;
  return noise_at<C>(seed, job.noise.counter_row(row), job.classes[i], static_cast<std::uint32_t>(at.remainder));
}

}  // namespace gumbel_ext
