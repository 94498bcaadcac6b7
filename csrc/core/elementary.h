// log and exp2 as fixed sequences of operations: the same bits from every compiler, vector width and
// device. Every product that meets a sum does so in one fused_multiply_add.
//
// Coefficients: minimax, from tools/fit_polynomials.py.
#pragma once

#include "portability.h"

namespace gumbel_ext {

// What an algorithm below needs to know of a floating-point type.
template <typename T>
struct FloatTraits;

template <>
struct FloatTraits<float> {
  using Bits = std::uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr Bits kExponentMask = 0xff800000u;
  static constexpr Bits kTwoThirds = 0x3f2aaaabu;           // the bits of the first float above 2/3
  static constexpr float kLn2PerExponent = 0x1.62e43p-24f;  // see exponent_value
  static constexpr float kRounder = 0x1.8p23f;              // adding it rounds to an integer
  static constexpr float kLargest = 0x1.fffffep127f;
  static constexpr float kSmallestNormal = 0x1p-126f;
  static constexpr int kExp2Shift = 64;
  static constexpr float kExp2Unshift = 0x1p-64f;
  static constexpr double kExp2Lowest = -189;  // 2^(this + kExp2Shift) is normal
};

template <>
struct FloatTraits<double> {
  using Bits = std::uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr Bits kExponentMask = 0xfff0000000000000u;
  static constexpr Bits kTwoThirds = 0x3fe5555555555556u;
  static constexpr double kLn2PerExponent = 0x1.62e42fefa39efp-1;
  static constexpr double kRounder = 0x1.8p52;
  static constexpr double kLargest = 0x1.fffffffffffffp1023;
  static constexpr double kSmallestNormal = 0x1p-1022;
  static constexpr int kExp2Shift = 512;
  static constexpr double kExp2Unshift = 0x1p-512;
  static constexpr double kExp2Lowest = -1500;
};

// Adding it rounds to an integer, and adds kExp2Shift, which is even.
template <typename T>
constexpr T kShiftedRounder = FloatTraits<T>::kRounder + FloatTraits<T>::kExp2Shift;

// Horner's scheme; coefficients from the highest power down.
template <typename T>
GUMBEL_EXT_INLINE T horner(T, T constant) {
  return constant;
}
template <typename T, typename... Rest>
GUMBEL_EXT_INLINE T horner(T x, T high, T next, Rest... rest) {
  return horner(x, fused_multiply_add(high, x, next), rest...);
}

// (log(1 + f) - f) / f^2 for |f| <= 1/3. Times f^2 it is within 2^-27 (float), 2^-61 (double).
// (x: a float, or what another horner makes something of.)
template <typename X>
GUMBEL_EXT_INLINE constexpr auto log_polynomial_of(X x) {
  return horner(x, -0.135311271f, 0.1421005f, -0.120142585f, 0.139542767f, -0.1669595f, 0.200140797f, -0.24999251f,
                0.33333137f, -0.500000058f);
}
GUMBEL_EXT_INLINE float log_polynomial(float f) {
  return log_polynomial_of(f);
}
GUMBEL_EXT_INLINE double log_polynomial(double f) {
  return horner(f, -0.087808525632828650961, 0.086888048633854426473, -0.035694487402396050061, 0.040668154300173290518,
                -0.058171787790743349911, 0.060784001822100399252, -0.062203780370098490378, 0.066470174799310150906,
                -0.071450423883538901036, 0.076935689830905811345, -0.083332269295813831076, 0.090908569189013824531,
                -0.10000003371545522044, 0.1111111246716778427, -0.12499999933386004483, 0.1428571426492370436,
                -0.16666666667420635497, 0.20000000000164852448, -0.24999999999995867984, 0.33333333333332843719,
                -0.50000000000000007271);
}

// (2^r - 1) / r for |r| <= 1/2; 1 + r times it is within 2^-28 (float), 2^-57 (double) of 2^r.
template <typename X>
GUMBEL_EXT_INLINE constexpr auto exp2_polynomial_of(X x) {
  return horner(x, 0.000153533618f, 0.00133988744f, 0.00961843736f, 0.0555033247f, 0.240226479f, 0.693147203f);
}
GUMBEL_EXT_INLINE float exp2_polynomial(float r) {
  return exp2_polynomial_of(r);
}
GUMBEL_EXT_INLINE double exp2_polynomial(double r) {
  return horner(r, 4.4347689286262758828e-10, 7.0737831844583162688e-9, 1.017819958644790862e-7,
                1.3215435282680663139e-6, 1.5252733493095939758e-5, 1.5403530457111361421e-4, 1.3333558146774648946e-3,
                9.6181291075941206394e-3, 5.5504108664820083129e-2, 0.24022650695910131259, 0.69314718055994532581);
}

// x = 2^n * (1 + f), |f| <= 1/3, where n * log(2) = exponent * kLn2PerExponent.
template <typename T>
struct LogArgument {
  T exponent;
  T f;
};

// n << kMantissaBits as a number, in the unit that converts fastest: 2^-23 for float, 1 for double
// (few processors convert 64-bit integers).
GUMBEL_EXT_INLINE float exponent_value(std::uint32_t shifted) {
  return static_cast<float>(static_cast<std::int32_t>(shifted));
}
GUMBEL_EXT_INLINE double exponent_value(std::uint64_t shifted) {
  constexpr std::uint64_t kBias = 1024, kTwoTo52 = 0x4330000000000000u;  // the bits of 2^52
  return bit_cast<double>(((shifted + (kBias << 52)) >> 52) | kTwoTo52) - (0x1p52 + 1024.0);
}

// Requires: x positive, finite and normal.
template <typename T>
GUMBEL_EXT_INLINE LogArgument<T> reduce_log_argument(T x) {
  using Traits = FloatTraits<T>;
  const auto bits = bit_cast<typename Traits::Bits>(x);
  const auto exponent = (bits - Traits::kTwoThirds) & Traits::kExponentMask;
  return {exponent_value(exponent), bit_cast<T>(bits - exponent) - T(1)};
}

template <typename T>
GUMBEL_EXT_INLINE T log_reduced(LogArgument<T> x) {
  const T log1p_f = fused_multiply_add(x.f * x.f, log_polynomial(x.f), x.f);
  return fused_multiply_add(x.exponent, FloatTraits<T>::kLn2PerExponent, log1p_f);
}

// log(x), absolute error about half an ulp of the result or of 1/4. Requires: x positive, finite, normal.
template <typename T>
GUMBEL_EXT_INLINE T log_positive(T x) {
  return log_reduced(reduce_log_argument(x));
}

// A factor kept to twice the working precision.
template <typename T>
struct TwoPart {
  T high;
  T low;
};

// log2(e), in two parts.
constexpr double kLog2EHigh = 0x1.71547652b82fep+0, kLog2ELow = 0x1.777d0ffda0d24p-56;

// 2^(n + r + kExp2Shift), given n + kShiftedRounder, for a whole number n in [kExp2Lowest, 0] and |r| a little above
// 1/2 at most. The shift keeps results that are about to be divided by a sum above the subnormal range; relative error
// about 2 ulp.
template <typename T>
GUMBEL_EXT_INLINE T exp2_shifted(T rounded, T r) {
  using Traits = FloatTraits<T>;
  using Bits = typename Traits::Bits;
  const T power = fused_multiply_add(r, exp2_polynomial(r), T(1));
  const Bits exponent = bit_cast<Bits>(rounded) << Traits::kMantissaBits;
  return bit_cast<T>(bit_cast<Bits>(power) + exponent);
}

// e^x, within about an ulp, and half the smallest number; 0 below the logarithm of that. Requires: x <= 0.
GUMBEL_EXT_INLINE double exponential(double x) {
  constexpr double kRounder = kShiftedRounder<double>, kLowest = -745.2;
  if (!(x > kLowest)) return x != x ? x : 0;
  const double rounded = fused_multiply_add(x, kLog2EHigh, 0.0) + kRounder;
  const double fraction = fused_multiply_add(x, kLog2EHigh, kRounder - rounded);
  return exp2_shifted(rounded, fused_multiply_add(x, kLog2ELow, fraction)) * FloatTraits<double>::kExp2Unshift;
}

}  // namespace gumbel_ext
