// Softmax's exponentials and the order of scores: what a row kernel needs beside its noise.
#pragma once

#include "elementary.h"
#include "job.h"

namespace gumbel_ext {

// exp2_shifted(h, scale) for any h <= 0: exactly 0 where it is -infinity, and at least the smallest where it is below
// `lowest`.
template <typename C>
GUMBEL_EXT_INLINE C softmax_exponential(C h, TwoPart<C> scale, C lowest) {
  const C power = exp2_shifted(h > lowest ? h : lowest, scale);
  return h == -C(__builtin_inff()) ? C(0) : power;
}

// Softmax's exponent, base 2: with h = score / 2 - max / 2 (halved, so that no difference overflows) the
// exponential is 2^(h * scale).
template <typename C>
struct ExponentScale {
  double tau;
  TwoPart<C> scale;  // 2 log2(e) / tau
  C lowest;          // h below this underflows to zero
  bool is_extreme;   // tau so small that scale leaves the working precision: h has to be enlarged first

  GUMBEL_EXT_INLINE explicit ExponentScale(double tau) : tau(tau), is_extreme(is_extreme_tau(tau)) {
    constexpr double kLog2EHigh = 0x1.71547652b82fep+0, kLog2ELow = 0x1.777d0ffda0d24p-56;
    if (is_extreme) tau = tau * kEnlarge * kEnlarge;
    const double quotient = 2 * kLog2EHigh / tau, high = quotient < kLargest ? quotient : kLargest;
    const double low = (fused_multiply_add(-high, tau, 2 * kLog2EHigh) + 2 * kLog2ELow) / tau;
    scale.high = static_cast<C>(high);
    scale.low = high < kLargest ? static_cast<C>((high - static_cast<double>(scale.high)) + low) : C(0);
    const double bound = FloatTraits<C>::kExp2Lowest / high;
    lowest = bound < -static_cast<double>(FloatTraits<C>::kLargest) ? -FloatTraits<C>::kLargest : static_cast<C>(bound);
  }
  GUMBEL_EXT_INLINE static bool is_extreme_tau(double tau) {
    return !(tau > 4 / kLargest);
  }

  // exp(score / tau - max / tau) * 2^kExp2Shift; exactly 0 where the score was -infinity.
  GUMBEL_EXT_INLINE C operator()(C h) const {
    return softmax_exponential(h, scale, lowest);
  }
  // h of score - max, where `is_extreme`. Not of halves, which would lose the last bit of a subnormal number. What
  // overflows to -infinity here, above 2^9 in float, is so many times tau that its exponential is 0.
  GUMBEL_EXT_INLINE static C enlarge(C difference) {
    return difference * static_cast<C>(kEnlarge) * static_cast<C>(kEnlarge / 2);
  }
  // exp((score - max) / tau)
  GUMBEL_EXT_INLINE double relative(double score, double max) const {
    const double difference = score - max;
    return exponential(difference - difference == 0 ? difference / tau : (score / 2 - max / 2) / tau * 2);
  }

 private:
  static constexpr double kLargest = sizeof(C) == 4 ? 0x1p120 : 0x1p1010;
  static constexpr double kEnlarge = sizeof(C) == 4 ? 0x1p60 : 0x1p500;
};

// A row with NaN, with +infinity or with nothing but -infinity has no softmax.
GUMBEL_EXT_INLINE bool is_undefined(double max) {
  return !(max - max == 0);
}

// A score that comes later in the row beats the best so far. NaN is the largest; the first of equals wins.
template <typename Score, typename BestScore>
GUMBEL_EXT_INLINE bool beats(Score score, BestScore best) {
  return best == best && !(score <= best);
}

// The same for scores in any order: whether class a of a row wins over class b.
template <typename C>
GUMBEL_EXT_INLINE bool wins(C score_a, std::int64_t a, C score_b, std::int64_t b) {
  const bool a_is_nan = score_a != score_a, b_is_nan = score_b != score_b;
  if ((a_is_nan && b_is_nan) || score_a == score_b) return a < b;
  return a_is_nan || (!b_is_nan && score_a > score_b);
}

}  // namespace gumbel_ext
