// The index kernel: argmax(logits / temperature + noise), for any number of draws.
#pragma once

#include "../tile/one_hot.h"
#include "../tile/statistics.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// Classes whose words are looked at together.
constexpr std::int64_t kSearchBlock = 64;

// Updates `best` with the argmax of scores[0..n), which add_noise has found and padded.
template <typename C>
GUMBEL_EXT_INLINE void update_best(Best& best, const C* scores, std::int64_t n, const RunningMax<C>& found,
                                   std::int64_t begin) {
  const C max = row_max(found);
  if (beats(max, best.score)) best = {static_cast<double>(max), begin + find_first(scores, n, max)};
}

// One row's tile, of which most blocks cannot hold the winner and need no logarithm.
template <typename T>
GUMBEL_EXT_INLINE void search_row(Best& best, const Noise& noise, const Tile& tile, std::int64_t row,
                                  std::uint32_t draw, const T* logits, const std::uint32_t* words) {
  constexpr int kWidth = kLanes<float>;
  float scores[kWidth], some_noise[kWidth];
  T last_logits[kSearchBlock];
  for (std::int64_t k = 0; k < tile.width; k += kSearchBlock) {
    const T* block = logits + k;
    if (k + kSearchBlock > tile.width) {
      for (T& logit : last_logits) narrow(-__builtin_inff(), logit);
      __builtin_memcpy(last_logits, block, (tile.width - k) * sizeof(T));
      block = last_logits;
    }
    float best_offset = WordLimit::offset(static_cast<float>(best.score));
    VecMask<float> hits = {};
    for (int i = 0; i < kSearchBlock; i += kWidth) hits |= may_win(widen_vector(block + i), words + k + i, best_offset);
    if (!any_lane<float>(hits)) continue;
    for (int i = 0; i < kSearchBlock; i += kWidth) {
      if (!any_lane<float>(may_win(widen_vector(block + i), words + k + i, best_offset))) continue;
      words_to_noise(some_noise, words + k + i, kWidth, [&](std::int64_t lane) __attribute__((always_inline)) {
        return tail_noise<float>(noise, row, tile.begin + k + i + lane, draw, words[k + i + lane]);
      });
      update_best(best, scores, kWidth, add_noise(scores, block + i, some_noise, kWidth), tile.begin + k + i);
      best_offset = WordLimit::offset(static_cast<float>(best.score));
    }
  }
}

template <typename T>
void index_tiles(const IndexJob& job, const Plan& plan, const IndexTask& task, std::int64_t tile_begin,
                 std::int64_t tile_end, Workspace workspace) {
  using C = Compute<T>;
  const Scores& in = job.scores;
  Buffers<C> buffers(in.shape, plan, workspace);
  const bool search = plan.way == Way::kSearch;
  for (std::int64_t i = 0; i < task.group.rows * task.draws; ++i) task.best[i] = {-__builtin_inf(), 0};
  for (std::int64_t t = tile_begin; t < tile_end; ++t) {
    const Tile tile(in.shape, task.group, t);
    stage_logits<T>(in.logits, in.mask, tile, buffers);
    if (task.statistics) tile_statistics<T>(job.temperature, tile, buffers, task.statistics + t * tile.rows);
    for (std::int64_t r = 0; r < tile.rows; ++r)
      divide_row<T>(Quotient<C>(job.temperature[tile.first_row + r], task.shift), r, tile, buffers);
    for (std::int64_t d = 0; d < task.draws; ++d) {
      const std::uint32_t draw = static_cast<std::uint32_t>(task.first_draw + d);
      if (in.noise.on) fill_words(in.noise, tile, draw, buffers);
      if (in.noise.on && !search) tile_noise(in.noise, tile, draw, buffers);
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        const std::int64_t row = tile.first_row + r;
        Best& best = task.best[r * task.draws + d];
        const bool noisy = in.noise.on && job.temperature[row] != 0;
        if constexpr (std::is_same_v<C, float>) {
          if (noisy && search) {
            const std::uint32_t* words = buffers.words + r * tile.noise_stride();
            buffers.template read_row<T>(r, [&](const auto* logits) __attribute__((always_inline)) {
              search_row(best, in.noise, tile, row, draw, logits, words);
            });
            continue;
          }
        }
        const C* noise = noisy ? buffers.noise + r * tile.noise_stride() : nullptr;
        const RunningMax<C> found =
            buffers.template read_row<T>(r, [&](const auto* logits) __attribute__((always_inline)) {
              return add_noise(buffers.scores, logits, noise, tile.width);
            });
        update_best(best, buffers.scores, tile.width, found, tile.begin);
      }
    }
  }
}

// A tile of one-hot rows whose winners are known.
template <typename T>
void one_hot_tile(const Shape& shape, const Rows& out, const Plan& plan, const IndexTask& task, std::int64_t tile_index,
                  Workspace workspace) {
  Buffers<Compute<T>> buffers(shape, plan, workspace);
  write_one_hot<T>(out, Tile(shape, task.group, tile_index), buffers,
                   [&](std::int64_t r) __attribute__((always_inline)) { return task.best[r]; });
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
