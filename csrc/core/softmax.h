// Softmax's exponentials, and its logarithms.
#pragma once

#include "elementary.h"
#include "job.h"

namespace gumbel_ext {

// Softmax's exponent, base 2, for one temperature: (score - max) * scale.
template <typename C>
struct ExponentScale {
  double tau;
  TwoPart<C> scale;  // log2(e) / tau
  C reach;           // score - max below this underflows to zero; may be -infinity
  bool is_extreme;   // tau so small that scale leaves the working precision

  GUMBEL_EXT_INLINE explicit ExponentScale(double tau) : tau(tau), is_extreme(is_extreme_tau(tau)) {
    if (is_extreme) tau = tau * kEnlarge * kEnlarge;
    const double quotient = kLog2EHigh / tau, high = quotient < kLargest ? quotient : kLargest;
    const double low = (fused_multiply_add(-high, tau, kLog2EHigh) + kLog2ELow) / tau;
    scale.high = static_cast<C>(high);
    scale.low = high < kLargest ? static_cast<C>((high - static_cast<double>(scale.high)) + low) : C(0);
    const double bound = FloatTraits<C>::kExp2Lowest / high;
    reach = bound < -static_cast<double>(FloatTraits<C>::kLargest) ? -C(__builtin_inff()) : static_cast<C>(bound);
  }
  GUMBEL_EXT_INLINE static bool is_extreme_tau(double tau) {
    return !(tau > 4 / kLargest);
  }
  // exp((score - max) / tau), with what the difference and the quotient lose in their rounding.
  GUMBEL_EXT_INLINE double relative(double score, double max) const {
    const double difference = score - max;
    if (!(difference - difference == 0)) return exponential((score / 2 - max / 2) / tau * 2);
    const double quotient = difference / tau;
    if (quotient < FloatTraits<double>::kExp2Lowest) return 0;
    const double score_part = difference + max, max_part = score_part - difference;
    const double lost = (score - score_part) - (max - max_part);
    const double power = exponential(quotient);
    return fused_multiply_add(power, (fused_multiply_add(-quotient, tau, difference) + lost) / tau, power);
  }

  // Half of score - max, which does not overflow. Where tau is extreme, the difference is enlarged as tau was, and not
  // made of halves, which would lose the last bit of a subnormal number. Differences that then overflow to -infinity
  // (above 2^9 in float) are so many times tau that their exponential is 0.
  GUMBEL_EXT_INLINE C half_difference(C score, C max) const {
    if (is_extreme) return (score - max) * static_cast<C>(kEnlarge) * static_cast<C>(kEnlarge / 2);
    return score * C(0.5) - max * C(0.5);
  }

 private:
  static constexpr double kLargest = sizeof(C) == 4 ? 0x1p120 : 0x1p1010;
  static constexpr double kEnlarge = sizeof(C) == 4 ? 0x1p60 : 0x1p500;
};

// The exponentials of a row, score by score. Where the largest score is near zero, exponents are fused products of
// score and scale: scores are never subtracted from each other, so no difference is rounded. Elsewhere scores first
// become half_differences (exact where the exponential is not 0), whose largest is 0.
template <typename C>
struct Exponential {
  TwoPart<C> scale;
  C lowest;   // scores below this have the exponential of this
  C product;  // max * scale, rounded
  C rounder;  // kShiftedRounder, less the product's whole part
  C rest;     // what the whole part leaves of the product

  GUMBEL_EXT_INLINE static bool is_near(TwoPart<C> scale, C max) {
    constexpr C kNear = sizeof(C) == 4 ? 512 : 4096;  // beyond, scores within reach are at least half of max
    const C product = max * scale.high;
    return product < kNear && product > -kNear;
  }
  GUMBEL_EXT_INLINE static Exponential of_row(TwoPart<C> scale, C reach, C max, bool is_near) {
    constexpr C kRounder = FloatTraits<C>::kRounder;
    const C unit = is_near ? C(1) : C(2);  // half_differences count twice
    scale = {scale.high * unit, scale.low * unit};
    if (!is_near) max = 0;
    const C lowest = fused_multiply_add(reach, 1 / unit, max);
    const C product = fused_multiply_add(max, scale.high, C(0));
    const C whole = (product + kRounder) - kRounder;
    const C rest = fused_multiply_add(max, scale.low, fused_multiply_add(max, scale.high, -whole));
    return {scale, lowest, product, kShiftedRounder<C> - whole, rest};
  }

  // exp((score - max) / tau) * 2^kExp2Shift, of a score as told above; exactly 0 of -infinity, and 2^kExp2Shift of max.
  GUMBEL_EXT_INLINE C operator()(C score) const {
    return score == -C(__builtin_inff()) ? C(0) : clamped(score).value;
  }
  // The same, but exactly 0 below `lowest`, and its exponent, base 2, without the shift: there 0 as well.
  struct Power {
    C value, log2;
  };
  GUMBEL_EXT_INLINE Power with_log2(C score) const {
    const Power power = clamped(score);
    const bool counts = score > lowest;
    return {counts ? power.value : C(0), counts ? power.log2 : C(0)};
  }

 private:
  GUMBEL_EXT_INLINE Power clamped(C score) const {
    const C some = score > lowest ? score : lowest;
    const C rounded = fused_multiply_add(some, scale.high, -product) + kShiftedRounder<C>;
    const C fraction = fused_multiply_add(some, scale.high, rounder - rounded);
    const C r = fused_multiply_add(some, scale.low, fraction) - rest;
    return {exp2_shifted(rounded, r), (rounded - kShiftedRounder<C>)+r};
  }
};

// log softmax(scores / tau) of a row, score by score, given the largest and the sum of their Exponentials: in double,
// rounded once to C. -infinity of -infinity, and where the logarithm leaves C.
template <typename C>
struct Logarithm {
  double max, unit;      // differences of numbers this large are made of halves, and do not overflow
  double first, second;  // 1 / (tau * unit), in two factors of about one size
  double log_sum;

  GUMBEL_EXT_INLINE Logarithm(double tau, double max, double sum)
      : Logarithm(of_log_sum(tau, max, log_positive(sum * FloatTraits<C>::kExp2Unshift))) {
  }
  // Given the logarithm of the unshifted sum.
  GUMBEL_EXT_INLINE static Logarithm of_log_sum(double tau, double max, double log_sum) {
    Logarithm result;
    result.unit = max > 0x1p900 ? 0.5 : 1;
    result.max = max * result.unit;
    result.first = 1 / square_root(tau);
    result.second = 1 / (tau * result.first) / result.unit;
    result.log_sum = log_sum;
    return result;
  }
  GUMBEL_EXT_INLINE C operator()(C score) const {
    const double difference = fused_multiply_add(static_cast<double>(score), unit, -max);
    return static_cast<C>(fused_multiply_add(difference * first, second, -log_sum));
  }

 private:
  Logarithm() = default;
};

}  // namespace gumbel_ext
