// The order of scores, as torch.argmax has it: NaN is the largest, and of equals the first wins.
#pragma once

#include "portability.h"

namespace gumbel_ext {

// The best class so far.
struct Best {
  double score;
  std::int64_t index;
};

// A row with NaN, with +infinity or with nothing but -infinity has no softmax.
GUMBEL_EXT_INLINE bool is_undefined(double max) {
  return !(max - max == 0);
}

// Whether a score that comes later in the row beats the best so far.
template <typename Score, typename BestScore>
GUMBEL_EXT_INLINE bool beats(Score score, BestScore best) {
  return best == best && !(score <= best);
}

// The same for classes in any order: whether class a of a row wins over class b.
template <typename C>
GUMBEL_EXT_INLINE bool wins(C score_a, std::int64_t a, C score_b, std::int64_t b) {
  const bool a_is_nan = score_a != score_a, b_is_nan = score_b != score_b;
  if ((a_is_nan && b_is_nan) || score_a == score_b) return a < b;
  return a_is_nan || (!b_is_nan && score_a > score_b);
}

}  // namespace gumbel_ext
