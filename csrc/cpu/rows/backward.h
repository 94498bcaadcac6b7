// The backward row kernel: softmax's vector-Jacobian product (core/gradient.h).
#pragma once

#include "../../core/fold.h"
#include "../../core/gradient.h"
#include "../simd/reduce.h"
#include "../tile/buffers.h"
#include "../tile/tile.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// Stages a tile's rows of p and dy, then calls with_element(E{}), E being what both now consist of: T where both can
// stay in their tensors and tau's gradient is not wanted, else C.
template <typename T, typename WithElement>
GUMBEL_EXT_INLINE void stage_backward(const BackwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers,
                                      WithElement with_element) {
  using C = Compute<T>;
  const bool p_stays = stays_in_tensor<T>(job.relaxed, tile.width), dy_stays = stays_in_tensor<T>(job.grad, tile.width);
  const bool both_stay = p_stays && dy_stays && !job.grad_tau;
  const auto stage = [&](const void** rows, C* staged, const Rows& in, bool stay) __attribute__((always_inline)) {
    stage_rows<T>(rows, staged, in, tile.first_row, tile.rows, tile.begin, tile.width, stay);
  };
  constexpr bool kSame = std::is_same_v<T, C>;
  stage(buffers.rows, buffers.staged, job.relaxed, kSame ? p_stays : both_stay);
  stage(buffers.second_rows, buffers.second_staged, job.grad, kSame ? dy_stays : both_stay);
  if constexpr (!kSame)
    if (both_stay) return with_element(T{});
  with_element(C{});
}

// <p, dy> * kGradientScale over n classes, `step` apart, of which the usual sum is given: taken again, scaled, in
// double, where that is not finite, or tau is extreme.
template <typename E>
GUMBEL_EXT_INLINE double scaled_dot(double sum, const E* p, const E* dy, std::int64_t n, std::int64_t step,
                                    bool is_extreme = false) {
  if (sum - sum == 0 && !is_extreme) return sum * kGradientScale;
  CompensatedSum total;
  for (std::int64_t k = 0; k < n * step; k += step)
    total.add(static_cast<double>(widen(p[k])) * (static_cast<double>(widen(dy[k])) * kGradientScale));
  return total.value();
}

// stats[r].sum = <p, dy> * kGradientScale over the tile.
template <typename E>
GUMBEL_EXT_INLINE void dot_rows(const RowScalar& tau, const Tile& tile, const Buffers<Compute<E>>& buffers,
                                TileStats* stats) {
  using C = Compute<E>;
  const std::int64_t whole = tile.width / kLanes<C>, rest = tile.width % kLanes<C>;
  sum_rows<C>(
      tile.rows, whole + (rest > 0),
      [&](std::int64_t r, std::int64_t chunk, auto may_be_last) __attribute__((always_inline)) {
        const E* p = static_cast<const E*>(buffers.rows[r]) + chunk * kLanes<C>;
        const E* dy = static_cast<const E*>(buffers.second_rows[r]) + chunk * kLanes<C>;
        return !may_be_last || chunk < whole ? widen_vector(p) * widen_vector(dy)
                                             : widen_lanes(p, rest) * widen_lanes(dy, rest);
      },
      [&](std::int64_t r, double sum) __attribute__((always_inline)) {
        const auto *p = static_cast<const E*>(buffers.rows[r]), *dy = static_cast<const E*>(buffers.second_rows[r]);
        stats[r].sum = scaled_dot(sum, p, dy, tile.width, 1, is_extreme_for_gradient<C>(tau[tile.first_row + r]));
      });
}

template <typename T, typename E>
GUMBEL_EXT_INLINE void gradient_row(T* dx, const E* p, const E* dy, std::int64_t n, double scaled_dot,
                                    const GradientTemperature<Compute<T>>& temperature) {
  using C = Compute<T>;
  if (temperature.is_extreme) {
    const ExtremeGradient<C> gradient(scaled_dot, temperature.tau);
    for (std::int64_t k = 0; k < n; ++k) narrow(gradient(widen(p[k]), widen(dy[k])), dx[k]);
    return;
  }
  const auto scaled_dots = part_of(broadcast(bounded_dot<C>(scaled_dot)), 0);
  const auto factors = part_of(broadcast(temperature.factor), 0);
  const auto gradient = [=](auto p, auto dy)
                            __attribute__((always_inline)) { return GradientOfLogit()(p, dy, scaled_dots, factors); };
  map_row(dx, n, gradient, p, dy);
}

