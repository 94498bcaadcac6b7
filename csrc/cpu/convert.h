// Rows in and out of the working precision.
#pragma once

#include "../core/convert.h"
#include "job.h"
#include "vec.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
using Compute = typename ComputeType<T>::Type;

// A vector's elements of T in the working precision, and back.
template <typename T>
GUMBEL_EXT_INLINE Vec<Compute<T>> widen_vector(const T* in) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<T, C>) return load(in);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Float16>) return (Vec<C>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)in));
#endif
  C lanes[kLanes<C>];
  if constexpr (std::is_same_v<T, BFloat16>) {
    typedef std::uint16_t Halves __attribute__((vector_size(kVecBytes / 2)));
    typedef std::uint32_t Words32 __attribute__((vector_size(kVecBytes)));
    Halves halves;
    __builtin_memcpy(&halves, in, sizeof halves);
    const auto bits = __builtin_convertvector(halves, Words32) << 16;
    __builtin_memcpy(lanes, &bits, sizeof lanes);
    return load(lanes);
  }
#if defined(__F16C__)
  if constexpr (std::is_same_v<T, Float16>) {
    for (int k = 0; k < kLanes<C>; k += 8)
      _mm256_storeu_ps(lanes + k, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(in + k))));
    return load(lanes);
  }
#endif
#pragma omp simd
  for (int k = 0; k < kLanes<C>; ++k) lanes[k] = widen(in[k]);
  return load(lanes);
}
template <typename T>
GUMBEL_EXT_INLINE void narrow_vector(T* out, const Vec<Compute<T>>& v) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<T, C>) {
    store(out, v);
    return;
  }
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Float16>) {
    _mm256_storeu_si256((__m256i*)out, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
    return;
  }
#elif defined(__F16C__)
  if constexpr (std::is_same_v<T, Float16>) {
    for (int k = 0; k < kLanes<C>; k += 8)
      _mm_storeu_si128((__m128i*)(out + k), _mm256_cvtps_ph((__m256)part_of(v, k * 4), _MM_FROUND_TO_NEAREST_INT));
    return;
  }
#endif
  C lanes[kLanes<C>];
  store(lanes, v);
#pragma omp simd
  for (int k = 0; k < kLanes<C>; ++k) narrow(lanes[k], out[k]);
}

template <typename T>
GUMBEL_EXT_INLINE void widen_row(Compute<T>* __restrict out, const T* __restrict in, std::int64_t n) {
  using C = Compute<T>;
  std::int64_t k = 0;
  if constexpr (std::is_same_v<T, Float16>)
    for (; k + kLanes<C> <= n; k += kLanes<C>) store(out + k, widen_vector(in + k));
#pragma omp simd
  for (std::int64_t i = k; i < n; ++i) out[i] = widen(in[i]);
}

template <typename T>
GUMBEL_EXT_INLINE void narrow_row(T* __restrict out, const Compute<T>* __restrict in, std::int64_t n) {
  using C = Compute<T>;
  std::int64_t k = 0;
  if constexpr (std::is_same_v<T, Float16>)
    for (; k + kLanes<C> <= n; k += kLanes<C>) narrow_vector(out + k, load(in + k));
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
