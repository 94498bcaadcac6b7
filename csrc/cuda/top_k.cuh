// The relaxed top-k of a row and its gradient (core/top_k.h), and the k-hot: a block a row, in working memory of its
// own.
//
// A thread's classes are the packs number rank, rank + size, ... of the row; no other thread reads what it keeps of
// them, so that all passes over a row wait for each other only where a number of the whole row is combined.
#pragma once

#include "../core/top_k.h"
#include "scores.cuh"

namespace gumbel_ext::cuda {

constexpr int kTopKThreads = 256;
constexpr int kTopKPack = kPhiloxWords;

// Rows of numbers in a block's working memory, of `width` numbers each: whole packs.
struct TopKMemory {
  double* next;
  std::int64_t width;

  __device__ __forceinline__ TopKMemory(double* memory, std::int64_t doubles, const Shape& shape)
      : next(memory + blockIdx.x * doubles), width(width_of(shape)) {
  }
  GUMBEL_EXT_INLINE static std::int64_t width_of(const Shape& shape) {
    return divide_up(shape.classes, kTopKPack) * kTopKPack;
  }
  __device__ __forceinline__ double* row() {
    double* row = next;
    next += width;
    return row;
  }
};

// body(first, count) for the thread's packs: classes [first, first + kTopKPack), of which `count` exist.
template <typename Body>
__device__ __forceinline__ void for_my_packs(const BlockTeam& team, const Shape& shape, Body body) {
  for (std::int64_t first = std::int64_t(team.rank()) * kTopKPack; first < shape.classes;
       first += std::int64_t(team.size()) * kTopKPack) {
    const std::int64_t left = shape.classes - first;
    body(first, static_cast<int>(left < kTopKPack ? left : kTopKPack));
  }
}
template <typename Body>
__device__ __forceinline__ void for_my_classes(const BlockTeam& team, const Shape& shape, Body body) {
  for_my_packs(team, shape, [&](std::int64_t first, int count) {
    for (int i = 0; i < count; ++i) body(first + i);
  });
}
__device__ __forceinline__ bool is_mine(const BlockTeam& team, std::int64_t cls) {
  return cls / kTopKPack % team.size() == team.rank();
}

template <typename E>
__device__ __forceinline__ void read_row(double* out, const Rows& in, const Shape& shape, std::int64_t row,
                                         double factor, const BlockTeam& team) {
  for_my_packs(team, shape, [&](std::int64_t first, int count) {
    Compute<E> values[kTopKPack];
    load_numbers<E>(values, Row<E>::template of<kTopKPack>(in, row, first), 0, count, Compute<E>(0));
    for (int i = 0; i < count; ++i) out[first + i] = static_cast<double>(values[i]) * factor;
  });
}

template <typename T>
__device__ __forceinline__ void write_row(const Rows& out, const double* values, const Shape& shape, std::int64_t row,
                                          const BlockTeam& team) {
  for_my_packs(team, shape, [&](std::int64_t first, int count) {
    Compute<T> narrowed[kTopKPack];
    for (int i = 0; i < kTopKPack; ++i) narrowed[i] = i < count ? static_cast<Compute<T>>(values[first + i]) : 0;
    store_numbers<T>(Row<T>::template of<kTopKPack>(out, row, first), 0, count, narrowed);
  });
}

// The scores of a row, kept in their tensor, and in kScoreUnit in `out`.
template <typename T>
__device__ __forceinline__ void keep_scores(double* out, const TopKJob& job, std::int64_t row, const BlockTeam& team) {
  using C = Compute<T>;
  for_my_packs(team, job.scores.shape, [&](std::int64_t first, int count) {
    C scores[kTopKPack];
    Logits<T, kTopKPack>(job.scores, row, first).load(scores, 0, count);
    if (job.scores.noise.on) add_noise(scores, NoiseKey(job.scores.noise, row, first), 0, /*draw=*/0);
    store_numbers<C>(Row<C>::template of<kTopKPack>(job.kept, row, first), 0, count, scores);
    for (int i = 0; i < count; ++i) out[first + i] = static_cast<double>(scores[i]) * kScoreUnit;
  });
}

struct TopClass {
  double score;
  std::int64_t index;
};

__device__ __forceinline__ TopClass top_of(const double* scores, const Shape& shape, const BlockTeam& team) {
  TopClass mine{-__builtin_inf(), shape.classes};
  for_my_classes(team, shape, [&](std::int64_t k) {
    if (wins(scores[k], k, mine.score, mine.index)) mine = {scores[k], k};
  });
  return team.combine(mine, Better());
}

__device__ __forceinline__ std::int64_t count_possible(const double* scores, const Shape& shape,
                                                       const BlockTeam& team) {
  std::int64_t mine = 0;
  for_my_classes(team, shape, [&](std::int64_t k) { mine += scores[k] > -__builtin_inf() ? 1 : 0; });
  return team.combine(mine, Plus());
}

// e^((score - second) / tau) of the rest, whose largest score is `second`; 0 where there is no rest. Returns the sum.
__device__ __forceinline__ double exponentiate_rest(double* exponentials, const double* scores, const Shape& shape,
                                                    double second, const RelativeExponential& exponential,
                                                    const BlockTeam& team) {
  if (!(second > -__builtin_inf())) second = 0;
  double mine = 0;
  for_my_classes(team, shape, [&](std::int64_t k) {
    exponentials[k] = exponential(scores[k], second);
    mine += exponentials[k];
  });
  return team.combine(mine, Plus());
}

// The next step of the scores, whose top it takes out: that is -infinity then.
__device__ __forceinline__ TopKStep begin_step(double* scores, double* exponentials, const Shape& shape, double tau,
                                               const RelativeExponential& exponential, const BlockTeam& team) {
  const TopClass top = top_of(scores, shape, team);
  if (is_mine(team, top.index)) scores[top.index] = -__builtin_inf();
  const double second = top_of(scores, shape, team).score;
  const double sum = exponentiate_rest(exponentials, scores, shape, second, exponential, team);
  return TopKStep(top.index, top.score, second, sum, tau, exponential);
}

// The scores after a step; `next` may be `scores`.
__device__ __forceinline__ void end_step(double* next, const double* scores, const double* exponentials,
                                         const Shape& shape, const TopKStep& step, const BlockTeam& team) {
  for_my_classes(team, shape, [&](std::int64_t k) {
    next[k] = k == step.index ? step.next : scores[k] + kScoreUnit * log_complement(exponentials[k] * step.factor);
  });
}

// `memory`: scores, exponentials and value of a row for each block.
template <typename T>
__global__ void __launch_bounds__(kTopKThreads, 1)
    top_k_rows(const __grid_constant__ TopKJob job, double* memory, std::int64_t doubles) {
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  const Shape& shape = job.scores.shape;
  for (std::int64_t row = team.first(); row < shape.rows; row += team.step()) {
    TopKMemory rows(memory, doubles, shape);
    double *scores = rows.row(), *exponentials = rows.row(), *value = rows.row();
    keep_scores<T>(scores, job, row, team);
    const double tau = temperature_of(job.tau, row, /*may_be_zero=*/false);
    const bool undefined = is_undefined(top_of(scores, shape, team).score) || !(tau == tau);
    for_my_classes(team, shape, [&](std::int64_t k) { value[k] = undefined ? __builtin_nan("") : 0; });
    const std::int64_t possible = undefined ? 0 : count_possible(scores, shape, team);
    if (possible < job.k || job.hard) {
      for (std::int64_t j = 0; j < job.k && j < possible; ++j) {
        const TopClass top = top_of(scores, shape, team);
        if (!is_mine(team, top.index)) continue;
        scores[top.index] = -__builtin_inf();
        value[top.index] = 1;
      }
    } else {
      const RelativeExponential exponential(tau);
      for (std::int64_t j = 0; j < job.k; ++j) {
        const TopKStep step = begin_step(scores, exponentials, shape, tau, exponential, team);
        for_my_classes(team, shape,
                       [&](std::int64_t k) { value[k] += k == step.index ? step.p : exponentials[k] * step.factor; });
        if (j + 1 < job.k) end_step(scores, scores, exponentials, shape, step, team);
      }
    }
    write_row<T>(job.value, value, shape, row, team);
  }
}

// What a step's gradient takes of all classes: the rest's sum, and the top's own numbers.
struct AdjointSums {
  double dot, grad, adjoint;

