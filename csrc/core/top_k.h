// The relaxed top-k's steps (Xie, Ermon 2019): with a_1 = scores, for j = 1 ... k
//   p_j = softmax(a_j / tau),   a_{j+1} = a_j + log(1 - p_j);   the result is p_1 + ... + p_k.
//
// In each step the largest class, the top, is apart from the others, the rest, whose exponentials are relative to the
// largest of themselves: 1 - p of the top is made of these, and keeps its digits where p rounds to 1, whatever the
// distance. All is in double, whatever the type of the logits: what rounds in one step is multiplied by 1 / tau in the
// next.
#pragma once

#include "softmax.h"

namespace gumbel_ext {

// Scores are kept in sixteenths, so that their differences are finite.
constexpr double kScoreUnit = 0x1p-4;
// What gradients that come in are scaled to, by a power of two, so that none overflows when divided by the smallest
// tau. Beyond kLargestAdjoint they stay at that.
constexpr int kGradientExponent = -64;
constexpr double kLargestAdjoint = 0x1p1010;

// log(1 - p). Requires: 0 <= p <= 1/2, but for rounding.
GUMBEL_EXT_INLINE double log_complement(double p) {
  const bool small = p < 0x1.5555555555555p-2;  // 1 - p = 1 + f with f = -p, no digit lost
  LogArgument<double> argument = reduce_log_argument(1 - p);
  argument.exponent = small ? 0.0 : argument.exponent;
  argument.f = small ? -p : argument.f;
  return log_reduced(argument);
}

// e^((a - b) / tau) of scores a <= b.
struct RelativeExponential {
  Exponential<double> exponential;

  GUMBEL_EXT_INLINE explicit RelativeExponential(double tau) : exponential(of(tau)) {
  }
  GUMBEL_EXT_INLINE double operator()(double a, double b) const {
    return exponential(a - b) * FloatTraits<double>::kExp2Unshift;
  }

 private:
  GUMBEL_EXT_INLINE static Exponential<double> of(double tau) {
    constexpr double kSmallest = 0x1p-1000;  // noise leaves no difference of scores that is near it, but 0
    const ExponentScale<double> scale(tau * kScoreUnit > kSmallest ? tau * kScoreUnit : kSmallest);
    return Exponential<double>::of_row(scale.scale, scale.reach, 0, /*is_near=*/true);
  }
};

// A step, once its sums are known.
struct TopKStep {
  std::int64_t index = -1;       // of the top
  double top = 0, second = 0;    // the largest scores, of all and of the rest; -infinity where there is no rest
  double sum = 0;                // of the rest's exponentials, relative to `second`
  double p = 1, complement = 0;  // of the top, and 1 - p
  double factor = 0;             // times a class's exponential: its p
  double next = 0;               // the top's next score

  TopKStep() = default;
  GUMBEL_EXT_INLINE TopKStep(std::int64_t index, double top, double second, double sum, double tau,
                             const RelativeExponential& exponential)
      : index(index), top(top), second(second), sum(sum) {
    if (!(sum > 0)) return;  // there is no rest, which happens in the last step alone
    const double ratio = exponential(second, top), rest = ratio * sum;  // over the top's exponential
    p = 1 / (1 + rest);
    complement = rest / (1 + rest);
    factor = ratio / (1 + rest);
    if (p <= 0.5)
      next = top + kScoreUnit * log_complement(p);
    else if (rest > 0x1p-1000)
      next = top + kScoreUnit * log_positive(complement);
    else
      next = (top - (top - second) / tau) + kScoreUnit * log_positive(sum);
  }
};

// The gradient of one step. With e / sum = r for the rest, b the adjoint of the next scores, and dy that of the result:
//   P_i = dy_i - b_i / (1 - p_i) for the rest,   D = sum_i r_i P_i,   F = p ((1 - p) (D - dy) + b) of the top;
// then with respect to a / tau it is r_i ((1 - p) (P_i - D) + F) for the rest, and -F for the top. No term is divided
// by 1 - p of the top.
struct TopKAdjoint {
  double complement, dot, flow;  // 1 - p, D, F

  GUMBEL_EXT_INLINE TopKAdjoint(const TopKStep& step, double dot, double dy, double b)
      : complement(step.complement), dot(dot), flow(step.p * (step.complement * (dot - dy) + b)) {
  }
  GUMBEL_EXT_INLINE static double pull(double dy, double b, double p) {
    return dy - b / (1 - p);
  }
  // Of a class of the rest, by r and P; exactly 0 where r is.
  GUMBEL_EXT_INLINE double rest(double r, double pull) const {
    const double product = r * (complement * (pull - dot) + flow);
    return r == 0 ? 0.0 : product;
  }
  GUMBEL_EXT_INLINE static double bounded(double adjoint) {
    const double below = adjoint > kLargestAdjoint ? kLargestAdjoint : adjoint;  // (NaN passes)
    return below < -kLargestAdjoint ? -kLargestAdjoint : below;
  }
};

// The exponent of a power of two that scales numbers, of which this is the largest size, to about 2^kGradientExponent;
// 0 where that is zero or not finite.
GUMBEL_EXT_INLINE int gradient_exponent(double largest) {
  if (largest == 0 || !(largest - largest == 0)) return 0;
  constexpr int kBias = 1023;
  const bool is_small = largest < FloatTraits<double>::kSmallestNormal;
  const std::uint64_t bits = bit_cast<std::uint64_t>(is_small ? largest * 0x1p64 : largest);
  return kGradientExponent - (static_cast<int>(bits >> 52) - kBias - (is_small ? 64 : 0));
}
// x * 2^exponent, in two factors that double holds. Requires: |exponent| < 2000.
GUMBEL_EXT_INLINE double times_power(double x, int exponent) {
  const int half = exponent / 2;
  const auto power = [](int n) { return bit_cast<double>(static_cast<std::uint64_t>(n + 1023) << 52); };
  return x * power(half) * power(exponent - half);
}

}  // namespace gumbel_ext
