// Softmax's vector-Jacobian product,
//   dx_k = p_k (dy_k - <p, dy>) / tau,    dtau = -(1 / tau) sum_k p_k (dy_k - <p, dy>) log p_k,
// finite wherever its true value is. So <p, dy> and the differences are those of halves, which cannot overflow
// (halving is exact, but for subnormal numbers), and the temperature comes last.
#pragma once

#include "elementary.h"
#include "job.h"

namespace gumbel_ext {

// (dy - <p, dy>) / 2, of numbers or vectors.
template <typename V>
GUMBEL_EXT_INLINE V half_difference(V dy, V half_dot) {
  return dy * 0.5f - half_dot;
}

// dx, of numbers or vectors, given 2 / tau; zero where p is, also where dy is not finite. Requires: tau not extreme.
struct GradientOfLogit {
  template <typename V>
  GUMBEL_EXT_INLINE V operator()(V p, V dy, V half_dot, V twice_inverse_tau) const {
    const V product = p * half_difference(dy, half_dot) * twice_inverse_tau;
    return p == V{} ? V{} : product;
  }
};

// What a class adds to dtau, in units of -kTauGradientUnit / tau, small enough that the sum of a row cannot overflow.
constexpr double kTauGradientUnit = 0x1p7;
template <typename C>
GUMBEL_EXT_INLINE C tau_gradient_term(C p, C dy, C half_dot) {
  const C positive = p < FloatTraits<C>::kSmallestNormal ? C(1) : p;  // p log p goes to 0 with p
  return p * half_difference(dy, half_dot) * log_positive(positive) * C(2 / kTauGradientUnit);
}
GUMBEL_EXT_INLINE double tau_gradient(double sum_of_terms, double tau) {
  return -(sum_of_terms / tau) * kTauGradientUnit;
}

// Whether a product with 2 / tau may leave the range of C before the last multiplication.
template <typename C>
GUMBEL_EXT_INLINE bool is_extreme_for_gradient(double tau) {
  constexpr double kFar = sizeof(C) == 4 ? 0x1p60 : 0x1p500;
  return !(tau > 1 / kFar && tau < kFar);
}

// dx for any tau, in double.
template <typename C>
struct ExtremeGradient {
  double half_dot;
  double first, second;  // 2 / tau, in two factors, both above 1 or both below
  bool tau_is_small;

  GUMBEL_EXT_INLINE ExtremeGradient(double half_dot, double tau) : half_dot(half_dot), tau_is_small(tau < 1) {
    constexpr double kFactor = 0x1p530;
    first = tau_is_small ? kFactor : 1 / kFactor;
    second = 2 / (tau * first);
  }
  GUMBEL_EXT_INLINE C operator()(C p, C dy) const {
    const double a = static_cast<double>(p), h = half_difference(static_cast<double>(dy), half_dot);
    if (a == 0) return C(0);
    // In the order in which nothing overflows, or is lost below the smallest number, but with the result.
    if (!tau_is_small) return static_cast<C>(a * h * first * second);
    if (h > -1 && h < 1) return static_cast<C>((a * first) * (h * second));
    return static_cast<C>(a * first * second * h);
  }
};

}  // namespace gumbel_ext
