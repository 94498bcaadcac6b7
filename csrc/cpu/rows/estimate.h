// The estimators' kernel: the gradients of a one-hot sample (core/estimator.h). Every sweep is a softmax over the
// group's rows, computed anew from the logits and the noise; what it adds to the gradient waits in memory of the rows'
// size, which stays in the cache.
#pragma once

#include "../../core/estimator.h"
#include "backward.h"
#include "forward.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// Where a group's rows lie between the passes: one after the other, padded to whole vectors.
template <typename C>
struct EstimateRows {
  std::int64_t stride;
  C *values, *dy, *sum;     // [rows][stride]: scores, then p; the gradient of z, 0 in the padding; the sweeps' sum
  double *shift, *largest;  // [rows] what is subtracted from the logits first; the largest score
  double* log_normaliser;   // [rows] log sum exp(logits / temperature)
  double* tau_sum;          // [rows] of the sweeps' (core/gradient.h)
  std::int64_t bytes;

  GUMBEL_EXT_INLINE EstimateRows(const Shape& shape, const Plan& plan, void* memory)
      : stride(shape.tiles() > 1 ? shape.tiles() * kTileClasses : padded<C>(shape.classes)) {
    std::uintptr_t next = reinterpret_cast<std::uintptr_t>(memory);
    const auto take = [&](auto*& pointer, std::int64_t count) __attribute__((always_inline)) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(next);
      next += static_cast<std::uintptr_t>(round_up(count * std::int64_t(sizeof(*pointer)), kVecBytes));
    };
    for (C** const rows : {&values, &dy, &sum}) take(*rows, plan.group_rows * stride + kLanes<C>);
    for (double** const numbers : {&shift, &largest, &log_normaliser, &tau_sum}) take(*numbers, plan.group_rows);
    bytes = static_cast<std::int64_t>(next - reinterpret_cast<std::uintptr_t>(memory));
  }
};

template <typename T>
std::int64_t estimate_bytes(const Shape& shape, const Plan& plan) {
  return EstimateRows<Compute<T>>(shape, plan, nullptr).bytes;
}

// What a pass over the logits makes of them.
struct ScorePass {
  bool divides;  // less their shift over the temperature
  bool noisy;
  std::uint32_t draw;
};

template <typename T>
struct EstimateGroup {
  using C = Compute<T>;
  const EstimateJob& job;
  const GroupState& group;
  Buffers<C> buffers;
  EstimateRows<C> rows;
  std::int64_t classes, whole;  // of a row; padded

  GUMBEL_EXT_INLINE EstimateGroup(const EstimateJob& job, const Plan& plan, const GroupState& group,
                                  Workspace workspace)
      : job(job),
        group(group),
        buffers(job.scores.shape, plan, workspace),
        rows(job.scores.shape, plan, group.row_buffer),
        classes(job.scores.shape.classes),
        whole(padded<C>(classes)) {
  }

  GUMBEL_EXT_INLINE RowEstimate estimate(std::int64_t r) const {
    const std::int64_t row = group.first_row + r;
    return {job.estimator, job.temperature[row], job.tau[row], job.num_noises};
  }
  GUMBEL_EXT_INLINE std::int64_t index(std::int64_t r) const {
    return job.index[group.first_row + r];
  }

  template <typename Visit>
  GUMBEL_EXT_INLINE void for_each_tile(Visit visit) const {
    for (std::int64_t t = 0; t < job.scores.shape.tiles(); ++t) visit(Tile(job.scores.shape, group, t));
  }

