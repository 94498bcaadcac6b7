// A thread's part of a row: packs of classes, in registers, in and out of memory.
#pragma once

#include <type_traits>

#include "../core/convert.h"
#include "../core/fold.h"
#include "team.cuh"

namespace gumbel_ext::cuda {

// The classes of a pack: 16 bytes or more of T, and whole Philox counters.
template <typename T>
constexpr int kPackClasses = sizeof(T) == 2 ? 8 : 4;

// The bytes of a pack's accesses.
template <typename E, int kClasses>
constexpr int kWordBytes = kClasses * int(sizeof(E)) < 16 ? kClasses * int(sizeof(E)) : 16;

// Where the elements of a span of classes of one row lie. Positions in it are 32-bit numbers, counted from its begin.
template <typename E>
struct Row {
  E* data;
  std::int64_t stride;  // from class to class
  bool packed;          // contiguous, and aligned as a pack's accesses need it

  template <int kClasses>
  __device__ __forceinline__ static Row of(const Rows& rows, std::int64_t row, std::int64_t begin) {
    constexpr int kBytes = kWordBytes<E, kClasses>;
    E* data = static_cast<E*>(rows.data) + rows.offset(row) + begin * rows.class_stride;
    return {data, rows.class_stride, rows.class_stride == 1 && reinterpret_cast<std::uintptr_t>(data) % kBytes == 0};
  }
};

// Classes [first, first + kClasses) of a row whose accesses are those of packs.
template <typename E, int kClasses>
__device__ __forceinline__ void load_whole_pack(E (&out)[kClasses], const Row<E>& row, int first) {
  constexpr int kBytes = kWordBytes<E, kClasses>, kEach = kBytes / int(sizeof(E));
#pragma unroll
  for (int i = 0; i < kClasses; i += kEach) load_streaming<kBytes>(&out[i], row.data + first + i);
}
// The same of a contiguous row of any alignment, element by element.
template <typename E, int kClasses>
__device__ __forceinline__ void load_contiguous_pack(E (&out)[kClasses], const Row<E>& row, int first) {
  const E* from = row.data + first;
#pragma unroll
  for (int i = 0; i < kClasses; ++i) load_streaming<sizeof(E)>(&out[i], from + i);
}
template <typename E, int kClasses>
__device__ __forceinline__ void store_whole_pack(const Row<E>& row, int first, const E (&values)[kClasses]) {
  constexpr int kBytes = kWordBytes<E, kClasses>, kEach = kBytes / int(sizeof(E));
#pragma unroll
  for (int i = 0; i < kClasses; i += kEach) store_streaming<kBytes>(row.data + first + i, &values[i]);
}
template <typename E, int kClasses>
__device__ __forceinline__ void store_contiguous_pack(const Row<E>& row, int first, const E (&values)[kClasses]) {
  E* to = row.data + first;
#pragma unroll
  for (int i = 0; i < kClasses; ++i) store_streaming<sizeof(E)>(to + i, &values[i]);
}

// Classes [first, first + kClasses) of a row; `filler` from class `count` on.
template <typename E, int kClasses>
__device__ __forceinline__ void load_pack(E (&out)[kClasses], const Row<E>& row, int first, int count, E filler) {
  if (row.packed && first + kClasses <= count) return load_whole_pack(out, row, first);
  E* from = row.data + first * row.stride;
#pragma unroll
  for (int i = 0; i < kClasses; ++i, from += row.stride) {
    out[i] = filler;
    materialize(from);
    if (first + i < count) load_streaming<sizeof(E)>(&out[i], from);
  }
}

// The other way round; what lies at `count` and beyond is left alone.
template <typename E, int kClasses>
__device__ __forceinline__ void store_pack(const Row<E>& row, int first, int count, const E (&values)[kClasses]) {
  if (row.packed && first + kClasses <= count) return store_whole_pack(row, first, values);
  E* to = row.data + first * row.stride;
#pragma unroll
  for (int i = 0; i < kClasses; ++i, to += row.stride) {
    materialize(to);
    if (first + i < count) store_streaming<sizeof(E)>(to, &values[i]);
  }
}

// All packs of a thread: where they are whole, loads do not wait for each other.
template <typename E, typename Span, int kPacks, int kClasses>
__device__ __forceinline__ void load_packs(E (&out)[kPacks][kClasses], const Row<E>& row, const Span& span, E filler) {
  if (row.packed && span.first(kPacks - 1) + kClasses <= span.count) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) load_whole_pack(out[p], row, span.first(p));
  } else if (row.stride == 1 && span.first(kPacks - 1) + kClasses <= span.count) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) load_contiguous_pack(out[p], row, span.first(p));
  } else {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) load_pack(out[p], row, span.first(p), span.count, filler);
  }
}
template <typename E, typename Span, int kPacks, int kClasses>
__device__ __forceinline__ void store_packs(const Row<E>& row, const Span& span, const E (&values)[kPacks][kClasses]) {
  if (row.packed && span.first(kPacks - 1) + kClasses <= span.count) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) store_whole_pack(row, span.first(p), values[p]);
  } else if (row.stride == 1 && span.first(kPacks - 1) + kClasses <= span.count) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) store_contiguous_pack(row, span.first(p), values[p]);
  } else {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) store_pack(row, span.first(p), span.count, values[p]);
  }
}

