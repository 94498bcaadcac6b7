// Rows in and out of the working precision.
#pragma once

#include "../../core/convert.h"
#include "vec.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// Whether 16-bit numbers are converted by instructions, a register at a time, and not by arithmetic, whose loops
// compilers vectorize best over whole rows.
#if defined(__AVX2__) || defined(GUMBEL_EXT_NEON)
#define GUMBEL_EXT_CONVERTS_REGISTERS 1
#else
#define GUMBEL_EXT_CONVERTS_REGISTERS 0
#endif
constexpr bool kConvertsRegisters = GUMBEL_EXT_CONVERTS_REGISTERS;

#if GUMBEL_EXT_CONVERTS_REGISTERS
// As many numbers of 16 bits, and of 32, as a register holds of the latter.
typedef std::uint16_t Part16 __attribute__((vector_size(kRegisterBytes / 2)));
typedef std::uint32_t Part32 __attribute__((vector_size(kRegisterBytes)));

// (Instructions by name: GCC 12 makes more of them of a __builtin_convertvector.)
GUMBEL_EXT_INLINE Part32 zero_extend(Part16 halves) {
#if defined(__AVX512F__)
  return (Part32)_mm512_cvtepu16_epi32((__m256i)halves);
#elif defined(GUMBEL_EXT_NEON)
  return (Part32)vmovl_u16((uint16x4_t)halves);
#else
  return (Part32)_mm256_cvtepu16_epi32((__m128i)halves);
#endif
}
// Requires: numbers below 2^16.
GUMBEL_EXT_INLINE Part16 truncate(Part32 words) {
#if defined(__AVX512F__)
  return (Part16)_mm512_cvtepi32_epi16((__m512i)words);
#elif defined(GUMBEL_EXT_NEON)
  return (Part16)vmovn_u32((uint32x4_t)words);
#else
  return (Part16)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)words), _mm256_extracti128_si256((__m256i)words, 1));
#endif
}

// A register's elements of a 16-bit T in the working precision, and back.
template <typename T>
GUMBEL_EXT_INLINE Part<Vec<float>> widen_part(Part16 bits) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return (Part<Vec<float>>)(zero_extend(bits) << 16);
  } else {
    static_assert(std::is_same_v<T, Float16>);
#if defined(__AVX512F__)
    return (Part<Vec<float>>)_mm512_cvtph_ps((__m256i)bits);
#elif defined(GUMBEL_EXT_NEON)
    return (Part<Vec<float>>)vcvt_f32_f16((float16x4_t)bits);
#else
    return (Part<Vec<float>>)_mm256_cvtph_ps((__m128i)bits);
#endif
  }
}
template <typename T>
GUMBEL_EXT_INLINE Part16 narrow_part(const Part<Vec<float>>& v) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const Part32 bits = (Part32)v, rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return truncate(v != v ? Part32{} + 0x7fc0u : rounded);
  } else {
    static_assert(std::is_same_v<T, Float16>);
#if defined(__AVX512F__)
    return (Part16)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(GUMBEL_EXT_NEON)
    return (Part16)vcvt_f16_f32((float32x4_t)v);
#else
    return (Part16)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#endif
  }
}
#endif

// kCount elements converted by arithmetic.
template <int kCount, typename T, typename E>
GUMBEL_EXT_INLINE void convert_some(T* out, const E* in) {
#pragma omp simd
  for (int k = 0; k < kCount; ++k) narrow(widen(in[k]), out[k]);
}

// A register's elements in the working precision from memory, for any T, and to memory, for floating-point ones.
template <typename T>
GUMBEL_EXT_INLINE Part<Vec<Compute<T>>> load_wide(const T* in) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<T, C>) return load_part(in);
#if GUMBEL_EXT_CONVERTS_REGISTERS
  if constexpr (sizeof(T) == sizeof(std::uint16_t)) {
    Part16 bits;
    __builtin_memcpy(&bits, in, sizeof bits);
    return widen_part<T>(bits);
  }
#endif
  C lanes[kPartLanes<C>];
  convert_some<kPartLanes<C>>(lanes, in);
  return load_part(lanes);
}
template <typename T>
GUMBEL_EXT_INLINE void store_narrow(T* out, const Part<Vec<Compute<T>>>& v) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<T, C>) {
    __builtin_memcpy(out, &v, sizeof v);
  } else {
#if GUMBEL_EXT_CONVERTS_REGISTERS
    const Part16 bits = narrow_part<T>(v);
    __builtin_memcpy(out, &bits, sizeof bits);
#else
    C lanes[kPartLanes<C>];
    __builtin_memcpy(lanes, &v, sizeof lanes);
    convert_some<kPartLanes<C>>(out, lanes);
#endif
  }
}

