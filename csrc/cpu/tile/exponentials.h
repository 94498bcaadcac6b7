// The exponentials of a row's scores, with or without their exponents.
#pragma once

#include "../simd/elementary.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// The function of scores[0..n) that gives their exponentials relative to `max`: of the scores as they are, or, where
// those have to become half-differences first, of `out`, to which `scores` then points. `out` may be `scores`.
template <typename C>
GUMBEL_EXT_INLINE Exponential<C> exponential_of_row(C* out, const C*& scores, std::int64_t n,
                                                    const ExponentScale<C>& scale, C max) {
  const bool is_near = !scale.is_extreme && Exponential<C>::is_near(scale.scale, max);
  if (!is_near) {
    const ExponentScale<C> local = scale;
#pragma omp simd
    for (std::int64_t k = 0; k < n; ++k) out[k] = local.half_difference(scores[k], max);
    scores = out;
  }
  return Exponential<C>::of_row(scale.scale, scale.reach, max, is_near);
}

// The scores' exponentials, relative to their maximum, over whole vectors; `out` may be `scores`.
template <typename C>
GUMBEL_EXT_INLINE void exponentiate(C* out, const C* scores, std::int64_t n, const ExponentScale<C>& scale, C max) {
  const auto exponential = exponential_of_row(out, scores, n, scale, max);
  exponentials_of(out, scores, n, exponential);
}

// The same, and their exponents, base 2, which take the scores' place.
template <typename C>
GUMBEL_EXT_INLINE void exponentiate_with_log2(C* __restrict powers, C* __restrict scores, std::int64_t n,
                                              const ExponentScale<C>& scale, C max) {
  const C* from = scores;
  const Exponential<C> exponential = exponential_of_row(scores, from, n, scale, max);
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) {
    const auto [power, log2] = exponential.with_log2(scores[k]);
    powers[k] = power;
    scores[k] = log2;
  }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