// Elements in and out of the working precision, by the device's own conversions where it has them.
template <typename T, int kCount>
__device__ __forceinline__ void widen_all(Compute<T> (&out)[kCount], const T (&elements)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if constexpr (std::is_same_v<T, Float16>)
      out[i] = widen_half(elements[i]);
    else
      out[i] = widen(elements[i]);
}
// The same of elements that lie two to a register, as whole packs are loaded.
template <typename T, int kCount>
__device__ __forceinline__ void widen_pairs(Compute<T> (&out)[kCount], const T (&elements)[kCount]) {
  if constexpr (std::is_same_v<T, BFloat16>) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      std::uint32_t two;
      memcpy(&two, &elements[i], sizeof two);
      out[i] = bit_cast<float>(two << 16);
      out[i + 1] = bit_cast<float>(two & 0xffff0000u);
    }
  } else {
    widen_all(out, elements);
  }
}
template <typename T, int kCount>
__device__ __forceinline__ void narrow_all(T (&out)[kCount], const Compute<T> (&numbers)[kCount]) {
  if constexpr (sizeof(T) == 2 && kCount % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const std::uint32_t two = narrow_two(numbers[i], numbers[i + 1], T{});
      memcpy(&out[i], &two, sizeof two);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) narrow(numbers[i], out[i]);
  }
}

// The same with numbers in the working precision.
template <typename T, int kClasses>
__device__ __forceinline__ void load_numbers(Compute<T> (&out)[kClasses], const Row<T>& row, int first, int count,
                                             Compute<T> filler) {
  T narrow_filler, elements[kClasses];
  narrow(filler, narrow_filler);
  load_pack(elements, row, first, count, narrow_filler);
  widen_all(out, elements);
}
template <typename T, typename Span, int kPacks, int kClasses>
__device__ __forceinline__ void load_all_numbers(Compute<T> (&out)[kPacks][kClasses], const Row<T>& row,
                                                 const Span& span, Compute<T> filler) {
  T narrow_filler, elements[kPacks][kClasses];
  narrow(filler, narrow_filler);
  load_packs(elements, row, span, narrow_filler);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) widen_all(out[p], elements[p]);
}
template <typename T, typename Span, int kPacks, int kClasses>
__device__ __forceinline__ void store_all_numbers(const Row<T>& row, const Span& span,
                                                  const Compute<T> (&values)[kPacks][kClasses]) {
  T elements[kPacks][kClasses];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) narrow_all(elements[p], values[p]);
  store_packs(row, span, elements);
}
template <typename T, int kClasses>
__device__ __forceinline__ void store_numbers(const Row<T>& row, int first, int count,
                                              const Compute<T> (&values)[kClasses]) {
  T elements[kClasses];
  narrow_all(elements, values);
  store_pack(row, first, count, elements);
}

// A span of classes of one row, and how a team of threads shares it: pack p of a thread begins at first(p), counted
// from the span's begin.
template <typename Team, int kClasses>
struct Span {
  const Team& team;
  std::int64_t row;    // a row that exists, also where this thread has none
  std::int64_t begin;  // a multiple of kClasses
  int count;           // 0 where this thread's row does not exist
  std::uint32_t mine;  // where this thread's first pack begins

  __device__ __forceinline__ Span(const Team& team, const Shape& shape, std::int64_t base)
      : Span(team, shape, base, 0, static_cast<int>(shape.classes)) {
  }
  __device__ __forceinline__ Span(const Team& team, const Shape& shape, std::int64_t base, std::int64_t begin,
                                  int count)
      : team(team),
        row(base + team.row()),
        begin(begin),
        count(count),
        mine(static_cast<std::uint32_t>(team.rank() * kClasses)) {
    keep(mine);  // else, where all packs begin is kept in registers from row to row
    if (row < shape.rows) return;
    row = shape.rows - 1;
    this->count = 0;
  }
  __device__ __forceinline__ int first(int pack) const {
    return static_cast<int>(mine) + pack * team.size() * kClasses;
  }
};

// The sum of values, in a tree, so that its error grows with the logarithm of their number.
template <int kCount, typename C>
__device__ __forceinline__ C tree_sum(const C* values) {
  if constexpr (kCount == 1)
    return values[0];
  else
    return tree_sum<kCount / 2>(values) + tree_sum<kCount - kCount / 2>(values + kCount / 2);
}

}  // namespace gumbel_ext::cuda
