// Reductions: how several numbers, or vectors, are combined into one.
#pragma once

#include "portability.h"

namespace gumbel_ext {

struct Plus {
  template <typename V>
  GUMBEL_EXT_INLINE V operator()(V a, V b) const {
    return a + b;
  }
};

// The larger of two; where the first is NaN, the second.
struct Larger {
  template <typename V>
  GUMBEL_EXT_INLINE V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

// A sum whose error does not grow with the number of terms (Neumaier 1974).
struct CompensatedSum {
  double sum = 0, lost = 0;

  GUMBEL_EXT_INLINE void add(double term) {
    const double next = sum + term;
    const bool sum_is_larger = (sum < 0 ? -sum : sum) >= (term < 0 ? -term : term);
    lost += sum_is_larger ? (sum - next) + term : (term - next) + sum;
    sum = next;
  }
  GUMBEL_EXT_INLINE double value() const {
    return lost - lost == 0 ? sum + lost : sum;  // of an infinite sum, nothing is known to be lost
  }
};

}  // namespace gumbel_ext
