// The relaxed top-k of a row and its gradient (core/top_k.h), and the k-hot.
#pragma once

#include "../../core/top_k.h"
#include "../tile/scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// Rows of numbers that the kernels work in, one after the other in their memory: of whole vectors.
class TopKMemory {
 public:
  GUMBEL_EXT_INLINE TopKMemory(void* memory, std::int64_t classes)
      : next_(static_cast<double*>(memory)), width_(padded<double>(classes)) {
  }
  GUMBEL_EXT_INLINE double* row() {
    double* row = next_;
    next_ += width_;
    return row;
  }
  GUMBEL_EXT_INLINE std::int64_t width() const {
    return width_;
  }

 private:
  double* next_;
  std::int64_t width_;
};

// body(tile) for the tiles of a row.
template <typename Body>
GUMBEL_EXT_INLINE void for_each_tile(const Shape& shape, std::int64_t row, Body body) {
  for (std::int64_t begin = 0; begin < shape.classes; begin += kTileClasses) {
    const std::int64_t left = shape.classes - begin;
    body(Tile(row, 1, begin, left < kTileClasses ? left : kTileClasses));
  }
}

// A row of a tensor of E, times `factor`; then `filler` to whole vectors.
template <typename E>
void read_row(double* out, const Rows& in, const Shape& shape, std::int64_t row, Buffers<Compute<E>>& buffers,
              double factor, double filler) {
  using C = Compute<E>;
  for_each_tile(shape, row, [&](const Tile& tile) __attribute__((always_inline)) {
    const void* start;
    stage_rows<E>(&start, buffers.staged, in, row, 1, tile.begin, tile.width, /*stay=*/false);
    const C* staged = static_cast<const C*>(start);
#pragma omp simd
    for (std::int64_t k = 0; k < tile.width; ++k) out[tile.begin + k] = static_cast<double>(staged[k]) * factor;
  });
  for (std::int64_t k = shape.classes; k < padded<double>(shape.classes); ++k) out[k] = filler;
}

template <typename T>
void write_row(const Rows& out, const double* values, const Shape& shape, std::int64_t row,
               Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  for_each_tile(shape, row, [&](const Tile& tile) __attribute__((always_inline)) {
#pragma omp simd
    for (std::int64_t k = 0; k < tile.width; ++k) buffers.staged[k] = static_cast<C>(values[tile.begin + k]);
    const RowSink<T> sink = tile.sink<T>(out, buffers.second_staged);
    sink.row(0, [&](auto* to) __attribute__((always_inline)) { convert_row(to, buffers.staged, tile.width); });
    sink.finish();
  });
}

// The scores of a row, kept in their tensor, and in kScoreUnit in `out`.
template <typename T>
void keep_scores(double* out, const TopKJob& job, std::int64_t row, Buffers<Compute<T>>& buffers) {
  using C = Compute<T>;
  const Scores& in = job.scores;
  for_each_tile(in.shape, row, [&](const Tile& tile) __attribute__((always_inline)) {
    stage_logits<T>(in.logits, in.mask, tile, buffers);
    if (in.noise.on) {
      fill_words(in.noise, tile, 0, buffers);
      tile_noise(in.noise, tile, 0, buffers);
    }
    buffers.template read_row<T>(0, [&](const auto* logits) __attribute__((always_inline)) {
      add_noise(buffers.scores, logits, in.noise.on ? buffers.noise : static_cast<const C*>(nullptr), tile.width);
    });
    const RowSink<C> sink = tile.sink<C>(job.kept, buffers.second_staged);
    sink.row(0, [&](auto* to) __attribute__((always_inline)) { convert_row(to, buffers.scores, tile.width); });
    sink.finish();
#pragma omp simd
    for (std::int64_t k = 0; k < tile.width; ++k)
      out[tile.begin + k] = static_cast<double>(buffers.scores[k]) * kScoreUnit;
  });
  for (std::int64_t k = in.shape.classes; k < padded<double>(in.shape.classes); ++k) out[k] = -__builtin_inf();
}

GUMBEL_EXT_INLINE double largest_of(const double* scores, std::int64_t n) {
  RunningMax<double> found;
  for (std::int64_t k = 0; k < n; k += kLanes<double>) found.take(load(scores + k));
  return row_max(found);
}

