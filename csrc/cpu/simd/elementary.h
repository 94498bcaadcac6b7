// core/gumbel.h's noise, core/softmax.h's exponentials and core/search.h's test of many numbers at once: the same
// operations in the same order.
#pragma once

#include "../../core/search.h"
#include "../../core/softmax.h"
#include "vec.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// out[i] = the noise of words[i]. Returns the smallest word, or a smaller one. Requires: count a multiple of 4, and
// room up to a multiple of 16, where words may be anything.
template <typename C>
GUMBEL_EXT_INLINE std::uint32_t noise_of_words(C* __restrict out, const std::uint32_t* __restrict words,
                                               std::int64_t count) {
  std::uint32_t smallest = ~0u;
#pragma omp simd reduction(min : smallest)
  for (std::int64_t i = 0; i < count; ++i) {
    smallest = words[i] < smallest ? words[i] : smallest;
    out[i] = gumbel_from_word<C>(words[i]);
  }
  return smallest;
}

// The scores' exponentials; `out` may be `scores`. Requires: whole vectors of scores, none of them NaN.
template <typename C>
GUMBEL_EXT_INLINE void exponentials_of(C* out, const C* scores, std::int64_t n, const Exponential<C>& exponential) {
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) out[k] = exponential(scores[k]);
}

#if !defined(GUMBEL_EXT_NEON)
// Which of a vector's classes can win: those whose word is at most the limit of their logit.
GUMBEL_EXT_INLINE VecMask<float> may_win(const Vec<float>& logits, const std::uint32_t* words, float best_offset) {
  float some[kLanes<float>];
  store(some, logits);
  std::int32_t hit[kLanes<float>];
#pragma omp simd
  for (int k = 0; k < kLanes<float>; ++k)
    hit[k] = log2_of_word(words[k]) > WordLimit::limit(some[k], best_offset) ? 0 : -1;
  VecMask<float> mask;
  __builtin_memcpy(&mask, hit, sizeof mask);
  return mask;
}
#else
// By name: a fused multiply-add overwrites its summand, so compilers move constants into place, one by one, and they
// make eight instructions of a maximum of numbers that might be NaN.

// Constants in four lanes each; they never change.
template <int kCount>
struct Constants {
  alignas(16) float lanes[kCount][4];

  // Fresh copies of two of them, by one instruction, no earlier than `before` is known.
  template <int kFirst>
  GUMBEL_EXT_INLINE float32x4x2_t two(float32x4_t before) const {
    float32x4x2_t copies;
    __asm__ volatile("ldp %q0, %q1, [%2, %3]"
                     : "=w"(copies.val[0]), "=w"(copies.val[1])
                     : "r"(lanes), "i"(kFirst * sizeof *lanes), "w"(before));
    return copies;
  }
};

// Coefficients of a polynomial of core/elementary.h.
struct Collect {};
template <typename... C>
constexpr Constants<sizeof...(C)> horner(Collect, C... coefficients) {
  return {{{coefficients, coefficients, coefficients, coefficients}...}};
}
template <int kCount>
constexpr Constants<kCount + 1> then_one(Constants<kCount> first) {
  Constants<kCount + 1> all = {};
  for (int lane = 0; lane < 4; ++lane) {
    for (int i = 0; i < kCount; ++i) all.lanes[i][lane] = first.lanes[i][lane];
    all.lanes[kCount][lane] = 1;
  }
  return all;
}
constexpr auto kLogCoefficients = log_polynomial_of(Collect());
// Of 1 + r exp2_polynomial(r).
constexpr auto kPowerCoefficients = then_one(exp2_polynomial_of(Collect()));

// A polynomial of an even degree, from its coefficient kNext on, at x, or at -x; `sum` is what there is of it.
template <int kNext = 1, int kCount>
GUMBEL_EXT_INLINE float32x4_t horner(float32x4_t x, const Constants<kCount>& coefficients, float32x4_t sum) {
  if constexpr (kNext == kCount) {
    return sum;
  } else {
    const float32x4x2_t next = coefficients.template two<kNext>(sum);
    return horner<kNext + 2>(x, coefficients, vfmaq_f32(next.val[1], vfmaq_f32(next.val[0], sum, x), x));
  }
}
template <int kNext = 1, int kCount>
GUMBEL_EXT_INLINE float32x4_t horner_of_negative(float32x4_t x, const Constants<kCount>& coefficients,
                                                 float32x4_t sum) {
  if constexpr (kNext == kCount) {
    return sum;
  } else {
    const float32x4x2_t next = coefficients.template two<kNext>(sum);
    return horner_of_negative<kNext + 2>(x, coefficients, vfmsq_f32(next.val[1], vfmsq_f32(next.val[0], sum, x), x));
  }
}

// log_reduced; and its negative, of -f, but for the sign of zero.
GUMBEL_EXT_INLINE float32x4_t log_reduced(float32x4_t exponent, float32x4_t f) {
  const float32x4_t polynomial = horner(f, kLogCoefficients, vdupq_n_f32(kLogCoefficients.lanes[0][0]));
  return vfmaq_f32(vfmaq_f32(f, vmulq_f32(f, f), polynomial), exponent,
                   vdupq_n_f32(FloatTraits<float>::kLn2PerExponent));
}
GUMBEL_EXT_INLINE float32x4_t minus_log_reduced(float32x4_t exponent, float32x4_t minus_f) {
  const float32x4_t first = vdupq_n_f32(kLogCoefficients.lanes[0][0]);
  const float32x4_t polynomial = horner_of_negative(minus_f, kLogCoefficients, first);
  return vfmsq_f32(vfmsq_f32(minus_f, vmulq_f32(minus_f, minus_f), polynomial), exponent,
                   vdupq_n_f32(FloatTraits<float>::kLn2PerExponent));
}

