// Rows in and out of the working precision.
#pragma once

#include "../core/convert.h"
#include "job.h"
#include "vec.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
using Compute = typename ComputeType<T>::Type;

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