// The sum of what the classes add to tau's gradient.
template <typename C>
GUMBEL_EXT_INLINE double sum_tau_terms(C* scratch, const C* p, const C* dy, std::int64_t n, C scaled_dot, C scale) {
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) scratch[k] = tau_gradient_term(p[k], dy[k], scaled_dot, scale);
  double sum = 0;
  for (std::int64_t k = 0; k < n; ++k) sum += static_cast<double>(scratch[k]);
  return sum;
}
// The same with the scale kTauGradientScale.
template <typename C>
GUMBEL_EXT_INLINE double tau_sum_row(C* scratch, const C* p, const C* dy, std::int64_t n, C scaled_dot) {
  const double sum = sum_tau_terms(scratch, p, dy, n, scaled_dot, C(1));
  if (sum - sum == 0) return sum * kTauGradientScale;
  return sum_tau_terms(scratch, p, dy, n, scaled_dot, C(kTauGradientScale));
}

// The gradients of the tile's rows, given each row's <p, dy> * kGradientScale.
template <typename T, typename E, typename RowDot>
GUMBEL_EXT_INLINE void write_gradients(const BackwardJob& job, const Tile& tile, Buffers<Compute<T>>& buffers,
                                       TileStats* stats, RowDot row_dot) {
  using C = Compute<T>;
  const bool in_place = job.grad_logits.data == job.relaxed.data;
  const RowSink<T> sink = tile.sink<T>(job.grad_logits ? job.grad_logits : job.relaxed, buffers.scores, in_place);
  const GradientTemperature<C> common(job.tau.value);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const double scaled_dot = row_dot(r);
    const E *p = static_cast<const E*>(buffers.rows[r]), *dy = static_cast<const E*>(buffers.second_rows[r]);
    // dx may be written over p, so it comes last.
    if constexpr (std::is_same_v<E, C>)
      if (job.grad_tau) stats[r].tau_sum = tau_sum_row(buffers.noise, p, dy, tile.width, bounded_dot<C>(scaled_dot));
    if (job.grad_logits)
      sink.row(r, [&](auto* dx) __attribute__((always_inline)) {
        gradient_row(dx, p, dy, tile.width, scaled_dot,
                     job.tau.rows ? GradientTemperature<C>(job.tau.rows[tile.first_row + r]) : common);
      });
  }
  if (job.grad_logits) sink.finish();
}

// A tile of some rows: all of the work where it is their only tile, else <p, dy>.
template <typename T>
GUMBEL_EXT_INLINE void backward_rows(const BackwardJob& job, const GroupState& group, const Tile& tile,
                                     Buffers<Compute<T>>& buffers) {
  TileStats* stats = group.stats + tile.index() * group.rows;
  stage_backward<T>(job, tile, buffers, [&](auto element) __attribute__((always_inline)) {
    using E = decltype(element);
    dot_rows<E>(job.tau, tile, buffers, stats);
    if (job.shape.tiles() > 1) return;
    write_gradients<T, E>(job, tile, buffers, stats,
                          [&](std::int64_t r) __attribute__((always_inline)) { return stats[r].sum; });
  });
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
void backward_finish(const BackwardJob& job, const Plan& plan, const GroupState& group, std::int64_t tile_index,
                     Workspace workspace) {
  using C = Compute<T>;
  const Tile tile(job.shape, group, tile_index);
  Buffers<C> buffers(job.shape, plan, workspace);
  stage_backward<T>(job, tile, buffers, [&](auto element) __attribute__((always_inline)) {
    write_gradients<T, decltype(element)>(job, tile, buffers, group.stats + tile_index * group.rows,
                                          [&](std::int64_t r)
                                              __attribute__((always_inline)) { return group.row_stats[r].sum; });
  });
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
