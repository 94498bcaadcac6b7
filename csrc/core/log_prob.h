// Log-probabilities of draws, and the entropy of a row, by numbers of the row. With L_k = (max - x_k) / T, where max is
// the row's largest logit and `others` the sum of e^{-L_k} without the first class that has it,
//   log p_k = -L_k - log1p(others),    H = log1p(others) + weighted / (1 + others),    weighted = sum_k L_k e^{-L_k}.
// All terms have one sign: nothing cancels, also where a class has almost all of the probability.
//
// The gradient of sum_d g_d log p_{i_d} + h H, with G = sum_d g_d and the mean c = weighted / (1 + others) of L:
//   dx_k = (sum_{d: i_d = k} g_d - p_k (G + h (c - L_k))) / T,
//   dT = (sum_d g_d (L_{i_d} - c) + h sum_k p_k (L_k - c)^2) / T.
#pragma once

#include "gradient.h"
#include "order.h"
#include "softmax.h"

namespace gumbel_ext {

// Of classes of a row, or of all. Where they have no softmax, `max` says so (is_undefined); at T = 0, `others` and
// `weighted` are 0.
struct RowStatistics {
  double max, others, weighted;
};
constexpr double kLn2 = 0x1.62e42fefa39efp-1;
constexpr std::int64_t kRowStatistics = sizeof(RowStatistics) / sizeof(double);

// Of two sets of classes together.
GUMBEL_EXT_INLINE RowStatistics together(const RowStatistics& a, const RowStatistics& b, double temperature) {
  // (Selected number by number: a reference to one of two would have both in memory.)
  const bool swap = beats(b.max, a.max);
  const RowStatistics large{swap ? b.max : a.max, swap ? b.others : a.others, swap ? b.weighted : a.weighted};
  const RowStatistics small{swap ? a.max : b.max, swap ? a.others : b.others, swap ? a.weighted : b.weighted};
  if (is_undefined(large.max) || is_undefined(small.max) || temperature == 0) return large;
  const double factor = ExponentScale<double>(temperature).relative(small.max, large.max);
  if (factor == 0) return large;
  const double distance = (large.max / 2 - small.max / 2) / temperature * 2, total = 1 + small.others;
  return {large.max, fused_multiply_add(factor, total, large.others),
          fused_multiply_add(factor, fused_multiply_add(distance, total, small.weighted), large.weighted)};
}

// log(1 + x) within about an ulp. Requires: x not negative, finite.
GUMBEL_EXT_INLINE double log1p_positive(double x) {
  const double sum = 1 + x, lost = x - (sum - 1);
  return log_positive(sum) + (x < 0x1p52 ? lost / sum : 0);
}

// The answers of a row at temperature T.
struct RowAnswers {
  RowStatistics row;
  double temperature, log_sum;
  Logarithm<double> minus_distance;

  GUMBEL_EXT_INLINE RowAnswers(const RowStatistics& row, double temperature)
      : row(row),
        temperature(temperature),
        log_sum(log1p_positive(row.others)),
        minus_distance(Logarithm<double>::of_log_sum(temperature > 0 ? temperature : 1, row.max, 0)) {
  }
  GUMBEL_EXT_INLINE bool is_defined() const {
    return !is_undefined(row.max);
  }
  // At T = 0 the first draw is certain, and so are those of its class.
  GUMBEL_EXT_INLINE double log_prob(double logit, bool is_first) const {
    if (!is_defined()) return __builtin_nan("");
    if (temperature == 0) return is_first ? 0 : -__builtin_inf();
    return minus_distance(logit) - log_sum;
  }
  GUMBEL_EXT_INLINE double entropy() const {
    return is_defined() ? log_sum + mean() : __builtin_nan("");
  }
  // Of L.
  GUMBEL_EXT_INLINE double mean() const {
    return row.weighted / (1 + row.others);
  }
};

GUMBEL_EXT_INLINE RowAnswers answers_of(const LogProbJob& job, std::int64_t row) {
  return {reinterpret_cast<const RowStatistics*>(job.statistics)[row], job.temperature[row]};
}

// The gradients of a row's answers, class by class, given e^{-L} and L; `draws` is G, `entropy` h. Requires: T > 0, the
// row defined.
struct AnswersGradient {
  RowAnswers answers;
  double draws, entropy, mean, sum;
  ExtremeGradient<double> scaled;  // a product over T

  GUMBEL_EXT_INLINE AnswersGradient(const RowAnswers& answers, double draws, double entropy)
      : answers(answers),
        draws(draws),
        entropy(entropy),
        mean(answers.mean()),
        sum(1 + answers.row.others),
        scaled(0, answers.temperature) {
  }
  // Of a class that was not drawn.
  GUMBEL_EXT_INLINE double of(double power, double distance) const {
    return power == 0 ? 0 : scaled(power / sum, -fused_multiply_add(entropy, mean - distance, draws));
  }
  // Of a class whose draws' gradients add up to `weight`.
  GUMBEL_EXT_INLINE double of_drawn(double distance, double weight) const {
    if (!(distance < __builtin_inf())) return 0;  // it cannot be drawn
    const double power = exponential(-distance), p = power / sum;
    const double complement = (answers.row.others + (1 - power)) / sum;
    const double pull = fused_multiply_add(entropy, mean - distance, draws - weight);
    return scaled(1, fused_multiply_add(weight, complement, -(p * pull)));
  }
  // What a class adds to T dT, drawn or not; and a drawn one besides.
  GUMBEL_EXT_INLINE double temperature_term(double power, double distance) const {
    return power == 0 ? 0 : entropy * (power / sum) * (distance - mean) * (distance - mean);
  }
  GUMBEL_EXT_INLINE double drawn_temperature_term(double distance, double weight) const {
    return distance < __builtin_inf() ? weight * (distance - mean) : 0;
  }
};

// The gradient by products of a class's shifted Exponential (core/softmax.h) and its base-2 logarithm in the working
// precision: power * (constant + slope * log2). Not possible where a factor is so small that products lose digits, or
// so large that exponentials beyond the shifted ones' reach would show in them: then AnswersGradient has to do.
template <typename C>
struct FastAnswersGradient {
  C constant, slope;
  bool is_possible;

  GUMBEL_EXT_INLINE explicit FastAnswersGradient(const AnswersGradient& exact) {
    const double unit = 1 / (exact.sum * exact.answers.temperature);
    const double pull = -fused_multiply_add(exact.entropy, exact.mean, exact.draws), a = pull * unit;
    const double b = -exact.entropy * unit * kLn2;
    is_possible = (pull == 0 || is_moderate(a)) && (exact.entropy == 0 || is_moderate(b));
    constant = static_cast<C>(a * FloatTraits<C>::kExp2Unshift);
    slope = static_cast<C>(b * FloatTraits<C>::kExp2Unshift);
  }
  GUMBEL_EXT_INLINE C operator()(C power, C log2) const {
    return power * fused_multiply_add(slope, log2, constant);
  }

 private:
  GUMBEL_EXT_INLINE static bool is_moderate(double x) {
    constexpr double kLarge = sizeof(C) == 4 ? 0x1p30 : 0x1p400, kSmall = sizeof(C) == 4 ? 0x1p-60 : 0x1p-400;
    const double size = x < 0 ? -x : x;
    return size >= kSmall && size <= kLarge;
  }
};

}  // namespace gumbel_ext