// The same for a vector's.
template <typename T>
GUMBEL_EXT_INLINE Vec<Compute<T>> widen_vector(const T* in) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<T, C>) {
    return load(in);
  } else if constexpr (kRegisterBytes == kVecBytes) {
    return load_wide(in);
  } else {
    C lanes[kLanes<C>];
    if constexpr (kConvertsRegisters) {
      for (int k = 0; k < kLanes<C>; k += kPartLanes<C>) {
        const auto part = load_wide(in + k);
        __builtin_memcpy(lanes + k, &part, sizeof part);
      }
    } else {
      convert_some<kLanes<C>>(lanes, in);
    }
    return load(lanes);
  }
}
template <typename T>
GUMBEL_EXT_INLINE void narrow_vector(T* out, const Vec<Compute<T>>& v) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<T, C>) {
    store(out, v);
  } else if constexpr (kConvertsRegisters) {
    for (int k = 0; k < kLanes<C>; k += kPartLanes<C>) store_narrow(out + k, part_of(v, k * sizeof(C)));
  } else {
    C lanes[kLanes<C>];
    store(lanes, v);
    convert_some<kLanes<C>>(out, lanes);
  }
}

// Lanes [from, from + n) of a vector from, and to, elements of T of which the first lane's would be at `in`, or `out`.
template <typename T>
GUMBEL_EXT_INLINE Vec<Compute<T>> widen_lanes(const T* in, std::int64_t n, std::int64_t from = 0) {
  using C = Compute<T>;
  if (n == kLanes<C>) return widen_vector(in);
  if constexpr (std::is_same_v<T, C>) return load_some(in, from, n);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == sizeof(std::uint16_t))
    return (Vec<C>)widen_part<T>((Part16)_mm256_maskz_loadu_epi16(static_cast<__mmask16>(lane_mask(from, n)), in));
#endif
  T some[kLanes<C>] = {};
  for (std::int64_t i = from; i < from + n; ++i) some[i] = in[i];
  return widen_vector(some);
}
template <typename T>
GUMBEL_EXT_INLINE void narrow_lanes(T* out, const Vec<Compute<T>>& v, std::int64_t n, std::int64_t from = 0) {
  using C = Compute<T>;
  if (n == kLanes<C>) return narrow_vector(out, v);
  if constexpr (std::is_same_v<T, C>) {
    store_some(out, v, from, n);
  } else {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const __m256i bits = (__m256i)narrow_part<T>(v);
    _mm256_mask_storeu_epi16(out, static_cast<__mmask16>(lane_mask(from, n)), bits);
#else
    T some[kLanes<C>];
    narrow_vector(some, v);
    for (std::int64_t i = from; i < from + n; ++i) out[i] = some[i];
#endif
  }
}

// out[k] = op(in[k]...), register by register; a vector is read before it is written.
template <typename T, typename Op, typename... E>
GUMBEL_EXT_INLINE void map_row(T* out, std::int64_t n, Op op, const E*... in) {
  using C = Compute<T>;
  const std::int64_t rest = n % kLanes<C>, whole = n - rest;
  for (std::int64_t k = 0; k < whole; k += kLanes<C>) {
    Part<Vec<C>> parts[kParts];
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) parts[i] = op(load_wide(in + k + i * kPartLanes<C>)...);
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) store_narrow(out + k + i * kPartLanes<C>, parts[i]);
  }
  if (rest) narrow_lanes(out + whole, by_parts<Vec<C>>(op, widen_lanes(in + whole, rest)...), rest);
}

// out[k] = in[k], wider or narrower.
template <typename T, typename E>
GUMBEL_EXT_INLINE void convert_row(T* __restrict out, const E* __restrict in, std::int64_t n) {
  if constexpr (kConvertsRegisters) {
    map_row(out, n, [](auto v) __attribute__((always_inline)) { return v; }, in);
    return;
  }
#pragma omp simd
  for (std::int64_t k = 0; k < n; ++k) narrow(widen(in[k]), out[k]);
}

// out[k] = in[k] * factor.
template <typename T>
GUMBEL_EXT_INLINE void scale_row(T* out, const Compute<T>* in, Compute<T> factor, std::int64_t n) {
  const auto factors = part_of(broadcast(factor), 0);
  map_row(out, n, [=](auto v) __attribute__((always_inline)) { return v * factors; }, in);
}

template <typename T>
GUMBEL_EXT_INLINE void fill_values(T* out, std::int64_t n, Compute<T> value) {
  for (std::int64_t k = 0; k < n; ++k) narrow(value, out[k]);
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
