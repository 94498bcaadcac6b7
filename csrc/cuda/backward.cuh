// The backward row kernel: softmax's vector-Jacobian product (core/gradient.h).
//
//   backward_rows   a team holds a row of p and of dy in registers
//   backward_tiles, backward_combine, backward_finish, backward_tau
//                   rows too long for that, or too few
//
// dx may lie over p: a thread reads what it writes, before it writes it.
#pragma once

#include "../core/gradient.h"
#include "scores.cuh"
#include "tiles.cuh"

namespace gumbel_ext::cuda {

template <typename T, int kPacks>
struct Products {
  using C = Compute<T>;
  static constexpr int kClasses = kPackClasses<T>;
  C p[kPacks][kClasses], dy[kPacks][kClasses];

  template <typename Span>
  __device__ __forceinline__ void load(const BackwardJob& job, const Span& span) {
    const Row<T> p_row = Row<T>::template of<kClasses>(job.relaxed, span.row, span.begin);
    const Row<T> dy_row = Row<T>::template of<kClasses>(job.grad, span.row, span.begin);
    load_all_numbers<T>(p, p_row, span, C(0));
    load_all_numbers<T>(dy, dy_row, span, C(0));
  }
  // The thread's share of <p, dy> * kGradientScale; of scaled numbers where the usual sum is not finite.
  __device__ __forceinline__ double scaled_dot() const {
    const C sum = dot(C(1));
    return sum - sum == 0 ? static_cast<double>(sum) * kGradientScale : static_cast<double>(dot(kGradientScale));
  }
  __device__ __forceinline__ C dot(C factor) const {
    C sums[kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      C products[kClasses];
#pragma unroll
      for (int i = 0; i < kClasses; ++i) products[i] = p[k][i] * (dy[k][i] * factor);
      sums[k] = tree_sum<kClasses>(products);
    }
    return tree_sum<kPacks>(sums);
  }
  // The thread's share of what the classes add to tau's gradient, with the scale kTauGradientScale. In float, terms
  // have a larger one, of which a pack's sum is finite.
  __device__ __forceinline__ double tau_sum(C scaled_dot) const {
    constexpr double kScale = sizeof(C) == 4 ? 8 * kTauGradientScale : kTauGradientScale;
    double sum = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      C terms[kClasses];
#pragma unroll
      for (int i = 0; i < kClasses; ++i) terms[i] = tau_gradient_term(p[k][i], dy[k][i], scaled_dot, C(kScale));
      sum += static_cast<double>(tree_sum<kClasses>(terms));
    }
    return sum * (kTauGradientScale / kScale);
  }
  template <typename Span>
  __device__ __forceinline__ void store_gradient(const BackwardJob& job, const Span& span, C scaled_dot) const {
    const double tau = temperature_of(job.tau, span.row, /*may_be_zero=*/false);
    if (is_extreme_for_gradient<C>(tau)) return store_extreme_gradient(job, span, scaled_dot, tau);
    const Row<T> row = Row<T>::template of<kClasses>(job.grad_logits, span.row, span.begin);
    const C factor = static_cast<C>(gradient_factor(tau));
    C dx[kPacks][kClasses];
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kClasses; ++i) dx[k][i] = GradientOfLogit()(p[k][i], dy[k][i], scaled_dot, factor);
    store_all_numbers<T>(row, span, dx);
  }

 private:
  // From memory once more, pack by pack: what is rare keeps no registers.
  template <typename Span>
  __device__ __forceinline__ static void store_extreme_gradient(const BackwardJob& job, const Span& span, C scaled_dot,
                                                                double tau) {
    const ExtremeGradient<C> gradient(static_cast<double>(scaled_dot), tau);
    const Row<T> row = Row<T>::template of<kClasses>(job.grad_logits, span.row, span.begin);
#pragma unroll 1
    for (int k = 0; k < kPacks; ++k) {
      C p[kClasses], dy[kClasses], dx[kClasses];
      load_numbers<T>(p, Row<T>::template of<kClasses>(job.relaxed, span.row, span.begin), span.first(k), span.count,
                      C(0));
      load_numbers<T>(dy, Row<T>::template of<kClasses>(job.grad, span.row, span.begin), span.first(k), span.count,
                      C(0));
#pragma unroll
      for (int i = 0; i < kClasses; ++i) dx[i] = gradient(p[i], dy[i]);
      store_numbers<T>(row, span.first(k), span.count, dx);
    }
  }
};