  // rows.values and rows.largest.
  void score(const ScorePass& pass) {
    for (std::int64_t r = 0; r < group.rows; ++r) rows.largest[r] = -__builtin_inf();
    const Noise& noise = job.scores.noise;
    for_each_tile([&](const Tile& tile) __attribute__((always_inline)) {
      stage_logits<T>(job.scores.logits, job.scores.mask, tile, buffers);
      if (pass.noisy) {
        fill_words(noise, tile, pass.draw, buffers);
        tile_noise(noise, tile, pass.draw, buffers);
      }
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        if (pass.divides)
          divide_row<T>(Quotient<C>(job.temperature[tile.first_row + r], rows.shift[r]), r, tile, buffers);
        const C max = row_max(buffers.template read_row<T>(r, [&](const auto* logits) __attribute__((always_inline)) {
          return add_noise(rows.values + r * rows.stride + tile.begin, logits,
                           pass.noisy ? buffers.noise + r * tile.noise_stride() : nullptr, tile.width);
        }));
        if (beats(max, rows.largest[r])) rows.largest[r] = static_cast<double>(max);
      }
    });
  }

  // A low temperature takes finite logits out of range: there the largest is subtracted first.
  void find_shifts() {
    bool any = false;
    for (std::int64_t r = 0; r < group.rows; ++r) {
      rows.shift[r] = 0;
      any |= job.temperature[group.first_row + r] < 1;
    }
    if (!any) return;
    score({false, false, 0});
    for (std::int64_t r = 0; r < group.rows; ++r)
      if (job.temperature[group.first_row + r] < 1 && !is_undefined(rows.largest[r])) rows.shift[r] = rows.largest[r];
  }

  void stage_grad() {
    for_each_tile([&](const Tile& tile) __attribute__((always_inline)) {
      // Row by row where rows are contiguous: each is padded.
      const std::int64_t step = job.grad.class_stride == 1 ? 1 : tile.rows;
      for (std::int64_t r = 0; r < tile.rows; r += step)
        stage_rows<T>(buffers.second_rows, rows.dy + r * rows.stride + tile.begin, job.grad, tile.first_row + r, step,
                      tile.begin, tile.width, /*stay=*/false);
    });
    for (std::int64_t r = 0; r < group.rows; ++r)
      for (std::int64_t k = classes; k < whole; ++k) rows.dy[r * rows.stride + k] = 0;
  }

  // The exponentials of row r, which become p. Requires: its largest score is finite.
  GUMBEL_EXT_INLINE double normalise(std::int64_t r, double tau) {
    C* p = rows.values + r * rows.stride;
    exponentiate(p, p, whole, ExponentScale<C>(tau), static_cast<C>(rows.largest[r]));
    const double sum = sum_chunks<C>(whole / kLanes<C>, [&](std::int64_t chunk, auto) __attribute__((always_inline)) {
      return load(p + chunk * kLanes<C>);
    });
    scale_row(p, p, static_cast<C>(1 / sum), whole);
    return sum;
  }

  // Scores become those under which the sample's class wins (core/estimator.h).
  void condition(std::uint32_t draw) {
    for (std::int64_t r = 0; r < group.rows; ++r) {
      if (index(r) < 0) continue;
      const std::int64_t row = group.first_row + r, cls = index(r);
      const Noise& noise = job.scores.noise;
      const std::uint32_t word = word_of(noise, row, cls, draw);
      const C g = word < kTailWords ? tail_noise<C>(noise, row, cls, draw, word) : gumbel_from_word<C>(word);
      const C best = static_cast<C>(rows.log_normaliser[r]) + g;
      C* scores = rows.values + r * rows.stride;
#pragma omp simd
      for (std::int64_t k = 0; k < whole; ++k) scores[k] = conditional_score(scores[k], best);
      scores[cls] = best;
      rows.largest[r] = static_cast<double>(best);
    }
  }

  void find_log_normalisers() {
    score({true, false, 0});
    for (std::int64_t r = 0; r < group.rows; ++r) {
      if (index(r) < 0) continue;
      const double sum = normalise(r, 1);
      rows.log_normaliser[r] = rows.largest[r] + log_positive(sum) - FloatTraits<C>::kExp2Shift * 0x1.62e42fefa39efp-1;
    }
  }

  // Adds what a sweep contributes for row r, of which rows.values holds p.
  void accumulate(std::int64_t r, const RowEstimate& row, const Sweep& sweep, std::int64_t m) {
    const C *p = rows.values + r * rows.stride, *dy = rows.dy + r * rows.stride;
    C* sum = rows.sum + r * rows.stride;
    const bool is_extreme = is_extreme_for_gradient<C>(row.divisor());
    const double usual = sum_chunks<C>(whole / kLanes<C>, [&](std::int64_t chunk, auto) __attribute__((always_inline)) {
      return load(p + chunk * kLanes<C>) * load(dy + chunk * kLanes<C>);
    });
    const double s = scaled_dot(usual, p, dy, classes, 1, is_extreme);
    const double dy_i = static_cast<double>(dy[index(r)]) * kGradientScale;
    const double centre = row.centre(m, s, dy_i), rest = row.rest(m, s, dy_i);
    if (is_extreme) {
      const ExtremeGradient<C> gradient(centre, row.divisor());
      for (std::int64_t k = 0; k < classes; ++k)
        sum[k] = (m > 0 ? sum[k] : C(0)) + static_cast<C>(sweep.weight) * gradient(p[k], dy[k]);
      if (rest != 0) sum[index(r)] += static_cast<C>(rest / kGradientScale / row.divisor());
    } else {
      add_sweep(sum, p, dy, bounded_dot<C>(centre), static_cast<C>(sweep.weight), m == 0);
      if (rest != 0) sum[index(r)] += bounded_dot<C>(rest);
    }
    if (!job.grad_tau || !row.depends_on_tau()) return;
    double tau_sum = 0;
    for (std::int64_t begin = 0; begin < classes; begin += kTileClasses) {
      const std::int64_t width = classes - begin < kTileClasses ? classes - begin : kTileClasses;
      tau_sum += tau_sum_row(buffers.noise, p + begin, dy + begin, width, bounded_dot<C>(s));
    }
    rows.tau_sum[r] = (m > 0 ? rows.tau_sum[r] : 0) + sweep.weight * tau_sum;
  }
  GUMBEL_EXT_INLINE void add_sweep(C* sum, const C* p, const C* dy, C centre, C weight, bool is_first) const {
    const auto centres = part_of(broadcast(centre), 0), weights = part_of(broadcast(weight), 0);
    const auto term = [=](auto p, auto dy)
                          __attribute__((always_inline)) { return GradientOfLogit()(p, dy, centres, weights); };
    if (is_first)
      map_row(sum, whole, term, p, dy);
    else
      map_row(
          sum, whole, [=](auto before, auto p, auto dy) __attribute__((always_inline)) { return before + term(p, dy); },
          sum, p, dy);
  }

  // Row r's sweeps become the logits' gradient.
  GUMBEL_EXT_INLINE void divide_sum(std::int64_t r) {
    C* sum = rows.sum + r * rows.stride;
    if (index(r) < 0) {
      fill_values(sum, classes, C(__builtin_nanf("")));
      return;
    }
    const double divisor = estimate(r).divisor();
    if (!is_extreme_for_gradient<C>(divisor)) scale_row(sum, sum, static_cast<C>(gradient_factor(divisor)), whole);
  }

  // -(1 / T) sum_k dx_k x_k, of logits less one of them: the gradients add up to zero.
  void write_temperature_gradients() {
    score({false, false, 0});
    for (std::int64_t r = 0; r < group.rows; ++r) {
      const C *x = rows.values + r * rows.stride, *dx = rows.sum + r * rows.stride;
      double sum = index(r) < 0 ? __builtin_nan("") : 0;
      const double t = job.temperature[group.first_row + r];
      for (std::int64_t k = 0; k < classes; ++k)
        if (dx[k] != 0 && static_cast<double>(x[k]) != rows.largest[r])
          sum += static_cast<double>(dx[k]) * ((static_cast<double>(x[k]) - rows.largest[r]) / t);
      job.grad_temperature[group.first_row + r] = -sum;
    }
  }

  void write() {
    for_each_tile([&](const Tile& tile) __attribute__((always_inline)) {
      const RowSink<T> sink = tile.sink<T>(job.grad_logits, buffers.staged);
      for (std::int64_t r = 0; r < tile.rows; ++r)
        sink.row(r, [&](auto* out) __attribute__((always_inline)) {
          convert_row(out, rows.sum + r * rows.stride + tile.begin, tile.width);
        });
      sink.finish();
    });
    for (std::int64_t r = 0; r < group.rows && job.grad_tau && estimate(r).depends_on_tau(); ++r) {
      const double tau = job.tau[group.first_row + r];
      job.grad_tau[group.first_row + r] = index(r) < 0 ? __builtin_nan("") : tau_gradient(rows.tau_sum[r], tau);
    }
  }
};

