// The search for argmax(logits / temperature + noise), in which most classes need no logarithm.
#pragma once

#include "softmax.h"

namespace gumbel_ext {

// What log2 a word has at most, as a number that grows with the word: a float's exponent and mantissa
// read as one fixed-point number, 2^23 (127 + log2(word / 2)) or a little less. (Half the word, so that
// it converts as a signed integer.)
GUMBEL_EXT_INLINE float log2_of_word(std::uint32_t word) {
  const float half = static_cast<float>(static_cast<std::int32_t>(word >> 1));
  return static_cast<float>(bit_cast<std::int32_t>(half));
}

// A class can reach the score `best` only if its word is small: g <= -log(v) <= kBound - kSlope *
// log2_of_word(word). Words below kTailWords may always.
struct WordLimit {
  static constexpr float kSlope = 0.693147f * 0x1p-23f;
  static constexpr float kBound = 0.693148f * 158.f;

  // log2_of_word has to be at most this (or the logit NaN, which this then is).
  GUMBEL_EXT_INLINE static float limit(float logit, float best_offset) {
    const float word_limit = fused_multiply_add(logit, 1 / kSlope, best_offset);
    constexpr float kTail = 0x1p23f * (127 + 15);
    return kTail > word_limit ? kTail : word_limit;
  }
  // The slack covers the rounding here and in the scores: a class that could win within it reaches best.
  GUMBEL_EXT_INLINE static float offset(float best) {
    const float slack = 1e-3f + 0x1p-20f * (best < 0 ? -best : best);
    return (kBound + slack - best) / kSlope;
  }
};

// A temperature in the working precision, which neither becomes zero nor infinite there.
template <typename C>
GUMBEL_EXT_INLINE C clamp_temperature(double temperature) {
  const C t = static_cast<C>(temperature);
  if (t == C(0) && temperature > 0) return sizeof(C) == 4 ? C(0x1p-149) : C(0x1p-1074);
  return t > FloatTraits<C>::kLargest ? FloatTraits<C>::kLargest : t;
}

}  // namespace gumbel_ext
