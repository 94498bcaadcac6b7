// Rows in and out of the working precision. Rounding is to nearest, ties to even.
#pragma once

#include "job.h"
#include "vec.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
using Compute = typename ComputeType<T>::Type;

GUMBEL_EXT_INLINE float widen(float x) {
  return x;
}
GUMBEL_EXT_INLINE double widen(double x) {
  return x;
}
GUMBEL_EXT_INLINE float widen(BFloat16 x) {
  return bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
GUMBEL_EXT_INLINE float widen(Float16 x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16;
  const std::uint32_t shifted = (x.bits & 0x7fffu) << 13;
  const float finite = bit_cast<float>(shifted) * 0x1p112f;  // moves the exponent's bias; exact
  const std::uint32_t magnitude = shifted >= 0x0f800000u ? shifted | 0x7f800000u : bit_cast<std::uint32_t>(finite);
  return bit_cast<float>(magnitude | sign);
}

GUMBEL_EXT_INLINE void narrow(float x, float& out) {
  out = x;
}
GUMBEL_EXT_INLINE void narrow(double x, double& out) {
  out = x;
}
GUMBEL_EXT_INLINE void narrow(float x, BFloat16& out) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  out.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
GUMBEL_EXT_INLINE void narrow(float x, Float16& out) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  // Subnormal halves: adding 1/2 leaves the rounded count of 2^-24 steps in the low bits.
  const std::uint32_t subnormal = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const std::uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;  // NaN, or too large
  out.bits = static_cast<std::uint16_t>(sign | (magnitude >= 0x477ff000u ? large : finite));
}

template <typename T>
GUMBEL_EXT_INLINE void widen_row(Compute<T>* __restrict out, const T* __restrict in, std::int64_t n) {
  std::int64_t k = 0;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Float16>)
    for (; k + 16 <= n; k += 16)
      _mm512_storeu_ps(out + k, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(in + k))));
#elif defined(__F16C__)
  if constexpr (std::is_same_v<T, Float16>)
    for (; k + 8 <= n; k += 8) _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(in + k))));
#endif
#pragma omp simd
  for (std::int64_t i = k; i < n; ++i) out[i] = widen(in[i]);
}

template <typename T>
GUMBEL_EXT_INLINE void narrow_row(T* __restrict out, const Compute<T>* __restrict in, std::int64_t n) {
  std::int64_t k = 0;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Float16>)
    for (; k + 16 <= n; k += 16)
      _mm256_storeu_si256((__m256i*)(out + k), _mm512_cvtps_ph(_mm512_loadu_ps(in + k), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  if constexpr (std::is_same_v<T, Float16>)
    for (; k + 8 <= n; k += 8)
      _mm_storeu_si128((__m128i*)(out + k), _mm256_cvtps_ph(_mm256_loadu_ps(in + k), _MM_FROUND_TO_NEAREST_INT));
#endif
#pragma omp simd
  for (std::int64_t i = k; i < n; ++i) narrow(in[i], out[i]);
}

// out[k] = in[k] * factor.
template <typename C>
GUMBEL_EXT_INLINE void scale_row(C* out, const C* in, C factor, std::int64_t n) {
  const Vec<C> factors = broadcast(factor);
  std::int64_t k = 0;
  for (; k + kLanes<C> <= n; k += kLanes<C>) store(out + k, load(in + k) * factors);
  if (k < n) store_first(out + k, load_first(in + k, n - k) * factors, n - k);
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