template <typename T>
void estimate_group(const EstimateJob& job, const Plan& plan, const GroupState& group, Workspace workspace) {
  EstimateGroup<T> state(job, plan, group, workspace);
  const bool noisy = takes_noise(job.estimator);
  if (noisy) state.find_shifts();
  if (job.estimator == Estimator::kRao && job.num_noises > 1) state.find_log_normalisers();
  state.stage_grad();
  std::int64_t most = 0;
  for (std::int64_t r = 0; r < group.rows; ++r) {
    const std::int64_t sweeps = state.estimate(r).sweeps();
    most = sweeps > most ? sweeps : most;
  }
  for (std::int64_t m = 0; m < most; ++m) {
    state.score({noisy, noisy, static_cast<std::uint32_t>(m)});
    if (noisy && m > 0) state.condition(static_cast<std::uint32_t>(m));
    for (std::int64_t r = 0; r < group.rows; ++r) {
      const RowEstimate row = state.estimate(r);
      if (state.index(r) < 0 || m >= row.sweeps()) continue;
      const Sweep sweep = row.sweep(m);
      state.normalise(r, sweep.tau);
      state.accumulate(r, row, sweep, m);
    }
  }
  for (std::int64_t r = 0; r < group.rows; ++r) state.divide_sum(r);
  if (job.grad_temperature && state.estimate(0).depends_on_temperature()) state.write_temperature_gradients();
  state.write();
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