  __device__ __forceinline__ AdjointSums operator+(const AdjointSums& other) const {
    return {dot + other.dot, grad + other.grad, adjoint + other.adjoint};
  }
};

// Of one step: `adjoint`, of the next scores, becomes that of the step's own. Returns the thread's share of what the
// step adds to -tau^2 times tau's gradient, in kScoreUnit.
__device__ __forceinline__ double adjoint_step(double* adjoint, const double* grad, const double* scores,
                                               const double* exponentials, const Shape& shape, const TopKStep& step,
                                               double tau, const BlockTeam& team) {
  const double factor = step.factor, inverse = step.sum > 0 ? 1 / step.sum : 0;
  AdjointSums mine{0, 0, 0};
  for_my_classes(team, shape, [&](std::int64_t k) {
    const double e = exponentials[k];
    if (e != 0) mine.dot += e * TopKAdjoint::pull(grad[k], adjoint[k], e * factor);
    if (k == step.index) mine = {mine.dot, grad[k], adjoint[k]};
  });
  const AdjointSums all = team.combine(mine, Plus());
  const TopKAdjoint of(step, all.dot * inverse, all.grad, all.adjoint);
  double tau_sum = 0;
  for_my_classes(team, shape, [&](std::int64_t k) {
    const double e = exponentials[k];
    const bool is_top = k == step.index;
    const double change = is_top ? -of.flow : of.rest(e * inverse, TopKAdjoint::pull(grad[k], adjoint[k], e * factor));
    if (change != 0) tau_sum += change * ((is_top ? step.top : scores[k]) - step.second);
    adjoint[k] = TopKAdjoint::bounded(adjoint[k] + change / tau);
  });
  return tau_sum;
}

// The gradients of the possible classes, scaled by a power of two, whose exponent this returns; 0 elsewhere.
__device__ __forceinline__ int scale_gradient(double* grad, const double* scores, const Shape& shape,
                                              const BlockTeam& team) {
  double mine = 0;
  for_my_classes(team, shape, [&](std::int64_t k) {
    grad[k] = scores[k] > -__builtin_inf() ? grad[k] : 0;
    mine = Larger()(grad[k] < 0 ? -grad[k] : grad[k], mine);
  });
  const int exponent = gradient_exponent(team.combine(mine, Larger()));
  for_my_classes(team, shape, [&](std::int64_t k) { grad[k] = times_power(grad[k], exponent); });
  return exponent;
}

// The steps once more, each on a row of its own, and then backwards. `memory`: gradient, adjoint and exponentials, the
// scores of every step, and the steps, for each block.
template <typename T>
__global__ void __launch_bounds__(kTopKThreads, 1)
    top_k_backward_rows(const __grid_constant__ TopKBackwardJob job, double* memory, std::int64_t doubles) {
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  const Shape& shape = job.shape;
  for (std::int64_t row = team.first(); row < shape.rows; row += team.step()) {
    TopKMemory rows(memory, doubles, shape);
    double *grad = rows.row(), *adjoint = rows.row(), *exponentials = rows.row(), *scores = rows.row();
    const std::int64_t n = rows.width;
    TopKStep* steps = reinterpret_cast<TopKStep*>(scores + job.k * n);
    read_row<Compute<T>>(scores, job.scores, shape, row, kScoreUnit, team);
    const double tau = temperature_of(job.tau, row, /*may_be_zero=*/false);
    const bool undefined = is_undefined(top_of(scores, shape, team).score) || !(tau == tau);
    const std::int64_t possible = undefined ? 0 : count_possible(scores, shape, team);
    for_my_classes(team, shape, [&](std::int64_t k) { adjoint[k] = undefined ? __builtin_nan("") : 0; });
    double grad_tau = undefined ? __builtin_nan("") : 0;
    if (possible >= job.k && possible > 1) {
      read_row<T>(grad, job.grad, shape, row, 1, team);
      const int exponent = scale_gradient(grad, scores, shape, team);
      const RelativeExponential exponential(tau);
      for (std::int64_t j = 0; j < job.k; ++j) {
        const TopKStep step = begin_step(scores + j * n, exponentials, shape, tau, exponential, team);
        if (team.rank() == 0) steps[j] = step;
        if (j + 1 < job.k) end_step(scores + (j + 1) * n, scores + j * n, exponentials, shape, step, team);
      }
      __syncthreads();  // all see the steps
      double tau_sum = 0;
      for (std::int64_t j = job.k - 1; j >= 0; --j) {
        const TopKStep step = steps[j];
        exponentiate_rest(exponentials, scores + j * n, shape, step.second, exponential, team);
        tau_sum += adjoint_step(adjoint, grad, scores + j * n, exponentials, shape, step, tau, team);
      }
      for_my_classes(team, shape, [&](std::int64_t k) { adjoint[k] = times_power(adjoint[k], -exponent); });
      tau_sum = team.combine(tau_sum, Plus());
      grad_tau = times_power(-(tau_sum / tau / tau) / kScoreUnit, -exponent);
    }
    if (job.grad_tau && team.rank() == 0) job.grad_tau[row] = grad_tau;
    if (job.grad_logits) write_row<T>(job.grad_logits, adjoint, shape, row, team);
    __syncthreads();  // all have read the steps before those of the next row are written
  }
}

}  // namespace gumbel_ext::cuda
