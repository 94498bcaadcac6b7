// One-hot rows, written to tensors of any strides.
#pragma once

#include "../../core/order.h"
#include "buffers.h"
#include "tile.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// n contiguous classes: `hot` holds 1, or none does where it is -1; the others hold `filler`.
template <typename T>
GUMBEL_EXT_INLINE void write_hot_row(T* out, std::int64_t n, std::int64_t hot, Compute<T> filler) {
  using C = Compute<T>;
  if (n <= kShortVectors * kLanes<C>) {
    VecMask<C> at = static_cast<Lane<C>>(hot) - VecMask<C>{};
    for (std::int64_t k = 0; k < n; k += kLanes<C>, at -= Lane<C>(kLanes<C>))
      narrow_lanes<T>(out + k, select_at<C>(VecOf<C>::kIota, at, broadcast(C(1)), broadcast(filler)),
                      n - k < kLanes<C> ? n - k : kLanes<C>);
    return;
  }
  constexpr std::int64_t kElements = kVecBytes / sizeof(T);
  T vector[kElements];
  for (T& element : vector) narrow(filler, element);
  std::int64_t k = 0;
  for (; k + kElements <= n; k += kElements) __builtin_memcpy(out + k, vector, sizeof vector);
  for (; k < n; ++k) out[k] = vector[0];
  if (hot >= 0) narrow(C(1), out[hot]);
}

// A vector of adjacent rows, whose classes are strided.
template <typename T>
GUMBEL_EXT_INLINE void write_hot_vector(T* out, std::int64_t class_stride, std::int64_t n, const std::int64_t* hot,
                                        const Compute<T>* filler) {
  using C = Compute<T>;
  const Vec<C> fillers = load(filler);
  VecMask<C> at;
  for (int j = 0; j < kLanes<C>; ++j) at[j] = static_cast<Lane<C>>(hot[j]);
  for (std::int64_t k = 0; k < n; ++k, at -= Lane<C>(1))
    narrow_lanes<T>(out + k * class_stride, select_at<C>(VecMask<C>{}, at, broadcast(C(1)), fillers), kLanes<C>);
}

// Classes [begin, begin + n) of rows [first, first + rows): hot[r], counted from `begin`, holds 1, or none does where
// it is -1; the others hold filler[r].
template <typename T>
GUMBEL_EXT_INLINE void write_hot_rows(const Rows& out, std::int64_t first, std::int64_t rows, std::int64_t begin,
                                      std::int64_t n, const std::int64_t* hot, const Compute<T>* filler) {
  using C = Compute<T>;
  for_each_run<C>(out, first, rows, [&](std::int64_t r, std::int64_t run) __attribute__((always_inline)) {
    T* target = element<T>(out, first + r, begin);
    if (out.class_stride == 1) {
      write_hot_row(target, n, hot[r], filler[r]);
    } else if (run == kLanes<C>) {
      write_hot_vector<T>(target, out.class_stride, n, hot + r, filler + r);
    } else {
      for (std::int64_t k = 0; k < n; ++k)
        for (std::int64_t j = 0; j < run; ++j)
          narrow(k == hot[r + j] ? C(1) : filler[r + j], target[k * out.class_stride + j]);
    }
  });
}

// one_hot(index) for the tile's rows, NaN where a row is undefined; best(r) is a row's maximum and argmax.
template <typename T, typename RowBest>
GUMBEL_EXT_INLINE void write_one_hot(const Rows& out, const Tile& tile, Buffers<Compute<T>>& buffers, RowBest best) {
  using C = Compute<T>;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const Best row = best(r);
    const std::int64_t hot = row.index - tile.begin;
    buffers.hot[r] = is_undefined(row.score) || hot < 0 || hot >= tile.width ? -1 : hot;
    buffers.filler[r] = is_undefined(row.score) ? C(__builtin_nanf("")) : C(0);
  }
  write_hot_rows<T>(out, tile.first_row, tile.rows, tile.begin, tile.width, buffers.hot, buffers.filler);
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
