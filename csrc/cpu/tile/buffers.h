// The layout of a thread's working memory: what a group's tile occupies between its stages.
#pragma once

#include "../kernels.h"
#include "../simd/convert.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// The widest tile of a row.
GUMBEL_EXT_INLINE std::int64_t tile_width(const Shape& shape) {
  return shape.classes < kTileClasses ? shape.classes : kTileClasses;
}

template <typename C>
struct Buffers {
  const void** rows;         // [group_rows] where each row of an input starts, staged or in the tensor: see read_row()
  const void** second_rows;  // [group_rows] the same for a second input
  C* staged;                 // [group_rows][padded]; after forward's scores, scratch for its results
  C* second_staged;          // [group_rows][padded]
  C* scores;                 // [group_rows][padded], and room for one vector more
  C* noise;                  // [group_rows * round_up(width + 3, 4)], and room for the fillers' overrun
  std::uint32_t* words;      // as noise
  std::uint64_t* quads;      // [counters of a tile], for groups of several rows
  std::uint64_t* counter_rows;
  std::uint64_t* counter_seeds;
  std::uint8_t* mask;  // [width]
  std::int64_t* hot;   // [group_rows] for one-hot rows: the class
  C* filler;           // [group_rows] and what the others hold
  std::int64_t bytes;

  GUMBEL_EXT_INLINE Buffers(const Shape& shape, const Plan& plan, Workspace workspace) {
    std::uintptr_t next = reinterpret_cast<std::uintptr_t>(workspace);  // also of no workspace, to know the size
    const std::int64_t width = tile_width(shape), rows_in_group = plan.group_rows;
    const std::int64_t values = rows_in_group * padded<C>(width) + kVecBytes;
    const std::int64_t counters = rows_in_group * (divide_up(width, 4) + 1) + kVecBytes;  // of classes in their midst
    const auto take = [&](auto*& pointer, std::int64_t count) __attribute__((always_inline)) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(next);
      next += static_cast<std::uintptr_t>(round_up(count * std::int64_t(sizeof(*pointer)), kVecBytes));
    };
    take(rows, rows_in_group);
    take(second_rows, rows_in_group);
    take(staged, values);
    take(second_staged, values);
    take(scores, values);
    take(noise, 4 * counters);
    take(words, 4 * counters);
    take(quads, counters);
    take(counter_rows, counters);
    take(counter_seeds, counters);
    take(mask, width);
    take(hot, rows_in_group);
    take(filler, rows_in_group);
    bytes = static_cast<std::int64_t>(next - reinterpret_cast<std::uintptr_t>(workspace));
    staged_end = reinterpret_cast<const C*>(reinterpret_cast<std::uintptr_t>(staged) + values * sizeof(C));
  }

  // Whether row r is staged, as C, and not in the tensor any longer.
  GUMBEL_EXT_INLINE bool is_staged(std::int64_t r) const {
    return rows[r] >= staged && rows[r] < staged_end;
  }
  // read(from), of row r's first element: a C where the row is staged, else a T.
  template <typename T, typename Read>
  GUMBEL_EXT_INLINE auto read_row(std::int64_t r, Read read) const {
    if constexpr (!std::is_same_v<T, C>)
      if (!is_staged(r)) return read(static_cast<const T*>(rows[r]));
    return read(static_cast<const C*>(rows[r]));
  }
  // Where row r may be written: where it is staged, or, while it is still in the tensor, in a place of its own.
  GUMBEL_EXT_INLINE C* writable_row(std::int64_t r, std::int64_t stride) const {
    return is_staged(r) ? static_cast<C*>(const_cast<void*>(rows[r])) : staged + r * stride;
  }

 private:
  const C* staged_end;
};

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
