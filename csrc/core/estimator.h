// Estimators of the gradient through z = one_hot(i), i = argmax(x / T + g), as vector-Jacobian products. With
// J(p) dy = p (dy - <p, dy>), and e_i the i-th unit vector:
//
//   kGumbel   dx = J(p) dy / (tau T), p = softmax((x / T + g) / tau)                          Jang et al. 2017
//   kSoftmax  dx = J(p) dy / tau, p = softmax(x / tau)                                        Bengio et al. 2013
//   kReinmax  dx = (2 J((e_i + q) / 2) - J(r) / 2) dy / T, q = softmax(x / (T tau)), r = softmax(x / T)
//                                                                                             Liu et al. 2023
//   kRao      the mean of kGumbel's over K noises under which i wins                          Paulus et al. 2021
//
// Every one is a sum of sweeps over the row, each of one softmax p:
//   dx_k = (sum_m weight_m p_mk (dy_k - centre_m)  (+ rest, where k = i)) / divisor
// since 2 J((e_i + q) / 2) dy = q (dy - (dy_i + s) / 2) + e_i (dy_i - s) / 2, with s = <q, dy>; where tau is 1, q is r
// and the whole is q (dy - dy_i) / 2 + e_i (dy_i - s) / 2.
#pragma once

#include "gradient.h"
#include "softmax.h"

namespace gumbel_ext {

// The softmax of one sweep.
struct Sweep {
  double weight;
  double tau;           // of the softmax
  bool noisy;           // of logits / temperature + noise, else of the logits
  bool is_conditional;  // the noise is such that the sample's class wins
  std::uint32_t draw;   // of the noise
};

// What an estimator does for a row of temperatures T and tau.
struct RowEstimate {
  Estimator estimator;
  double temperature, tau;
  std::int64_t num_noises;

  // Whether the temperatures have gradients other than 0.
  GUMBEL_EXT_INLINE bool depends_on_tau() const {
    return estimator != Estimator::kReinmax;
  }
  GUMBEL_EXT_INLINE bool depends_on_temperature() const {
    return estimator != Estimator::kSoftmax;
  }
  GUMBEL_EXT_INLINE std::int64_t sweeps() const {
    if (estimator == Estimator::kRao) return num_noises;
    return estimator == Estimator::kReinmax && tau != 1 ? 2 : 1;
  }
  GUMBEL_EXT_INLINE Sweep sweep(std::int64_t m) const {
    switch (estimator) {
      case Estimator::kGumbel:
        return {1, tau, true, false, 0};
      case Estimator::kSoftmax:
        return {1, tau, false, false, 0};
      case Estimator::kReinmax:
        if (tau == 1) return {0.5, temperature, false, false, 0};
        return m == 0 ? Sweep{1, bounded_product(), false, false, 0} : Sweep{-0.5, temperature, false, false, 0};
      default:
        return {1 / static_cast<double>(num_noises), tau, true, m > 0, static_cast<std::uint32_t>(m)};
    }
  }
  // The centre of sweep m, given s = <p, dy> and dy_i, all scaled alike.
  GUMBEL_EXT_INLINE double centre(std::int64_t m, double s, double dy_i) const {
    if (estimator != Estimator::kReinmax || m > 0) return s;
    return tau == 1 ? dy_i : dy_i / 2 + s / 2;
  }
  // What sweep m adds where k = i.
  GUMBEL_EXT_INLINE double rest(std::int64_t m, double s, double dy_i) const {
    return estimator == Estimator::kReinmax && m == 0 ? dy_i / 2 - s / 2 : 0;
  }
  // What the sum of the sweeps is divided by.
  GUMBEL_EXT_INLINE double divisor() const {
    if (estimator == Estimator::kSoftmax) return tau;
    return estimator == Estimator::kReinmax ? temperature : bounded_product();
  }

 private:
  GUMBEL_EXT_INLINE double bounded_product() const {
    constexpr double kLargest = FloatTraits<double>::kLargest, kSmallest = 0x1p-1074;
    const double product = temperature * tau;
    return product > kLargest ? kLargest : product < kSmallest ? kSmallest : product;
  }
};

// log(1 + e^-d) within about an ulp of 1. Requires: d >= 0, which may be infinite.
template <typename T>
GUMBEL_EXT_INLINE T log1p_exp_of_negative(T d) {
  constexpr T kFar = sizeof(T) == 4 ? 80 : 700, kLog2E = static_cast<T>(kLog2EHigh);
  const T some = d < kFar ? d : kFar;
  const T rounded = fused_multiply_add(some, -kLog2E, kShiftedRounder<T>);
  const T fraction = fused_multiply_add(some, -kLog2E, kShiftedRounder<T> - rounded);
  return log_positive(T(1) + exp2_shifted(rounded, fraction) * FloatTraits<T>::kExp2Unshift);
}

// A class's score given that the winner's is `best`: -log(e^-score + e^-best), of a score that was drawn without regard
// to the winner. Source: Maddison et al., "A* sampling", NeurIPS 2014; Paulus et al. 2021, section 3.
template <typename T>
GUMBEL_EXT_INLINE T conditional_score(T score, T best) {
  const T lower = score < best ? score : best, distance = score < best ? best - score : score - best;
  return lower - log1p_exp_of_negative(distance);
}

}  // namespace gumbel_ext
