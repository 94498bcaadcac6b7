// The index kernel: argmax(logits / temperature + noise), for any number of draws.
#pragma once

#include "scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

constexpr std::int64_t kBlock = 64;

// An upper bound of the noise of `word`, from its bits alone: g <= -log(v), and a float's exponent and
// mantissa read as one fixed-point number lie below its log2. (Half the word, so that it converts as a
// signed integer.) Words below kTailWords have no bound here.
GUMBEL_EXT_INLINE float gumbel_bound(std::uint32_t word) {
  const float half = static_cast<float>(static_cast<std::int32_t>(word >> 1));
  const float log2_word = static_cast<float>(bit_cast<std::int32_t>(half));  // 2^23 (127 + log2(half))
  constexpr float kLn2 = 0.693148f, kSlack = 1e-4f;
  return fused_multiply_add(log2_word, -kLn2 * 0x1p-23f, kLn2 * 159.f - kLn2 + kSlack);
}

// NaN is the largest; the first of equals wins.
template <typename C>
GUMBEL_EXT_INLINE bool beats(C score, double best) {
  return best == best && !(static_cast<double>(score) <= best);
}

// Updates `best` with the argmax of scores[0..n), which the caller has padded to whole vectors.
template <typename C>
GUMBEL_EXT_INLINE void update_best(Best& best, const C* scores, RowMax<C> found, std::int64_t begin) {
  const C max = found.has_nan ? C(__builtin_nanf("")) : found.max;
  if (beats(max, best.score)) best = {static_cast<double>(max), begin + find_first(scores, max)};
}

// Whether any of `kBlock` classes can reach `best`: a NaN always can.
GUMBEL_EXT_INLINE bool may_win(const float* __restrict logits, const std::uint32_t* __restrict words, float best) {
  std::int32_t hit = 0;
#pragma omp simd reduction(| : hit)
  for (std::int64_t k = 0; k < kBlock; ++k) {
    const bool below = logits[k] + gumbel_bound(words[k]) < best;
    hit |= static_cast<std::int32_t>(!below) | static_cast<std::int32_t>(words[k] < kTailWords);
  }
  return hit != 0;
}

// One row's tile, of which most blocks cannot hold the winner and need no logarithm.
GUMBEL_EXT_INLINE void search_row(Best& best, const Noise& noise, const Tile& tile, std::int64_t row, std::uint32_t draw,
                                  const float* logits, const std::uint32_t* words) {
  float scores[kBlock + kLanes<float>], tail_logits[kBlock], block_noise[kBlock];
  for (std::int64_t k = 0; k < tile.width; k += kBlock) {
    const std::int64_t n = tile.width - k < kBlock ? tile.width - k : kBlock;
    const float* block_logits = logits + k;
    if (n < kBlock) {
      for (std::int64_t i = 0; i < kBlock; ++i) tail_logits[i] = i < n ? logits[k + i] : -__builtin_inff();
      block_logits = tail_logits;
    }
    if (best.score != best.score) return;
    if (!may_win(block_logits, words + k, static_cast<float>(best.score))) continue;
#pragma omp simd
    for (std::int64_t i = 0; i < kBlock; ++i) block_noise[i] = gumbel_from_word<float>(words[k + i]);
    for (std::int64_t i = 0; i < n; ++i)
      if (words[k + i] < kTailWords)
        block_noise[i] = tail_noise<float>(noise, row, tile.begin + k + i, draw, words[k + i]);
    update_best(best, scores, add_noise(scores, block_logits, block_noise, kBlock), tile.begin + k);
  }
}

template <typename C>
GUMBEL_EXT_INLINE void divide_rows(const RowScalar& temperature, const Tile& tile, Buffers<C>& buffers) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const C t = static_cast<C>(temperature[tile.first_row + r]);
    if (t == C(1) || t == C(0)) continue;
    const C* in = buffers.rows[r];
    C* out = buffers.staged + r * padded<C>(tile.width);
#pragma omp simd
    for (std::int64_t k = 0; k < tile.width; ++k) out[k] = in[k] / t;
    buffers.rows[r] = out;
  }
}

template <typename T>
void index_tiles(const IndexJob& job, const GroupState& group, std::int64_t first_draw, std::int64_t draws,
                 std::int64_t tile_begin, std::int64_t tile_end, Best* best, Workspace workspace) {
  using C = Compute<T>;
  const Scores& in = job.scores;
  Buffers<C> buffers(in.shape, workspace);
  for (std::int64_t i = 0; i < group.rows * draws; ++i) best[i] = {-__builtin_inf(), 0};
  for (std::int64_t t = tile_begin; t < tile_end; ++t) {
    const Tile tile(in.shape, group, t);
    stage_logits<T>(in.logits, in.mask, tile, buffers);
    divide_rows(job.temperature, tile, buffers);
    for (std::int64_t d = 0; d < draws; ++d) {
      const std::uint32_t draw = static_cast<std::uint32_t>(first_draw + d);
      const bool search = std::is_same_v<C, float> && tile.width > kBlock;
      if (in.noise.on) fill_words(in.noise, tile, draw, buffers);
      if (in.noise.on && !search) words_to_noise(in.noise, tile, draw, buffers);
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        const std::int64_t row = tile.first_row + r;
        const bool noisy = in.noise.on && job.temperature[row] != 0;
        if constexpr (std::is_same_v<C, float>) {
          if (noisy && search) {
            search_row(best[r * draws + d], in.noise, tile, row, draw, buffers.rows[r],
                       buffers.words + r * tile.noise_stride());
            continue;
          }
        }
        const C* noise = noisy ? buffers.noise + r * tile.noise_stride() : nullptr;
        update_best(best[r * draws + d], buffers.scores, add_noise(buffers.scores, buffers.rows[r], noise, tile.width),
                    tile.begin);
      }
    }
  }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
