// What numbers, or vectors, are folded with.
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

}  // namespace gumbel_ext
