// Single numbers in and out of the working precision. Rounding is to nearest, ties to even.
#pragma once

#include "job.h"

namespace gumbel_ext {

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

// An element of a mask, a bool, as a number of the working precision C: 1 where the class may be chosen, else 0.
template <typename C>
struct Allowed {
  std::uint8_t value;
};
template <typename C>
struct ComputeType<Allowed<C>> {
  using Type = C;
};
template <typename C>
GUMBEL_EXT_INLINE C widen(Allowed<C> allowed) {
  return allowed.value != 0 ? C(1) : C(0);
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

}  // namespace gumbel_ext
