// The backward row kernel, softmax's vector-Jacobian product: dx = p * (dy - <p, dy>) / tau, and
// dtau = -(1 / tau) * sum_k p_k (dy_k - <p, dy>) log p_k.
#pragma once

#include "scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
GUMBEL_EXT_INLINE void stage_backward(const BackwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers) {
  stage_rows<T>(buffers.rows, buffers.staged, job.relaxed, tile.first_row, tile.rows, tile.begin, tile.width);
  stage_rows<T>(buffers.second_rows, buffers.second_staged, job.grad, tile.first_row, tile.rows, tile.begin, tile.width);
}

// <p, dy> over a tile.
template <typename C>
GUMBEL_EXT_INLINE double dot(const C* p, const C* dy, std::int64_t n) {
  const std::int64_t whole = n / kLanes<C>, rest = n % kLanes<C>;
  return sum_chunks<C>(whole + (rest > 0), [&](std::int64_t chunk) __attribute__((always_inline)) {
    const std::int64_t k = chunk * kLanes<C>;
    return chunk < whole ? load(p + k) * load(dy + k) : load_first(p + k, rest) * load_first(dy + k, rest);
  });
}

// Writes dx, given the row's <p, dy>; returns the tile's part of dtau.
template <typename T>
GUMBEL_EXT_INLINE double write_gradient(const BackwardJob& job, const Tile& tile, std::int64_t row, const Compute<T>* p,
                                        const Compute<T>* dy, double row_dot, Compute<T>* scratch) {
  using C = Compute<T>;
  const C mean = static_cast<C>(row_dot);
  if (job.grad_logits) {
    const C inverse_tau = static_cast<C>(1 / job.tau[row]);
    T* target = static_cast<T*>(job.grad_logits.data) + job.grad_logits.offset(row) + tile.begin;
    if (std::is_same_v<T, C> && job.grad_logits.class_stride == 1) {
      C* __restrict out = reinterpret_cast<C*>(target);
#pragma omp simd
      for (std::int64_t k = 0; k < tile.width; ++k) out[k] = p[k] * (dy[k] - mean) * inverse_tau;
    } else {
#pragma omp simd
      for (std::int64_t k = 0; k < tile.width; ++k) scratch[k] = p[k] * (dy[k] - mean);
      write_row<T>(job.grad_logits, row, tile.begin, tile.width, scratch, inverse_tau);
    }
  }
  if (!job.grad_tau) return 0;
#pragma omp simd
  for (std::int64_t k = 0; k < tile.width; ++k) {
    const C positive = p[k] < FloatTraits<C>::kSmallestNormal ? C(1) : p[k];  // p log p goes to 0 with p
    scratch[k] = p[k] * (dy[k] - mean) * log_positive(positive);
  }
  double sum = 0;
  for (std::int64_t k = 0; k < tile.width; ++k) sum += static_cast<double>(scratch[k]);
  return sum;
}

template <typename T>
void backward_tile(const BackwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Tile tile(job.shape, group, tile_index);
  Buffers<C> buffers(job.shape, workspace);
  stage_backward<T>(job, tile, buffers);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t row = tile.first_row + r;
    TileStats& stats = group.stats[tile_index * group.rows + r];
    stats.sum = dot(buffers.rows[r], buffers.second_rows[r], tile.width);
    if (job.shape.tiles() == 1)
      stats.log_sum = write_gradient<T>(job, tile, row, buffers.rows[r], buffers.second_rows[r], stats.sum, buffers.scores);
  }
}

template <typename T>
void backward_finish(const BackwardJob& job, const GroupState& group, std::int64_t tile_index, Workspace workspace) {
  using C = Compute<T>;
  const Tile tile(job.shape, group, tile_index);
  Buffers<C> buffers(job.shape, workspace);
  stage_backward<T>(job, tile, buffers);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    double row_dot = 0;
    for (std::int64_t t = 0; t < job.shape.tiles(); ++t) row_dot += group.stats[t * group.rows + r].sum;
    group.stats[tile_index * group.rows + r].log_sum = write_gradient<T>(
        job, tile, tile.first_row + r, buffers.rows[r], buffers.second_rows[r], row_dot, buffers.scores);
  }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
