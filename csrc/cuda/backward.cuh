// The backward row kernel, softmax's vector-Jacobian product: dx = p * (dy - <p, dy>) / tau, and
// dtau = -(1 / tau) * sum_k p_k (dy_k - <p, dy>) log p_k.
//
//   backward_rows   a team holds a row of p and of dy in registers
//   backward_tiles, backward_combine, backward_finish, backward_tau
//                   rows too long for that, or too few
//
// dx may lie over p: a thread reads what it writes, before it writes it.
#pragma once

#include "forward.cuh"

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
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      load_numbers<T>(p[k], p_row, span.first(k), span.count, C(0));
      load_numbers<T>(dy[k], dy_row, span.first(k), span.count, C(0));
    }
  }
  // The thread's share of <p, dy>.
  __device__ __forceinline__ C dot() const {
    C sums[kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      C products[kClasses];
#pragma unroll
      for (int i = 0; i < kClasses; ++i) products[i] = p[k][i] * dy[k][i];
      sums[k] = tree_sum<kClasses>(products);
    }
    return tree_sum<kPacks>(sums);
  }
  // The thread's share of sum_k p_k (dy_k - mean) log p_k.
  __device__ __forceinline__ C log_sum(C mean) const {
    C sums[kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      C terms[kClasses];
#pragma unroll
      for (int i = 0; i < kClasses; ++i) {
        const C positive = p[k][i] < FloatTraits<C>::kSmallestNormal ? C(1) : p[k][i];  // p log p goes to 0 with p
        terms[i] = p[k][i] * (dy[k][i] - mean) * log_positive(positive);
      }
      sums[k] = tree_sum<kClasses>(terms);
    }
    return tree_sum<kPacks>(sums);
  }
  // dx; zero where p is, also where dy - mean overflows.
  template <typename Span>
  __device__ __forceinline__ void store_gradient(const Rows& out, const Span& span, C mean, C inverse_tau) const {
    const Row<T> row = Row<T>::template of<kClasses>(out, span.row, span.begin);
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      C dx[kClasses];
#pragma unroll
      for (int i = 0; i < kClasses; ++i) dx[i] = p[k][i] == C(0) ? C(0) : p[k][i] * (dy[k][i] - mean) * inverse_tau;
      store_numbers<T>(row, span.first(k), span.count, dx);
    }
  }
};

// 1 / tau, finite: it may meet a zero.
template <typename C>
__device__ __forceinline__ C inverse_temperature(const RowScalar& tau, std::int64_t row) {
  const double inverse = 1 / temperature_of(tau, row, /*may_be_zero=*/false);
  const double largest = static_cast<double>(FloatTraits<C>::kLargest);
  return static_cast<C>(inverse > largest ? largest : inverse);
}

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
    const C mean = static_cast<C>(team.combine(static_cast<double>(products.dot()), Plus()));
    if constexpr (kTau) {
      const double sum = team.combine(static_cast<double>(products.log_sum(mean)), Plus());
      if (team.rank() == 0 && span.count > 0) job.grad_tau[span.row] = -sum / job.tau[span.row];
    }
    if (job.grad_logits)
      products.store_gradient(job.grad_logits, span, mean, inverse_temperature<C>(job.tau, span.row));
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
    const double sum = team.combine(static_cast<double>(products.dot()), Plus());
    if (team.rank() == 0) stats[task].sum = sum;
  });
}

// One block a row: sums[row], of the tiles' `part`; times -1 / tau where it is tau's gradient.
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
    if (team.rank() == 0) sums[row] = tau ? -sum / (*tau)[row] : sum;
  }
}

// means[row] = <p, dy>
static __global__ void __launch_bounds__(kTileThreads, 2)
    backward_combine(const Shape shape, const TileStats* stats, double* means) {
  sum_tiles(shape, stats, [](const TileStats& tile) { return tile.sum; }, means, nullptr);
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads, 2)
    backward_finish(const __grid_constant__ BackwardJob job, TileStats* stats, const double* means) {
  using C = Compute<T>;
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  for_each_tile<T>(team, job.shape, [&](std::int64_t task, const auto& span) {
    Products<T, kTilePacks<T>> products;
    products.load(job, span);
    const C mean = static_cast<C>(means[span.row]);
    if (job.grad_tau) {
      const double sum = team.combine(static_cast<double>(products.log_sum(mean)), Plus());
      if (team.rank() == 0) stats[task].log_sum = sum;
    }
    if (job.grad_logits)
      products.store_gradient(job.grad_logits, span, mean, inverse_temperature<C>(job.tau, span.row));
  });
}

static __global__ void __launch_bounds__(kTileThreads, 2)
    backward_tau(const __grid_constant__ BackwardJob job, const TileStats* stats) {
  sum_tiles(job.shape, stats, [](const TileStats& tile) { return tile.log_sum; }, job.grad_tau, &job.tau);
}

}  // namespace gumbel_ext::cuda
