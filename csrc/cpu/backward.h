// The backward row kernel, softmax's vector-Jacobian product: dx = p * (dy - <p, dy>) / tau, and
// dtau = -(1 / tau) * sum_k p_k (dy_k - <p, dy>) log p_k.
#pragma once

#include "lanes.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
GUMBEL_EXT_INLINE void stage_backward(const BackwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers) {
  stage_rows<T>(buffers.rows, buffers.staged, job.relaxed, tile.first_row, tile.rows, tile.begin, tile.width);
  stage_rows<T>(buffers.second_rows, buffers.second_staged, job.grad, tile.first_row, tile.rows, tile.begin,
                tile.width);
}

// stats[r].sum = <p, dy> over the tile.
template <typename C>
GUMBEL_EXT_INLINE void dot_rows(const Tile& tile, const Buffers<C>& buffers, TileStats* stats) {
  const std::int64_t whole = tile.width / kLanes<C>, rest = tile.width % kLanes<C>;
  sum_rows<C>(
      tile.rows, whole + (rest > 0),
      [&](std::int64_t r, std::int64_t chunk) __attribute__((always_inline)) {
        const C *p = buffers.rows[r] + chunk * kLanes<C>, *dy = buffers.second_rows[r] + chunk * kLanes<C>;
        return chunk < whole ? load(p) * load(dy) : load_first(p, rest) * load_first(dy, rest);
      },
      [&](std::int64_t r, double sum) __attribute__((always_inline)) { stats[r].sum = sum; });
}

// p * (dy - mean) / tau; zero where p is, also where dy - mean overflows.
template <typename C>
GUMBEL_EXT_INLINE C gradient(C p, C dy, C mean, C inverse_tau) {
  const C product = p * (dy - mean) * inverse_tau;
  return p == C(0) ? C(0) : product;
}

// 1 / tau, but finite: it may meet a zero.
template <typename C>
GUMBEL_EXT_INLINE C finite_inverse(double tau) {
  const double inverse = 1 / tau, largest = static_cast<double>(FloatTraits<C>::kLargest);
  return static_cast<C>(inverse < largest ? inverse : largest);
}

// The gradient of n classes, whole vectors.
template <typename C>
GUMBEL_EXT_INLINE void gradient_lanes(C* dx, const C* p, const C* dy, std::int64_t n, C mean, C inverse_tau) {
  for (std::int64_t k = 0; k < n; k += kLanes<C>)
#pragma omp simd
    for (std::int64_t i = k; i < k + kLanes<C>; ++i) {
      dx[i] = gradient(p[i], dy[i], mean, inverse_tau);
    }
}

// The same for any n; the last lanes as one vector.
template <typename C>
GUMBEL_EXT_INLINE void gradient_row(C* dx, const C* p, const C* dy, std::int64_t n, C mean, C inverse_tau) {
  const std::int64_t whole = n / kLanes<C> * kLanes<C>, rest = n - whole;
  gradient_lanes(dx, p, dy, whole, mean, inverse_tau);
  if (rest == 0) return;
  C last_p[kLanes<C>], last_dy[kLanes<C>], last_dx[kLanes<C>];
  store(last_p, load_first(p + whole, rest));
  store(last_dy, load_first(dy + whole, rest));
  gradient_lanes(last_dx, last_p, last_dy, kLanes<C>, mean, inverse_tau);
  store_first(dx + whole, load(last_dx), rest);
}

// sum_k p[k] * (dy[k] - mean) * log(p[k]).
template <typename C>
GUMBEL_EXT_INLINE double log_sum_row(C* scratch, const C* p, const C* dy, std::int64_t n, C mean) {
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) {
    const C positive = p[k] < FloatTraits<C>::kSmallestNormal ? C(1) : p[k];  // p log p goes to 0 with p
    scratch[k] = p[k] * (dy[k] - mean) * log_positive(positive);
  }
  double sum = 0;
  for (std::int64_t k = 0; k < n; ++k) sum += static_cast<double>(scratch[k]);
  return sum;
}

