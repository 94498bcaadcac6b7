// Softmax's vector-Jacobian product,
//   dx_k = p_k (dy_k - <p, dy>) / tau,    dtau = -(1 / tau) sum_k p_k (dy_k - <p, dy>) log p_k,
// finite wherever its true value is: dy is halved first (exactly, but for subnormal numbers), so that <p, dy> and the
// differences do not overflow, and the division by tau comes last.
#pragma once

#include "elementary.h"
#include "job.h"

namespace gumbel_ext {

constexpr float kGradientScale = 0.5f;

// (dy - <p, dy>) * kGradientScale, of numbers or vectors.
template <typename V>
GUMBEL_EXT_INLINE V scaled_difference(V dy, V scaled_dot) {
  return dy * kGradientScale - scaled_dot;
}
// <p, dy> * kGradientScale in C. A mean is no larger than the largest number, also where p, rounded, adds up to more
// than 1.
template <typename C>
GUMBEL_EXT_INLINE C bounded_dot(double scaled_dot) {
  constexpr double kLargest = static_cast<double>(FloatTraits<C>::kLargest) * kGradientScale;
  const double size = scaled_dot < 0 ? -scaled_dot : scaled_dot;
  const bool too_large = size > kLargest && size < __builtin_inf();
  return static_cast<C>(!too_large ? scaled_dot : scaled_dot < 0 ? -kLargest : kLargest);
}
// What a product of p with that has to be multiplied by.
GUMBEL_EXT_INLINE double gradient_factor(double tau) {
  return 1 / kGradientScale / tau;
}

// dx, of numbers or vectors, given gradient_factor(tau); zero where p is, also where dy is not finite. Requires: tau
// not extreme.
struct GradientOfLogit {
  template <typename V>
  GUMBEL_EXT_INLINE V operator()(V p, V dy, V scaled_dot, V factor) const {
    const V product = p * scaled_difference(dy, scaled_dot) * factor;
    return p == V{} ? V{} : product;
  }
};

// What a class adds to dtau, in units of -1 / (tau * scale). It is finite; so is the sum of a row, where `scale` is
// kTauGradientScale, which costs subnormal terms their last digits: the CPU uses it where the usual sum is not finite,
// CUDA always, but for a larger scale in float.
constexpr double kTauGradientScale = 0x1p-7;
template <typename C>
GUMBEL_EXT_INLINE C tau_gradient_term(C p, C dy, C scaled_dot, C scale) {
  // The logarithm of a subnormal number by way of a normal one; of zero, any finite number.
  constexpr C kNormal = sizeof(C) == 4 ? C(0x1p24) : C(0x1p60),
              kLogNormal = (sizeof(C) == 4 ? 24 : 60) * C(0x1.62e42fefa39efp-1);
  const bool is_small = p < FloatTraits<C>::kSmallestNormal;
  const C log_p = log_positive(is_small ? p * kNormal : p) - (is_small ? kLogNormal : C(0));
  return p * scaled_difference(dy, scaled_dot) * log_p * (scale * C(1 / kGradientScale));
}
// dtau, of a sum with the scale kTauGradientScale.
GUMBEL_EXT_INLINE double tau_gradient(double scaled_sum, double tau) {
  return -(scaled_sum / tau) / kTauGradientScale;
}

// Whether a product with gradient_factor(tau) may overflow, or lose what the result, as a normal number, has: then
// products are in double, and their order depends on their size.
template <typename C>
GUMBEL_EXT_INLINE bool is_extreme_for_gradient(double tau) {
  constexpr double kFar = sizeof(C) == 4 ? 0x1p16 : 0x1p40;
  return !(tau > 1 / kFar && tau < kFar);
}

// What a row's gradients need of tau.
template <typename C>
struct GradientTemperature {
  double tau;
  C factor;
  bool is_extreme;

  GUMBEL_EXT_INLINE explicit GradientTemperature(double tau)
      : tau(tau), factor(static_cast<C>(gradient_factor(tau))), is_extreme(is_extreme_for_gradient<C>(tau)) {
  }
};

// dx for any tau, in double.
template <typename C>
struct ExtremeGradient {
  double scaled_dot;
  double first, second;  // gradient_factor(tau), in two factors of about one size
  bool tau_is_small;

  GUMBEL_EXT_INLINE ExtremeGradient(double dot, double tau)
      : scaled_dot(bounded_dot<double>(dot)), tau_is_small(tau < 1) {
    first = 1 / square_root(tau);
    second = gradient_factor(tau * first);
  }
  GUMBEL_EXT_INLINE C operator()(C p, C dy) const {
    const double a = static_cast<double>(p), h = scaled_difference(static_cast<double>(dy), scaled_dot);
    if (a == 0) return C(0);
    // In an order in which no product overflows or underflows unless the result does.
    if (!tau_is_small) return static_cast<C>(a * h * first * second);
    if (h > -1 && h < 1) return static_cast<C>((a * first) * (h * second));
    return static_cast<C>(a * first * second * h);
  }
};

}  // namespace gumbel_ext