// kTau: whether tau's gradient is wanted.
template <typename T, typename Team, int kPacks, bool kTau>
__global__ void __launch_bounds__(max_threads<T, Team>(), min_blocks<T, Team, (kTau ? 4 : 2) * kPacks>())
    backward_rows(const __grid_constant__ BackwardJob job) {
  using C = Compute<T>;
  GUMBEL_EXT_SHARED(typename Team::Scratch, scratch);
  const Team team{scratch};
  for (std::int64_t base = team.first(); base < job.shape.rows; base += team.step()) {
    const Span<Team, kPackClasses<T>> span(team, job.shape, base);
    Products<T, kPacks> products;
    products.load(job, span);
    const C scaled_dot = bounded_dot<C>(team.combine(products.scaled_dot(), Plus()));
    if constexpr (kTau) {
      const double sum = team.combine(products.tau_sum(scaled_dot), Plus());
      if (team.rank() == 0 && span.count > 0) job.grad_tau[span.row] = tau_gradient(sum, job.tau[span.row]);
    }
    if (job.grad_logits) products.store_gradient(job, span, scaled_dot);
  }
}

// stats: [rows][tiles], of which sum.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, 2)
    backward_tiles(const __grid_constant__ BackwardJob job, TileStats* stats) {
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  for_each_tile<T>(team, job.shape, [&](std::int64_t task, const auto& span) {
    Products<T, kTilePacks<T>> products;
    products.load(job, span);
    const double scaled_dot = team.combine(products.scaled_dot(), Plus());
    if (team.rank() == 0) stats[task].sum = scaled_dot;
  });
}

// One block a row: sums[row], of the tiles' `part`; tau's gradient where tau is given.
template <typename Part>
__device__ __forceinline__ void sum_tiles(const Shape& shape, const TileStats* stats, Part part, double* sums,
                                          const RowScalar* tau) {
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  for (std::int64_t row = team.first(); row < shape.rows; row += team.step()) {
    double mine = 0;
    for (std::int64_t t = team.rank(); t < shape.tiles(); t += team.size())
      mine += part(stats[row * shape.tiles() + t]);
    const double sum = team.combine(mine, Plus());
    if (team.rank() == 0) sums[row] = tau ? tau_gradient(sum, (*tau)[row]) : sum;
  }
}

// scaled_dots[row] = <p, dy> * kGradientScale
static __global__ void __launch_bounds__(kTileThreads, 2)
    backward_combine(const Shape shape, const TileStats* stats, double* scaled_dots) {
  sum_tiles(shape, stats, [](const TileStats& tile) { return tile.sum; }, scaled_dots, nullptr);
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads, 2)
    backward_finish(const __grid_constant__ BackwardJob job, TileStats* stats, const double* scaled_dots) {
  using C = Compute<T>;
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  for_each_tile<T>(team, job.shape, [&](std::int64_t task, const auto& span) {
    Products<T, kTilePacks<T>> products;
    products.load(job, span);
    const C scaled_dot = bounded_dot<C>(scaled_dots[span.row]);
    if (job.grad_tau) {
      const double sum = team.combine(products.tau_sum(scaled_dot), Plus());
      if (team.rank() == 0) stats[task].tau_sum = sum;
    }
    if (job.grad_logits) products.store_gradient(job, span, scaled_dot);
  });
}

static __global__ void __launch_bounds__(kTileThreads, 2)
    backward_tau(const __grid_constant__ BackwardJob job, const TileStats* stats) {
  sum_tiles(job.shape, stats, [](const TileStats& tile) { return tile.tau_sum; }, job.grad_tau, &job.tau);
}

}  // namespace gumbel_ext::cuda