// The gradients of the tile's rows, given each row's <p, dy>.
template <typename T, typename RowDot>
GUMBEL_EXT_INLINE void write_gradients(const BackwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers,
                                       TileStats* stats, RowDot row_dot) {
  using C = Compute<T>;
  const RowSink<T> sink = tile.sink<T>(job.grad_logits ? job.grad_logits : job.relaxed, buffers.scores);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const C mean = static_cast<C>(row_dot(r));
    const C inverse_tau = finite_inverse<C>(job.tau[tile.first_row + r]);
    const C *p = buffers.rows[r], *dy = buffers.second_rows[r];
    // dx may be written over p, so it comes last.
    if (job.grad_tau) stats[r].log_sum = log_sum_row(buffers.noise, p, dy, tile.width, mean);
    if (job.grad_logits) gradient_row(sink.row(r), p, dy, tile.width, mean, inverse_tau);
  }
  if (job.grad_logits) sink.finish();
}

// The same for a block of rows in lanes: stage, dot and gradients.
template <int kRows, typename T>
GUMBEL_EXT_NOINLINE void backward_lanes(const BackwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  constexpr int kLane = kLanes<C>;
  C *const p = buffers.staged, *const dy = buffers.second_staged;
  load_lanes<kRows, C, T>(p, job.relaxed, tile);
  load_lanes<kRows, C, T>(dy, job.grad, tile);
  C mean[kRows], inverse_tau[kRows];
  const C common = finite_inverse<C>(job.tau.value);
  for (int first = 0; first < kRows; first += kLane) {
    double sum[kLane];
    sum_lanes<C>(tile.width, [&](std::int64_t k) __attribute__((always_inline)) {
      return load(p + k * kRows + first) * load(dy + k * kRows + first);
    }).store(sum);
    for (int j = 0; j < kLane; ++j) {
      mean[first + j] = static_cast<C>(sum[j]);
      inverse_tau[first + j] = job.tau.rows ? finite_inverse<C>(job.tau.rows[tile.first_row + first + j]) : common;
    }
  }
  store_lanes<kRows, T>(job.grad_logits, tile, [&](std::int64_t k, std::int64_t first) __attribute__((always_inline)) {
    const C *some_p = p + k * kRows + first, *some_dy = dy + k * kRows + first;
    C dx[kLane];
#pragma omp simd
    for (int j = 0; j < kLane; ++j) dx[j] = gradient(some_p[j], some_dy[j], mean[first + j], inverse_tau[first + j]);
    return load(dx);
  });
}

template <typename T>
void backward_tile(const BackwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  Tile tile(job.shape, group, tile_index);
  Buffers<C> buffers(job.shape, workspace);
  if (belongs_in_lanes<C>(job.relaxed, job.shape.classes, false) && !job.grad_tau) {
    for_lane_blocks<C>(tile, job.relaxed, [&](const Tile& block, auto rows) __attribute__((always_inline)) {
      backward_lanes<rows, T>(job, block, buffers);
    });
    if (tile.rows == 0) return;
  }
  TileStats* stats = group.stats + tile_index * group.rows;
  stage_backward<T>(job, tile, buffers);
  dot_rows(tile, buffers, stats);
  if (job.shape.tiles() > 1) return;
  write_gradients<T>(job, tile, buffers, stats,
                     [&](std::int64_t r) __attribute__((always_inline)) { return stats[r].sum; });
}

template <typename T>
void backward_combine(const BackwardJob& job, const GroupState& group) {
  for (std::int64_t r = 0; r < group.rows; ++r) {
    double sum = 0;
    for (std::int64_t t = 0; t < job.shape.tiles(); ++t) sum += group.stats[t * group.rows + r].sum;
    group.row_stats[r].sum = sum;
  }
}

template <typename T>
void backward_finish(const BackwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Tile tile(job.shape, group, tile_index);
  Buffers<C> buffers(job.shape, workspace);
  stage_backward<T>(job, tile, buffers);
  write_gradients<T>(job, tile, buffers, group.stats + tile_index * group.rows,
                     [&](std::int64_t r) __attribute__((always_inline)) { return group.row_stats[r].sum; });
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
