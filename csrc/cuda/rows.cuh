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

// Where the elements of a span of classes of one row lie. Positions in it are 32-bit numbers, counted from its begin.
template <typename E>
struct Row {
  E* data;
  std::int64_t stride;  // from class to class
  bool packed;          // contiguous, and aligned as a pack's accesses need it

  template <int kClasses>
  __device__ __forceinline__ static Row of(const Rows& rows, std::int64_t row, std::int64_t begin) {
    constexpr int kBytes = kClasses * int(sizeof(E)) < 16 ? kClasses * int(sizeof(E)) : 16;
    E* data = static_cast<E*>(rows.data) + rows.offset(row) + begin * rows.class_stride;
    return {data, rows.class_stride, rows.class_stride == 1 && reinterpret_cast<std::uintptr_t>(data) % kBytes == 0};
  }
};

// Classes [first, first + kClasses) of a row; `filler` from class `count` on.
template <typename E, int kClasses>
__device__ __forceinline__ void load_pack(E (&out)[kClasses], const Row<E>& row, int first, int count, E filler) {
  constexpr int kTotal = kClasses * int(sizeof(E)), kBytes = kTotal < 16 ? kTotal : 16;
  if (row.packed && first + kClasses <= count) {
#pragma unroll
    for (int i = 0; i < kTotal / kBytes; ++i)
      load_streaming<kBytes>(&out[i * kClasses * kBytes / kTotal], row.data + first + i * kClasses * kBytes / kTotal);
    return;
  }
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
  constexpr int kTotal = kClasses * int(sizeof(E)), kBytes = kTotal < 16 ? kTotal : 16;
  if (row.packed && first + kClasses <= count) {
#pragma unroll
    for (int i = 0; i < kTotal / kBytes; ++i)
      store_streaming<kBytes>(row.data + first + i * kClasses * kBytes / kTotal,
                              &values[i * kClasses * kBytes / kTotal]);
    return;
  }
  E* to = row.data + first * row.stride;
#pragma unroll
  for (int i = 0; i < kClasses; ++i, to += row.stride) {
    materialize(to);
    if (first + i < count) store_streaming<sizeof(E)>(to, &values[i]);
  }
}

// The same with numbers in the working precision.
template <typename T, int kClasses>
__device__ __forceinline__ void load_numbers(Compute<T> (&out)[kClasses], const Row<T>& row, int first, int count,
                                             Compute<T> filler) {
  T narrow_filler, elements[kClasses];
  narrow(filler, narrow_filler);
  load_pack(elements, row, first, count, narrow_filler);
#pragma unroll
  for (int i = 0; i < kClasses; ++i) out[i] = widen(elements[i]);
}
template <typename T, int kClasses>
__device__ __forceinline__ void store_numbers(const Row<T>& row, int first, int count,
                                              const Compute<T> (&values)[kClasses]) {
  T elements[kClasses];
#pragma unroll
  for (int i = 0; i < kClasses; ++i) narrow(values[i], elements[i]);
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

  __device__ __forceinline__ Span(const Team& team, const Shape& shape, std::int64_t base)
      : Span(team, shape, base, 0, static_cast<int>(shape.classes)) {
  }
  __device__ __forceinline__ Span(const Team& team, const Shape& shape, std::int64_t base, std::int64_t begin,
                                  int count)
      : team(team), row(base + team.row()), begin(begin), count(count) {
    if (row < shape.rows) return;
    row = shape.rows - 1;
    this->count = 0;
  }
  __device__ __forceinline__ int first(int pack) const {
    return (pack * team.size() + team.rank()) * kClasses;
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
