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
    for (; k + 16 <= n; k += 16) _mm512_storeu_ps(out + k, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(in + k))));
#elif defined(__F16C__)
  if constexpr (std::is_same_v<T, Float16>)
    for (; k + 8 <= n; k += 8) _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(in + k))));
#endif
#pragma omp simd
  for (std::int64_t i = k; i < n; ++i) out[i] = widen(in[i]);
}

// out[k] = in[k] * factor, rounded to T once.
template <typename T>
GUMBEL_EXT_INLINE void narrow_row(T* __restrict out, const Compute<T>* __restrict in, Compute<T> factor, std::int64_t n) {
  std::int64_t k = 0;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Float16>)
    for (; k + 16 <= n; k += 16)
      _mm256_storeu_si256((__m256i*)(out + k),
                          _mm512_cvtps_ph(_mm512_mul_ps(_mm512_loadu_ps(in + k), _mm512_set1_ps(factor)), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  if constexpr (std::is_same_v<T, Float16>)
    for (; k + 8 <= n; k += 8)
      _mm_storeu_si128((__m128i*)(out + k),
                       _mm256_cvtps_ph(_mm256_mul_ps(_mm256_loadu_ps(in + k), _mm256_set1_ps(factor)), _MM_FROUND_TO_NEAREST_INT));
#endif
#pragma omp simd
  for (std::int64_t i = k; i < n; ++i) narrow(in[i] * factor, out[i]);
}

// Rows [first, first + rows) x classes [begin, begin + n) as rows of C: pointers into the tensor itself
// where it holds them so, else into `staged`.
template <typename T>
GUMBEL_EXT_INLINE void stage_rows(const Compute<T>** row_pointers, Compute<T>* staged, const Rows& in, std::int64_t first,
                                  std::int64_t rows, std::int64_t begin, std::int64_t n) {
  using C = Compute<T>;
  const std::int64_t stride = padded<C>(n);
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* row = static_cast<const T*>(in.data) + in.offset(first + r) + begin * in.class_stride;
    if (std::is_same_v<T, C> && in.class_stride == 1) {
      row_pointers[r] = reinterpret_cast<const C*>(row);
      continue;
    }
    C* out = staged + r * stride;
    if (in.class_stride == 1)
      widen_row<T>(out, row, n);
    else
      for (std::int64_t k = 0; k < n; ++k) out[k] = widen(row[k * in.class_stride]);
    row_pointers[r] = out;
  }
}

// Writes in[k] * factor to classes [begin, begin + n) of `row`.
template <typename T>
GUMBEL_EXT_INLINE void write_row(const Rows& out, std::int64_t row, std::int64_t begin, std::int64_t n, const Compute<T>* in,
                                 Compute<T> factor) {
  T* target = static_cast<T*>(out.data) + out.offset(row) + begin * out.class_stride;
  if (out.class_stride == 1)
    narrow_row<T>(target, in, factor, n);
  else
    for (std::int64_t k = 0; k < n; ++k) narrow(in[k] * factor, target[k * out.class_stride]);
}

// Writes `value` to every class of [begin, begin + n) of `row`.
template <typename T>
GUMBEL_EXT_INLINE void fill_row(const Rows& out, std::int64_t row, std::int64_t begin, std::int64_t n, Compute<T> value) {
  T* target = static_cast<T*>(out.data) + out.offset(row) + begin * out.class_stride;
  T element;
  narrow(value, element);
  for (std::int64_t k = 0; k < n; ++k) target[k * out.class_stride] = element;
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
