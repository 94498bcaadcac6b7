// Memory that a tile is about to touch, asked for while its words are computed.
#pragma once

#include "../simd/philox.h"
#include "staging.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// Prefetches a few cache lines at every step of philox_fill_rows, _each or _block, paced so that the last step reaches
// about the last line. These are hints: a few too many do no harm, and of a tensor whose rows follow no simple rule
// only the first line is asked for.
template <typename T, int kTensors>
class Prefetch {
 public:
  // Rows [first, first + rows) x classes [begin, begin + n) of the tensors, of which some may be none.
  template <typename... Tensors>
  GUMBEL_EXT_INLINE Prefetch(std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t n,
                             const Tensors&... tensors)
      : steps_a_run_(line_count(rows) / kLinesAStep),
        steps_left_(steps_a_run_),
        lines_{lines_of(tensors, first, rows, begin, n)...} {
  }

  GUMBEL_EXT_INLINE void operator()() {
#pragma GCC unroll 8
    for (int i = 0; i < kTensors; ++i)
#pragma GCC unroll 8
      for (int line = 0; line < kLinesAStep; ++line) {
        __builtin_prefetch(lines_[i].next);
        lines_[i].next += lines_[i].distance;
      }
    if (--steps_left_ != 0) return;
    steps_left_ = steps_a_run_;
    for (Lines& lines : lines_) lines.next += lines.to_next_run;
  }

 private:
  static constexpr int kLine = 64;
  // As many lines as the elements that a step's words are for fill.
  static constexpr int kLinesAStep = (kPhiloxWords * kPhiloxLanes * int(sizeof(T)) + kLine - 1) / kLine;
  // Adjacent rows with strided classes have runs of lines, one for each class; else there is no end of a run.
  struct Lines {
    const char* next;
    std::int64_t distance, to_next_run = 0;
  };

  // Cache lines that contiguous elements take up.
  static GUMBEL_EXT_INLINE std::int64_t line_count(std::int64_t elements) {
    return divide_up(elements * std::int64_t(sizeof(T)), kLine);
  }

  static GUMBEL_EXT_INLINE Lines lines_of(const Rows& tensor, std::int64_t first, std::int64_t rows, std::int64_t begin,
                                          std::int64_t n) {
    if (!tensor) return {reinterpret_cast<const char*>(&tensor), 0};
    const char* start = reinterpret_cast<const char*>(element<T>(tensor, first, begin));
    if (rows == 1 ? tensor.class_stride == 1 : is_dense(tensor, n)) return {start, kLine};
    const std::int64_t stride = tensor.class_stride * std::int64_t(sizeof(T));
    const std::int64_t together = adjacent_rows(tensor, first, rows, rows), lines = line_count(together);
    // The line that a run ends in: the one it begins in was touched with the rows before.
    start += (lines == 1 ? together * std::int64_t(sizeof(T)) : kLine) - 1;
    if (lines == 1) return {start, together > 1 ? stride : 0};
    return {start, kLine, stride - lines * kLine};
  }

  std::int64_t steps_a_run_, steps_left_;
  Lines lines_[kTensors];
};

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
