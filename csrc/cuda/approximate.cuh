// Scores and exponentials by the special-function unit, in float: for relaxed values. An index never depends on them:
// of classes whose approximate scores come near each other, the fixed sequence (core/gumbel.h) decides.
//
// Errors, with e = 2^-24, M = max(1, |x| + |g|) and the documented ones of the unit: 2 ulp from the rounded 2^a, and of
// log2(a) 2^-22 where 1/2 < a < 2 and 2^-22 |log2(a)| elsewhere (PTX ISA, "Floating Point Instructions", ex2 and lg2).
//   -log2(1 - v)     relative: 2 e / (-log(1 - v)) from the rounded survival (at most 2.9 e), and 4 e from v = 1/2 on,
//                    2.6 e below
//   a score          that, absolute; max(2.8, 4.1 |g - o|) e from the second logarithm; |x + g - o| e from its rounding
//   an exponential   those of its score over tau, |score - max| e / tau each from scale and product, 5 e from the unit
//   a relaxed value  the inverse of the sum of exp((score_j - score_k) / tau): those of two exponentials; 4 e from 16
//                    terms summed in float (more are in double); 2 e from the factor and the product
// tests/test_approximate.py computes what follows: a relaxed value is within e (16 + 24 M / tau) of its own. To first
// order: where that is not small, the value may be off by the exponential of it.
#pragma once

#include "../core/softmax.h"
#include "scores.cuh"

namespace gumbel_ext::cuda {

// Approximate scores are x + g - o, with the same o = -log(2 log(2)) for all classes.
// (With half of -log2(1 - v), the second logarithm errs least where the scores of rows of few classes lie.)
struct Approximate {
  // Whether a row's values may be approximate: where tau is so small that an error matters to more than the last bits
  // of a value, or scores are so large beside it, they are not.
  __device__ __forceinline__ static bool serves(double tau) {
    return tau >= 0x1p-10 && tau <= 0x1p60;
  }

  // How far below the largest approximate score the class with the largest score may come: more than twice their
  // distance from the rounded scores of the fixed sequence, with |g| <= 46.
  __device__ __forceinline__ static float margin(float max) {
    return 0x1p-13f + 0x1p-20f * (max < 0 ? -max : max);
  }

  // v of a word where that is below 1/2, else v - 1.
  __device__ __forceinline__ static float survival(std::uint32_t word) {
    return fused_multiply_add(static_cast<float>(static_cast<std::int32_t>(word)), 0x1p-32f, 0x1p-33f);
  }
  __device__ __forceinline__ static float tail_survival(std::uint32_t word, std::uint32_t continuation) {
    const float v = fused_multiply_add(static_cast<float>(word), 0x1p-32f, 0x1p-65f);
    return fused_multiply_add(static_cast<float>(continuation), 0x1p-64f, v);
  }
  __device__ __forceinline__ static float score(float logit, float survival) {
    // -log2(1 - v) / (2 v) for v <= 1/2, within 2^-25 of itself (tools/fit_polynomials.py)
    const float small = survival * horner(survival, 1.03953959f, -1.22326966f, 0.907216875f, -0.146822258f,
                                          0.194484473f, 0.175146845f, 0.240714111f, 0.360668604f, 0.721347537f);
    const float exponential = survival < 0 ? approximate_log2(-survival) * -0.5f : small;
    return fused_multiply_add(approximate_log2(exponential), -0.693147181f, logit);
  }

  // Logits become scores with the noise of `words`, those of the counters `quads`.
  template <int kCounters>
  __device__ __forceinline__ static void add_noise(float* scores, const PhiloxWords (&words)[kCounters],
                                                   const NoiseKey& key, const std::uint32_t (&quads)[kCounters]) {
    float v[kCounters][kPhiloxWords];
    std::uint32_t least_word = ~0u;
#pragma unroll
    for (int c = 0; c < kCounters; ++c)
#pragma unroll
      for (int i = 0; i < kPhiloxWords; ++i) {
        v[c][i] = survival(words[c].word[i]);
        least_word = words[c].word[i] < least_word ? words[c].word[i] : least_word;
      }
    if (least_word < kTailWords)
#pragma unroll
      for (int c = 0; c < kCounters; ++c) add_tails(v[c], words[c], key, quads[c]);
#pragma unroll
    for (int c = 0; c < kCounters; ++c)
#pragma unroll
      for (int i = 0; i < kPhiloxWords; ++i, ++scores) *scores = score(*scores, v[c][i]);
  }

  // exp((score - max) / tau) * 2^kExp2Shift, as core/softmax.h has it, given scale = log2(e) / tau and -max * scale.
  // The unit makes 0 of subnormal results, so the shift is added to what is small, exactly, and else multiplied.
  __device__ __forceinline__ static float exponential(float score, float scale, float offset) {
    constexpr float kShift = FloatTraits<float>::kExp2Shift;
    const float power = fused_multiply_add(score, scale, offset);
    const bool is_small = power < -kShift;
    const float result = approximate_exp2(is_small ? power + kShift : power);
    return is_small ? result : result * 0x1p64f;
  }

 private:
  __device__ __forceinline__ static void add_tails(float (&survivals)[kPhiloxWords], const PhiloxWords& words,
                                                   const NoiseKey& key, std::uint32_t quad) {
    if (smallest(words) >= kTailWords) return;
    const PhiloxWords more = key.tail_words(quad, /*draw=*/0);
#pragma unroll
    for (int i = 0; i < kPhiloxWords; ++i)
      if (words.word[i] < kTailWords) survivals[i] = tail_survival(words.word[i], more.word[i]);
  }
};

}  // namespace gumbel_ext::cuda
