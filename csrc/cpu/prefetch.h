// Memory that a tile is about to touch, asked for while its words are computed.
#pragma once

#include "layout.h"
#include "philox_fill.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// A few cache lines at every step of a philox_fill, so that its last step asks for about the last line. These are
// hints: a few too many do no harm, and of a tensor whose rows follow no simple rule only the first line is asked for.
template <typename T, int kTensors>
class Prefetch {
 public:
  // Rows [first, first + rows) x classes [begin, begin + n) of the tensors, of which some may be none.
  template <typename... Tensors>
  GUMBEL_EXT_INLINE Prefetch(std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t n,
                             const Tensors&... tensors)
      : lines_{lines_of(tensors, first, rows, begin, n)...} {
  }

  GUMBEL_EXT_INLINE void operator()() {
#pragma GCC unroll 8
    for (int i = 0; i < kTensors; ++i)
#pragma GCC unroll 8
      for (int line = 0; line < kLinesAStep; ++line) {
        __builtin_prefetch(lines_[i].next);
        lines_[i].next += lines_[i].distance;
      }
  }

 private:
  static constexpr int kLine = 64;
  // What a step's words stand for, in dense rows. Up to kNeighbourRows rows side by side have a line a class, which for
  // 32 bits is the same number, for 16 half of the lines and for 64 twice as many.
  static constexpr int kLinesAStep = (kPhiloxWords * kPhiloxLanes * int(sizeof(T)) + kLine - 1) / kLine;
  struct Lines {
    const char* next;
    std::int64_t distance;
  };

  static GUMBEL_EXT_INLINE Lines lines_of(const Rows& tensor, std::int64_t first, std::int64_t rows, std::int64_t begin,
                                          std::int64_t n) {
    if (!tensor) return {reinterpret_cast<const char*>(&tensor), 0};
    const char* start = reinterpret_cast<const char*>(element<T>(tensor, first, begin));
    if (rows == 1 ? tensor.class_stride == 1 : is_dense(tensor, n)) return {start, kLine};
    const bool side_by_side = rows <= kNeighbourRows && neighbours(tensor, first, rows, kNeighbourRows) > 1;
    return {start, side_by_side ? tensor.class_stride * std::int64_t(sizeof(T)) : 0};
  }

  Lines lines_[kTensors];
};

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