GUMBEL_EXT_INLINE std::int64_t count_possible(const double* scores, std::int64_t n) {
  std::int64_t count = 0;
#pragma omp simd reduction(+ : count)
  for (std::int64_t k = 0; k < n; ++k) count += scores[k] > -__builtin_inf() ? 1 : 0;
  return count;
}

// e^((score - second) / tau) of the rest, whose largest score is `second`; 0 where there is no rest.
GUMBEL_EXT_INLINE void exponentiate_rest(double* exponentials, const double* scores, std::int64_t n, double second,
                                         const RelativeExponential& exponential) {
  const RelativeExponential local = exponential;
  if (!(second > -__builtin_inf())) second = 0;  // of which -infinity is infinitely far, and not undefined
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) exponentials[k] = local(scores[k], second);
}

// The next step of the scores, whose top it takes out: that is -infinity then. `exponentials` become those of the rest.
GUMBEL_EXT_INLINE TopKStep begin_step(double* scores, double* exponentials, std::int64_t n, double tau,
                                      const RelativeExponential& exponential) {
  const double top = largest_of(scores, n);
  const std::int64_t index = find_first(scores, n, top);
  scores[index] = -__builtin_inf();
  const double second = largest_of(scores, n);
  exponentiate_rest(exponentials, scores, n, second, exponential);
  const double sum =
      sum_chunks<double>(n / kLanes<double>, [&](std::int64_t chunk, auto) __attribute__((always_inline)) {
        return load(exponentials + chunk * kLanes<double>);
      });
  return TopKStep(index, top, second, sum, tau, exponential);
}

// The scores after a step; `next` may be `scores`.
GUMBEL_EXT_INLINE void end_step(double* next, const double* scores, const double* exponentials, std::int64_t n,
                                const TopKStep& step) {
  const double factor = step.factor;
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) next[k] = scores[k] + kScoreUnit * log_complement(exponentials[k] * factor);
  next[step.index] = step.next;
}

template <typename T>
void top_k_row(const TopKJob& job, const Plan& plan, std::int64_t row, Workspace workspace, void* scratch) {
  const Shape& shape = job.scores.shape;
  Buffers<Compute<T>> buffers(shape, plan, workspace);
  TopKMemory memory(scratch, shape.classes);
  double *scores = memory.row(), *exponentials = memory.row(), *value = memory.row();
  const std::int64_t n = memory.width();
  keep_scores<T>(scores, job, row, buffers);
  const bool undefined = is_undefined(largest_of(scores, n));
  for (std::int64_t k = 0; k < n; ++k) value[k] = undefined ? __builtin_nan("") : 0;
  const std::int64_t possible = undefined ? 0 : count_possible(scores, n);
  if (possible < job.k || job.hard) {
    for (std::int64_t j = 0; j < job.k && j < possible; ++j) {
      const std::int64_t index = find_first(scores, n, largest_of(scores, n));
      scores[index] = -__builtin_inf();
      value[index] = 1;
    }
  } else {
    const double tau = job.tau[row];
    const RelativeExponential exponential(tau);
    for (std::int64_t j = 0; j < job.k; ++j) {
      const TopKStep step = begin_step(scores, exponentials, n, tau, exponential);
#pragma omp simd
      for (std::int64_t k = 0; k < n; ++k) value[k] += exponentials[k] * step.factor;
      value[step.index] += step.p;
      if (j + 1 < job.k) end_step(scores, scores, exponentials, n, step);
    }
  }
  write_row<T>(job.value, value, shape, row, buffers);
}

