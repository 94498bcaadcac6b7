// 64-byte vectors on every instruction set (the compiler splits them where registers are shorter), so
// that a reduction has the same lanes, the same order and the same bits everywhere.
#pragma once

#include <type_traits>

#include "isa.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

constexpr int kVecBytes = 64;

// A number that is part of a type.
template <int kValue>
struct Constant {
  GUMBEL_EXT_INLINE constexpr operator int() const {
    return kValue;
  }
};

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

// op(vectors...), a register's part at a time: of vectors longer than a register, compilers would take comparisons and
// selections apart lane by lane.
template <typename V>
struct PartOf {
  typedef std::remove_reference_t<decltype(V{}[0])> Type __attribute__((vector_size(kRegisterBytes)));
};
template <typename V>
using Part = typename PartOf<V>::Type;
template <typename C>
constexpr int kPartLanes = kRegisterBytes / sizeof(C);
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

constexpr int kParts = kVecBytes / kRegisterBytes;

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

// Lanes [from, from + n) of a vector whose first would be at p; nothing else is touched. Other lanes load as zero.
#if defined(__AVX512F__)
GUMBEL_EXT_INLINE constexpr std::uint32_t lane_mask(std::int64_t from, std::int64_t n) {
  return ((1u << n) - 1) << from;
}
#elif defined(__AVX2__)
template <typename C>
GUMBEL_EXT_INLINE __m256i lane_mask(std::int64_t from, std::int64_t n, int half) {
  typedef Lane<C> Half __attribute__((vector_size(kVecBytes / 2)));
  Half iota;
  __builtin_memcpy(&iota, reinterpret_cast<const Half*>(&VecOf<C>::kIota) + half, sizeof iota);
  iota -= static_cast<Lane<C>>(from);
  return (__m256i)((iota >= 0) & (iota < static_cast<Lane<C>>(n)));
}
#endif
template <typename C>
GUMBEL_EXT_INLINE Vec<C> load_some(const C* p, std::int64_t from, std::int64_t n) {
  Vec<C> v = {};
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4)
    v = (Vec<C>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(lane_mask(from, n)), p);
  else
    v = (Vec<C>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(lane_mask(from, n)), p);
#elif defined(__AVX2__)
  for (int half = 0; half < 2; ++half) {
    const C* part = p + half * kLanes<C> / 2;
    const __m256i mask = lane_mask<C>(from, n, half);
    __m256 loaded;
    if constexpr (sizeof(C) == 4)
      loaded = _mm256_maskload_ps(part, mask);
    else
      loaded = (__m256)_mm256_maskload_pd(part, mask);
    __builtin_memcpy(reinterpret_cast<char*>(&v) + half * sizeof loaded, &loaded, sizeof loaded);
  }
#else
  for (std::int64_t i = from; i < from + n; ++i) v[i] = p[i];
#endif
  return v;
}
template <typename C>
GUMBEL_EXT_INLINE void store_some(C* p, Vec<C> v, std::int64_t from, std::int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 4)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(lane_mask(from, n)), (__m512)v);
  else
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(lane_mask(from, n)), (__m512d)v);
#elif defined(__AVX2__)
  for (int half = 0; half < 2; ++half) {
    C* part = p + half * kLanes<C> / 2;
    const __m256i mask = lane_mask<C>(from, n, half);
    __m256 stored;
    __builtin_memcpy(&stored, reinterpret_cast<const char*>(&v) + half * sizeof stored, sizeof stored);
    if constexpr (sizeof(C) == 4)
      _mm256_maskstore_ps(part, mask, stored);
    else
      _mm256_maskstore_pd(part, mask, (__m256d)stored);
  }
#else
  for (std::int64_t i = from; i < from + n; ++i) p[i] = v[i];
#endif
}

// The lanes of v and w, of which each is zero in one of them.
template <typename C>
GUMBEL_EXT_INLINE Vec<C> unite(const Vec<C>& v, const Vec<C>& w) {
  return (Vec<C>)((VecMask<C>)v | (VecMask<C>)w);
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
#elif defined(GUMBEL_EXT_NEON)
  if constexpr (sizeof(C) == 4) {
    // Pairs of lanes narrowed to half of their bits, twice: a byte each, of which its lane's bit is kept.
    uint32x4_t parts[4];
    __builtin_memcpy(parts, &mask, sizeof parts);
    const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(parts[0]), vreinterpretq_u16_u32(parts[1]));
    const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(parts[2]), vreinterpretq_u16_u32(parts[3]));
    const uint8x16_t bytes = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
    constexpr std::uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t bits = vandq_u8(bytes, vld1q_u8(kBits));
    return vaddv_u8(vget_low_u8(bits)) | static_cast<std::uint32_t>(vaddv_u8(vget_high_u8(bits))) << 8;
  } else {
    std::uint32_t bits = 0;
    for (int lane = 0; lane < kLanes<C>; ++lane) bits |= static_cast<std::uint32_t>(mask[lane] & 1) << lane;
    return bits;
  }
#else
  std::uint32_t bits = 0;
  for (int lane = 0; lane < kLanes<C>; ++lane) bits |= static_cast<std::uint32_t>(mask[lane] & 1) << lane;
  return bits;
#endif
}

template <typename C>
GUMBEL_EXT_INLINE bool any_lane(VecMask<C> mask) {
#if defined(GUMBEL_EXT_NEON)
  uint32x4_t parts[4];
  __builtin_memcpy(parts, &mask, sizeof parts);
  return vmaxvq_u32(vorrq_u32(vorrq_u32(parts[0], parts[1]), vorrq_u32(parts[2], parts[3]))) != 0;
#else
  return lane_bits<C>(mask) != 0;
#endif
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