// reduce_log_argument.
struct LogArguments {
  float32x4_t exponent, mantissa;  // 1 + f
};
GUMBEL_EXT_INLINE LogArguments reduce_log_arguments(float32x4_t x) {
  using Traits = FloatTraits<float>;
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t exponent =
      vandq_u32(vsubq_u32(bits, vdupq_n_u32(Traits::kTwoThirds)), vdupq_n_u32(Traits::kExponentMask));
  return {vcvtq_f32_s32(vreinterpretq_s32_u32(exponent)), vreinterpretq_f32_u32(vsubq_u32(bits, exponent))};
}

// gumbel_from_word.
GUMBEL_EXT_INLINE float32x4_t noise_of(uint32x4_t words) {
  const float32x4_t one = vdupq_n_f32(1);
  const uint32x4_t small = vcltq_u32(words, vdupq_n_u32(0x55555555u));
  const uint32x4_t negated = vreinterpretq_u32_s32(vnegq_s32(vreinterpretq_s32_u32(words)));
  const uint32x4_t steps = vbslq_u32(small, words, negated);
  const float32x4_t half = vbslq_f32(small, vdupq_n_f32(0x1p-33f), vdupq_n_f32(-0x1p-33f));
  const float32x4_t v = vaddq_f32(vcvtq_n_f32_u32(steps, 32), half);
  const LogArguments far = reduce_log_arguments(v);
  const float32x4_t exponent = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(far.exponent), small));
  const float32x4_t minus_f = vbslq_f32(small, v, vsubq_f32(one, far.mantissa));
  const LogArguments again = reduce_log_arguments(minus_log_reduced(exponent, minus_f));  // (never zero)
  return vnegq_f32(log_reduced(again.exponent, vsubq_f32(again.mantissa, one)));
}

GUMBEL_EXT_INLINE std::uint32_t noise_of_words(float* __restrict out, const std::uint32_t* __restrict words,
                                               std::int64_t count) {
  uint32x4_t smallest = vdupq_n_u32(~0u);
  for (std::int64_t i = 0; i < count; i += 16)
#pragma GCC unroll 4
    for (int part = 0; part < 16; part += 4) {
      const uint32x4_t some = vld1q_u32(words + i + part);
      smallest = vminq_u32(smallest, some);
      vst1q_f32(out + i + part, noise_of(some));
    }
  return vminvq_u32(smallest);
}

GUMBEL_EXT_INLINE void exponentials_of(float* out, const float* scores, std::int64_t n, const Exponential<float>& e) {
  const float32x4_t lowest = vdupq_n_f32(e.lowest), high = vdupq_n_f32(e.scale.high), low = vdupq_n_f32(e.scale.low);
  const float32x4_t rounder = vdupq_n_f32(e.rounder), rest = vdupq_n_f32(e.rest),
                    minus_product = vdupq_n_f32(-e.product);
  const auto exponential = [=](float32x4_t score) __attribute__((always_inline)) {
    const float32x4_t some = vmaxq_f32(score, lowest);
    const float32x4_t rounded = vaddq_f32(vfmaq_f32(minus_product, some, high), vdupq_n_f32(kShiftedRounder<float>));
    const float32x4_t fraction = vfmaq_f32(vsubq_f32(rounder, rounded), some, high);
    const float32x4_t r = vsubq_f32(vfmaq_f32(fraction, some, low), rest);
    const float32x4_t sum = horner(r, kPowerCoefficients, vdupq_n_f32(kPowerCoefficients.lanes[0][0]));
    const uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(rounded), FloatTraits<float>::kMantissaBits);
    const uint32x4_t power = vaddq_u32(vreinterpretq_u32_f32(sum), exponent);
    return vbicq_u32(power, vceqq_f32(score, vdupq_n_f32(-__builtin_inff())));
  };
  for (std::int64_t k = 0; k < n; k += 16)
#pragma GCC unroll 2
    for (int i = 0; i < 16; i += 8) {
      const float32x4x2_t pair = vld1q_f32_x2(scores + k + i);
      const uint32x4_t first = exponential(pair.val[0]), second = exponential(pair.val[1]);
      vst1q_f32(out + k + i, vreinterpretq_f32_u32(first));
      vst1q_f32(out + k + i + 4, vreinterpretq_f32_u32(second));
    }
}

GUMBEL_EXT_INLINE VecMask<float> may_win(const Vec<float>& logits, const std::uint32_t* words, float best_offset) {
  VecMask<float> hits;
  for (int i = 0; i < kLanes<float>; i += 4) {
    const auto logit = (float32x4_t)part_of(logits, i * sizeof(float));
    const float32x4_t limit =
        vmaxq_f32(vdupq_n_f32(WordLimit::kTail), vfmaq_n_f32(vdupq_n_f32(best_offset), logit, 1 / WordLimit::kSlope));
    const int32x4_t half = vreinterpretq_s32_u32(vshrq_n_u32(vld1q_u32(words + i), 1));
    const float32x4_t log2 = vcvtq_f32_s32(vreinterpretq_s32_f32(vcvtq_f32_s32(half)));
    const uint32x4_t hit = vmvnq_u32(vcgtq_f32(log2, limit));
    __builtin_memcpy(reinterpret_cast<char*>(&hits) + i * sizeof(float), &hit, sizeof hit);
  }
  return hits;
}
#endif

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