// Of one step: `adjoint`, of the next scores, becomes that of the step's own. Returns what the step adds to -tau^2
// times tau's gradient, in kScoreUnit.
GUMBEL_EXT_INLINE double adjoint_step(double* adjoint, const double* grad, const double* scores, double* exponentials,
                                      std::int64_t n, const TopKStep& step, double tau, bool need_tau) {
  const double factor = step.factor, inverse = step.sum > 0 ? 1 / step.sum : 0;
  Vec<double> dots = {};
  for (std::int64_t k = 0; k < n; k += kLanes<double>) {
    const Vec<double> e = load(exponentials + k), b = load(adjoint + k), dy = load(grad + k);
    dots += by_parts<Vec<double>>(
        [=](auto e, auto b, auto dy) __attribute__((always_inline)) {
          const auto term = e * (dy - b / (1.0 - e * factor));
          return e == 0.0 ? e : term;
        },
        e, b, dy);
  }
  const double top_grad = grad[step.index], top_adjoint = adjoint[step.index];
  const TopKAdjoint of(step, fold_vector<double>(dots, Plus()) * inverse, top_grad, top_adjoint);
  double tau_sum = 0;
  if (need_tau) {
    for (std::int64_t k = 0; k < n; ++k) {
      const double e = exponentials[k], r = e * inverse;
      const double change = of.rest(r, TopKAdjoint::pull(grad[k], adjoint[k], e * factor));
      if (r > 0) tau_sum += change * (scores[k] - step.second);
    }
    if (of.flow != 0) tau_sum -= of.flow * (step.top - step.second);
  }
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) {
    const double e = exponentials[k];
    const double change = of.rest(e * inverse, TopKAdjoint::pull(grad[k], adjoint[k], e * factor));
    adjoint[k] = TopKAdjoint::bounded(adjoint[k] + change / tau);
  }
  adjoint[step.index] = TopKAdjoint::bounded(top_adjoint - of.flow / tau);
  return tau_sum;
}

// The gradients of the possible classes, scaled by a power of two, whose exponent this returns; 0 elsewhere.
GUMBEL_EXT_INLINE int scale_gradient(double* grad, const double* scores, std::int64_t n) {
  double largest = 0;
  for (std::int64_t k = 0; k < n; ++k) {
    grad[k] = scores[k] > -__builtin_inf() ? grad[k] : 0;
    const double size = grad[k] < 0 ? -grad[k] : grad[k];
    largest = size > largest ? size : largest;
  }
  const int exponent = gradient_exponent(largest);
  for (std::int64_t k = 0; k < n; ++k) grad[k] = times_power(grad[k], exponent);
  return exponent;
}

// The steps once more, each on a row of its own, and then backwards.
template <typename T>
void top_k_backward_row(const TopKBackwardJob& job, const Plan& plan, std::int64_t row, Workspace workspace,
                        void* scratch) {
  using C = Compute<T>;
  Buffers<C> buffers(job.shape, plan, workspace);
  TopKMemory memory(scratch, job.shape.classes);
  double *grad = memory.row(), *adjoint = memory.row(), *exponentials = memory.row(), *scores = memory.row();
  const std::int64_t n = memory.width();
  read_row<C>(scores, job.scores, job.shape, row, buffers, kScoreUnit, -__builtin_inf());
  const bool undefined = is_undefined(largest_of(scores, n));
  const std::int64_t possible = undefined ? 0 : count_possible(scores, n);
  for (std::int64_t k = 0; k < n; ++k) adjoint[k] = undefined ? __builtin_nan("") : 0;
  double grad_tau = adjoint[0];
  if (possible >= job.k && possible > 1) {  // else the classes are what they are, whatever their logits
    read_row<T>(grad, job.grad, job.shape, row, buffers, 1, 0);
    const int exponent = scale_gradient(grad, scores, n);
    const double tau = job.tau[row];
    const RelativeExponential exponential(tau);
    TopKStep* steps = reinterpret_cast<TopKStep*>(scores + job.k * n);
    for (std::int64_t j = 0; j < job.k; ++j) {
      steps[j] = begin_step(scores + j * n, exponentials, n, tau, exponential);
      if (j + 1 < job.k) end_step(scores + (j + 1) * n, scores + j * n, exponentials, n, steps[j]);
    }
    double tau_sum = 0;
    for (std::int64_t j = job.k - 1; j >= 0; --j) {
      if (j + 1 < job.k) exponentiate_rest(exponentials, scores + j * n, n, steps[j].second, exponential);
      tau_sum += adjoint_step(adjoint, grad, scores + j * n, exponentials, n, steps[j], tau, job.grad_tau != nullptr);
    }
    for (std::int64_t k = 0; k < n; ++k) adjoint[k] = times_power(adjoint[k], -exponent);
    grad_tau = times_power(-(tau_sum / tau / tau) / kScoreUnit, -exponent);
  }
  if (job.grad_tau) job.grad_tau[row] = grad_tau;
  if (job.grad_logits) write_row<T>(job.grad_logits, adjoint, job.shape, row, buffers);
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
