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

// Whether the classes of a row, and one row after the other, lie side by side.
GUMBEL_EXT_INLINE bool is_dense(const Rows& rows, std::int64_t classes) {
  return rows.class_stride == 1 && (rows.ndim == 0 || (rows.ndim == 1 && rows.stride[0] == classes));
}

template <typename T>
GUMBEL_EXT_INLINE T* element(const Rows& rows, std::int64_t row, std::int64_t cls) {
  return static_cast<T*>(rows.data) + rows.offset(row) + cls * rows.class_stride;
}

// Whether the rows [first, first + rows) of a tensor whose classes lie apart are neighbours in memory.
GUMBEL_EXT_INLINE bool are_neighbours(const Rows& rows, std::int64_t first, std::int64_t count) {
  const std::int64_t last = first + count - 1;
  return rows.class_stride != 1 && rows.ndim > 0 && rows.stride[rows.ndim - 1] == 1 &&
         first / rows.size[rows.ndim - 1] == last / rows.size[rows.ndim - 1];
}

// Rows [first, first + rows) x classes [begin, begin + n) as rows of C: pointers into the tensor itself
// where it holds them so, else into `staged`.
template <typename T>
GUMBEL_EXT_INLINE void stage_rows(const Compute<T>** row_pointers, Compute<T>* staged, const Rows& in,
                                  std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t n) {
  using C = Compute<T>;
  const bool direct = std::is_same_v<T, C> && in.class_stride == 1;
  const bool dense = rows > 1 && is_dense(in, n), neighbours = are_neighbours(in, first, rows);
  const std::int64_t stride = dense ? n : padded<C>(n);
  const T* corner = element<T>(in, first, begin);
  if (!direct && dense) widen_row<T>(staged, corner, rows * n);  // short rows: one run of them all
  if (neighbours)
    for (std::int64_t k = 0; k < n; ++k)
      for (std::int64_t r = 0; r < rows; ++r) staged[r * stride + k] = widen(corner[k * in.class_stride + r]);
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* row = element<T>(in, first + r, begin);
    C* out = staged + r * stride;
    row_pointers[r] = direct ? reinterpret_cast<const C*>(row) : out;
    if (direct || dense || neighbours) continue;
    if (in.class_stride == 1)
      widen_row<T>(out, row, n);
    else
      for (std::int64_t k = 0; k < n; ++k) out[k] = widen(row[k * in.class_stride]);
  }
}

// Where the results for rows [first, first + rows) x classes [begin, begin + n) go: row(r) takes exactly n
// values of C, in the tensor itself where it can hold them so, else in `scratch` until finish().
template <typename T>
class RowSink {
  using C = Compute<T>;

 public:
  GUMBEL_EXT_INLINE RowSink(const Rows& out, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t n,
                            C* scratch)
      : out_(out),
        first_(first),
        rows_(rows),
        begin_(begin),
        n_(n),
        scratch_(scratch),
        direct_(std::is_same_v<T, C> && out.class_stride == 1),
        dense_(rows > 1 && is_dense(out, n)),
        stride_(dense_ ? n : padded<C>(n)) {
  }

  GUMBEL_EXT_INLINE C* row(std::int64_t r) const {
    if (direct_) return reinterpret_cast<C*>(element<T>(out_, first_ + r, begin_));
    return scratch_ + r * stride_;
  }

  GUMBEL_EXT_INLINE void finish() const {
    if (direct_) return;
    T* corner = element<T>(out_, first_, begin_);
    if (dense_) {
      narrow_row<T>(corner, scratch_, rows_ * n_);
    } else if (are_neighbours(out_, first_, rows_)) {
      for (std::int64_t k = 0; k < n_; ++k)
        for (std::int64_t r = 0; r < rows_; ++r) narrow(scratch_[r * stride_ + k], corner[k * out_.class_stride + r]);
    } else {
      for (std::int64_t r = 0; r < rows_; ++r) {
        T* target = element<T>(out_, first_ + r, begin_);
        if (out_.class_stride == 1)
          narrow_row<T>(target, row(r), n_);
        else
          for (std::int64_t k = 0; k < n_; ++k) narrow(row(r)[k], target[k * out_.class_stride]);
      }
    }
  }

 private:
  const Rows& out_;
  std::int64_t first_, rows_, begin_, n_;
  C* scratch_;
  bool direct_, dense_;
  std::int64_t stride_;
};

// Writes `value` to every class of [begin, begin + n) of `row`.
template <typename T>
GUMBEL_EXT_INLINE void fill_row(const Rows& out, std::int64_t row, std::int64_t begin, std::int64_t n,
                                Compute<T> value) {
  T* target = element<T>(out, row, begin);
  T filler;
  narrow(value, filler);
  if (out.class_stride == 1) {
#pragma omp simd
    for (std::int64_t k = 0; k < n; ++k) target[k] = filler;
  } else {
    for (std::int64_t k = 0; k < n; ++k) target[k * out.class_stride] = filler;
  }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
