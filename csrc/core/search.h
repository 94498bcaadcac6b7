// The search for argmax(logits / temperature + noise), in which most classes need no logarithm.
#pragma once

#include "gumbel.h"
#include "order.h"

namespace gumbel_ext {

// A cheap lower bound of a word's log2: a float's exponent and mantissa read as one fixed-point number are
// 2^23 (127 + log2(word / 2)) or a little less. (Half the word, so that it converts as a signed integer.)
GUMBEL_EXT_INLINE float log2_of_word(std::uint32_t word) {
  const float half = static_cast<float>(static_cast<std::int32_t>(word >> 1));
  return static_cast<float>(bit_cast<std::int32_t>(half));
}

// A class can reach the score `best` only if its word is small: g <= -log(v) <= kBound - kSlope *
// log2_of_word(word). Words below kTailWords may always. Limits are on the safe side for all scores: where one leaves
// the range of float, more classes are tried than need be.
struct WordLimit {
  static constexpr float kSlope = 0.693147f * 0x1p-23f;
  static constexpr float kBound = 0.693148f * 158.f;
  static constexpr float kTail = 0x1p23f * (127 + 15);  // log2_of_word(kTailWords)
  static_assert(kTailWords == 1u << 16);

  // log2_of_word has to be at most this (or the logit NaN, which this then is).
  GUMBEL_EXT_INLINE static float limit(float logit, float best_offset) {
    const float word_limit = fused_multiply_add(logit, 1 / kSlope, best_offset);
    return kTail > word_limit ? kTail : word_limit;
  }
  // The slack covers the rounding here and in the scores: a class that could win within it reaches best.
  GUMBEL_EXT_INLINE static float offset(float best) {
    const float slack = 1e-3f + 0x1p-20f * (best < 0 ? -best : best);
    const float offset = (kBound + slack - best) / kSlope;
    constexpr float kLargest = FloatTraits<float>::kLargest;
    return offset < -kLargest ? -kLargest : offset;  // -infinity would rule every class out
  }
};

// Logits, less a shift, over their temperature; as they are where that is 0. In the working precision, but by way of
// double where that does not hold the temperature as a normal number.
template <typename C>
struct Quotient {
  double exact_temperature;
  C temperature, shift;
  bool is_extreme;

  GUMBEL_EXT_INLINE Quotient(double t, double shift)
      : exact_temperature(t), temperature(static_cast<C>(t)), shift(static_cast<C>(shift)) {
    const bool is_normal = temperature >= FloatTraits<C>::kSmallestNormal && temperature <= FloatTraits<C>::kLargest;
    is_extreme = sizeof(C) == 4 && !is_normal;
  }
  GUMBEL_EXT_INLINE bool is_noisy() const {
    return exact_temperature != 0;
  }
  GUMBEL_EXT_INLINE bool changes_nothing() const {
    return !is_noisy() || (temperature == C(1) && shift == C(0));
  }
  GUMBEL_EXT_INLINE C operator()(C logit) const {
    if (is_extreme) return static_cast<C>(static_cast<double>(logit - shift) / exact_temperature);
    return (logit - shift) / temperature;
  }
};

}  // namespace gumbel_ext
