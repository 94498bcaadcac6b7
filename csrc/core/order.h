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

// Scores as integers in the same order: NaN is the largest, and -0 is 0.
constexpr std::int64_t kLargestKey = 0x7fffffffffffffff;
GUMBEL_EXT_INLINE std::int64_t order_key(double score) {
  const std::int64_t bits = bit_cast<std::int64_t>(score + 0.0);
  return score != score ? kLargestKey : bits < 0 ? bits ^ kLargestKey : bits;
}
GUMBEL_EXT_INLINE double score_of_key(std::int64_t key) {
  return bit_cast<double>(key < 0 ? key ^ kLargestKey : key);
}
// The same of numbers that are not NaN: of that, some key.
GUMBEL_EXT_INLINE std::int32_t order_key(float score) {
  const std::int32_t bits = bit_cast<std::int32_t>(score + 0.0f);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
GUMBEL_EXT_INLINE float score_of_key(std::int32_t key) {
  return bit_cast<float>(key < 0 ? key ^ 0x7fffffff : key);
}

}  // namespace gumbel_ext
