// The forward kernels of rows in tiles:
//   forward_tiles    a tile's statistics
//   forward_combine  one block a row puts those together
//   forward_finish   every tile is read, and its scores computed, again
#pragma once

#include "forward.cuh"
#include "tiles.cuh"

namespace gumbel_ext::cuda {

// stats: [rows][tiles]
template <typename T>
__global__ void __launch_bounds__(kTileThreads, 2)
    forward_tiles(const __grid_constant__ ForwardJob job, const __grid_constant__ RowExponent<Compute<T>> exponents,
                  TileStats* stats) {
  using C = Compute<T>;
  constexpr int kClasses = kPackClasses<T>;
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  for_each_tile<T>(team, job.scores.shape, [&](std::int64_t task, const auto& span) {
    C scores[kTilePacks<T>][kClasses];
    load_scores<T>(scores, job.scores, span);
    const auto best = winner_of(scores, span);
    double total = 0;
    if (!is_undefined(best.score)) {
      const C sum = exponentiate(scores, exponents(job.tau, span.row), best.score);
      total = team.combine(static_cast<double>(sum), Plus());
    }
    if (team.rank() == 0) stats[task] = {static_cast<double>(best.score), total, 0, span.begin + best.index};
  });
}

// A row's statistics over some of its tiles: of the largest maximum, the first; the sum relative to it.
template <typename C>
struct CombineTiles {
  ExponentScale<C> exponent;

  __device__ __forceinline__ TileStats operator()(const TileStats& a, const TileStats& b) const {
    const bool a_wins = wins(a.max, a.argmax, b.max, b.argmax);
    const double max = a_wins ? a.max : b.max, other_max = a_wins ? b.max : a.max;
    double sum = a_wins ? a.sum : b.sum;
    const double other_sum = a_wins ? b.sum : a.sum;
    if (other_sum > 0) sum += other_sum * exponent.relative(other_max, max);
    return {max, sum, 0, a_wins ? a.argmax : b.argmax};
  }
};

// One block a row: row_stats[row] from stats[row][tile], and its sum relative to its maximum.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, 2)
    forward_combine(const __grid_constant__ ForwardJob job, const __grid_constant__ RowExponent<Compute<T>> exponents,
                    const TileStats* stats, TileStats* row_stats) {
  using C = Compute<T>;
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  const Shape& shape = job.scores.shape;
  for (std::int64_t row = team.first(); row < shape.rows; row += team.step()) {
    const CombineTiles<C> combine{exponents(job.tau, row)};
    TileStats mine{-__builtin_inf(), 0, 0, shape.classes};
    for (std::int64_t t = team.rank(); t < shape.tiles(); t += team.size())
      mine = combine(mine, stats[row * shape.tiles() + t]);
    const TileStats all = team.combine(mine, combine);
    if (team.rank() == 0) row_stats[row] = all;
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads, 2)
    forward_finish(const __grid_constant__ ForwardJob job, const __grid_constant__ RowExponent<Compute<T>> exponents,
                   const TileStats* row_stats) {
  using C = Compute<T>;
  constexpr int kClasses = kPackClasses<T>;
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  for_each_tile<T>(team, job.scores.shape, [&](std::int64_t, const auto& span) {
    const TileStats row = row_stats[span.row];
    const ExponentScale<C> exponent = exponents(job.tau, span.row);
    const bool undefined = is_undefined(row.max) || !(exponent.tau == exponent.tau);
    C scores[kTilePacks<T>][kClasses];
    load_scores<T>(scores, job.scores, span);
    if (job.logarithms) {
      store_logarithms<T>(job.relaxed, span, scores, Logarithm<C>(exponent.tau, row.max, row.sum), undefined);
    } else {
      exponentiate(scores, exponent, static_cast<C>(row.max));
      store_relaxed<T>(job.relaxed, span, scores, 1 / row.sum, undefined);
    }
    if (job.one_hot) store_one_hot<T, kTilePacks<T>, kClasses>(job.one_hot, span, row.argmax - span.begin, undefined);
  });
}

}  // namespace gumbel_ext::cuda
