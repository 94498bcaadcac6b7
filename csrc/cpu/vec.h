// 64-byte vectors on every instruction set (the compiler splits them where registers are shorter), so
// that a reduction has the same lanes, the same order and the same bits everywhere.
#pragma once

#include <type_traits>

#include "isa.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

constexpr int kVecBytes = 64;

template <typename C>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float Type __attribute__((vector_size(kVecBytes)));
  typedef std::int32_t Mask __attribute__((vector_size(kVecBytes)));
  static constexpr Mask kIota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
};
template <>
struct VecOf<double> {
  typedef double Type __attribute__((vector_size(kVecBytes)));
  typedef std::int64_t Mask __attribute__((vector_size(kVecBytes)));
  static constexpr Mask kIota = {0, 1, 2, 3, 4, 5, 6, 7};
};
template <typename C>
using Vec = typename VecOf<C>::Type;
template <typename C>
using VecMask = typename VecOf<C>::Mask;
template <typename C>
using Lane = std::remove_reference_t<decltype(VecMask<C>{}[0])>;
template <typename C>
constexpr int kLanes = kVecBytes / sizeof(C);

GUMBEL_EXT_INLINE constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Classes that a row takes up in a buffer of C: whole vectors.
template <typename C>
GUMBEL_EXT_INLINE constexpr std::int64_t padded(std::int64_t classes) {
  return round_up(classes, kLanes<C>);
}

template <typename C>
GUMBEL_EXT_INLINE Vec<C> broadcast(C value) {
  return value - Vec<C>{};
}

// op(vectors...), part by part where a register holds no whole vector: compilers would take a comparison or a
// selection of whole vectors apart lane by lane.
template <typename V>
struct PartOf {
  typedef std::remove_reference_t<decltype(V{}[0])> Type __attribute__((vector_size(kRegisterBytes)));
};
template <typename V>
using Part = typename PartOf<V>::Type;
template <typename V>
GUMBEL_EXT_INLINE Part<V> part_of(const V& v, int byte) {
  Part<V> part;
  __builtin_memcpy(&part, reinterpret_cast<const char*>(&v) + byte, sizeof part);
  return part;
}
template <typename Result, typename Op, typename... Vectors>
GUMBEL_EXT_INLINE Result by_parts(Op op, const Vectors&... vectors) {
  Result result;
  for (int byte = 0; byte < kVecBytes; byte += kRegisterBytes) {
    const auto part = op(part_of(vectors, byte)...);
    __builtin_memcpy(reinterpret_cast<char*>(&result) + byte, &part, sizeof part);
  }
  return result;
}

template <typename C>
GUMBEL_EXT_INLINE Part<Vec<C>> load_part(const C* p) {
  Part<Vec<C>> part;
  __builtin_memcpy(&part, p, sizeof part);
  return part;
}

template <typename C>
GUMBEL_EXT_INLINE VecMask<C> is_nan(const Vec<C>& v) {
  return by_parts<VecMask<C>>([](auto a) __attribute__((always_inline)) { return a != a; }, v);
}
template <typename C>
GUMBEL_EXT_INLINE VecMask<C> equal(const Vec<C>& v, const Vec<C>& w) {
  return by_parts<VecMask<C>>([](auto a, auto b) __attribute__((always_inline)) { return a == b; }, v, w);
}
// Lane i of v where place[i] < n[i] (or, for select_at, place[i] == n[i]), else of w.
template <typename C>
GUMBEL_EXT_INLINE Vec<C> select_below(const VecMask<C>& place, const VecMask<C>& n, const Vec<C>& v, const Vec<C>& w) {
  return by_parts<Vec<C>>([](auto i, auto limit, auto a, auto b)
                              __attribute__((always_inline)) { return i < limit ? a : b; },
                          place, n, v, w);
}
template <typename C>
GUMBEL_EXT_INLINE Vec<C> select_at(const VecMask<C>& place, const VecMask<C>& n, const Vec<C>& v, const Vec<C>& w) {
  return by_parts<Vec<C>>(
      [](auto i, auto at, auto a, auto b) __attribute__((always_inline)) { return i == at ? a : b; }, place, n, v, w);
}

template <typename C>
GUMBEL_EXT_INLINE Vec<C> load(const C* p) {
  Vec<C> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <typename C>
GUMBEL_EXT_INLINE void store(C* p, Vec<C> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// The first `n` lanes, 0 <= n < kLanes; nothing past them is touched. Other lanes load as zero.
template <typename C>
GUMBEL_EXT_INLINE Vec<C> load_first(const C* p, std::int64_t n) {
  Vec<C> v = {};
#if defined(__AVX512F__)
  const unsigned lanes = (1u << n) - 1;
  if constexpr (sizeof(C) == 4)
    v = (Vec<C>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), p);
  else
    v = (Vec<C>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), p);
#else
  for (std::int64_t i = 0; i < n; ++i) v[i] = p[i];
#endif
  return v;
}
template <typename C>
GUMBEL_EXT_INLINE void store_first(C* p, Vec<C> v, std::int64_t n) {
#if defined(__AVX512F__)
  const unsigned lanes = (1u << n) - 1;
  if constexpr (sizeof(C) == 4)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(lanes), (__m512)v);
  else
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(lanes), (__m512d)v);
#else
  for (std::int64_t i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// Lanes from `n` on replaced by `filler`.
template <typename C>
GUMBEL_EXT_INLINE Vec<C> keep_first(Vec<C> v, std::int64_t n, C filler) {
  return select_below<C>(VecOf<C>::kIota, static_cast<Lane<C>>(n) - VecMask<C>{}, v, broadcast(filler));
}

// A bit for each lane that is set, the first lane's lowest.
template <typename C>
GUMBEL_EXT_INLINE std::uint32_t lane_bits(VecMask<C> mask) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
  else
    return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX2__)
  __m256 halves[2];
  __builtin_memcpy(halves, &mask, sizeof halves);
  if constexpr (sizeof(C) == 4)
    return _mm256_movemask_ps(halves[0]) | _mm256_movemask_ps(halves[1]) << 8;
  else
    return _mm256_movemask_pd((__m256d)halves[0]) | _mm256_movemask_pd((__m256d)halves[1]) << 4;
#else
  std::uint32_t bits = 0;
  for (int lane = 0; lane < kLanes<C>; ++lane) bits |= static_cast<std::uint32_t>(mask[lane] & 1) << lane;
  return bits;
#endif
}

template <typename C>
GUMBEL_EXT_INLINE bool any_lane(VecMask<C> mask) {
  return lane_bits<C>(mask) != 0;
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
