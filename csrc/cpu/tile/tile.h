// What a kernel works on at a time.
#pragma once

#include "../kernels.h"
#include "prefetch.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// A tile of a group: rows [first_row, first_row + rows) x classes [begin, begin + width).
struct Tile {
  std::int64_t first_row;
  std::int64_t rows;
  std::int64_t begin;
  std::int64_t width;

  GUMBEL_EXT_INLINE Tile(const Shape& shape, const GroupState& group, std::int64_t tile)
      : first_row(group.first_row), rows(group.rows), begin(tile * kTileClasses) {
    const std::int64_t left = shape.classes - begin;
    width = left < kTileClasses ? left : kTileClasses;
  }
  GUMBEL_EXT_INLINE Tile(std::int64_t first_row, std::int64_t rows, std::int64_t begin, std::int64_t width)
      : first_row(first_row), rows(rows), begin(begin), width(width) {
  }
  GUMBEL_EXT_INLINE std::int64_t index() const {
    return begin / kTileClasses;
  }
  // Up to `n` of the tile's classes.
  GUMBEL_EXT_INLINE Tile classes(std::int64_t first, std::int64_t n) const {
    return {first_row, rows, begin + first, width - first < n ? width - first : n};
  }
  // `n` of its rows.
  GUMBEL_EXT_INLINE Tile some_rows(std::int64_t first, std::int64_t n) const {
    return {first_row + first, n, begin, width};
  }
  template <typename T>
  GUMBEL_EXT_INLINE RowSink<T> sink(const Rows& out, Compute<T>* scratch, bool in_place = false) const {
    return RowSink<T>(out, first_row, rows, begin, width, scratch, in_place);
  }
  template <typename T, typename... Tensors>
  GUMBEL_EXT_INLINE Prefetch<T, sizeof...(Tensors)> prefetch(const Tensors&... tensors) const {
    return {first_row, rows, begin, width, tensors...};
  }
  // Classes a row takes up in the noise buffers: whole Philox counters.
  GUMBEL_EXT_INLINE std::int64_t noise_stride() const {
    return round_up(width, kPhiloxWords);
  }
};

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
