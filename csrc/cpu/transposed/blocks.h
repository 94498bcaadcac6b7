// Transposed blocks: kRows rows, whole vectors of them, a row in each lane. What folds the lanes of a row's vectors in
// rows/ is arithmetic between vectors here, in the same order and so to the same bits.
//
// A block's buffers are [class][row]: class k of row j is at k * kRows + j.
#pragma once

#include "../tile/scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

static_assert(kMostBlockRows == kBlockVectors * kLanes<float>);

// The runs of adjacent rows in a block with strided classes: one, or, where the block crosses from one position of an
// outer dimension to the next, several, of which none crosses a vector's end.
template <typename T, int kRows>
struct BlockRuns {
  static constexpr int kLane = kLanes<Compute<T>>;
  struct Run {
    T* first_lane;  // where the vector's first lane would be
    std::int64_t vector, lane, rows;
  };
  Run run[kRows];
  int count = 0;

  GUMBEL_EXT_INLINE BlockRuns(const Rows& tensor, const Tile& tile) {
    const bool together = adjacent_rows(tensor, tile.first_row, kRows, kRows) == kRows;
    for (std::int64_t row = 0; row < kRows; row += run[count++].rows) {
      const std::int64_t lane = row % kLane, most = together ? kRows : kLane - lane;
      run[count] = {element<T>(tensor, tile.first_row + row, tile.begin) - lane, row - lane, lane,
                    adjacent_rows(tensor, tile.first_row + row, most, most)};
    }
  }
};

// op(k, count) for every kStep of n; count is a constant where it is kStep.
template <int kStep, typename Op>
GUMBEL_EXT_INLINE void for_each_step(std::int64_t n, Op op) {
  std::int64_t k = 0;
  for (; k + kStep <= n; k += kStep) op(k, Constant<kStep>());
  if (k < n) op(k, static_cast<int>(n - k));
}

// out[class][row] for the tile.
template <int kRows, typename C, typename T>
GUMBEL_EXT_INLINE void load_block(C* out, const Rows& in, const Tile& tile) {
  constexpr int kLane = kLanes<C>;
  if (in.class_stride == 1) {
    for (int first = 0; first < kRows; first += kLane) {
      const T* row[kLane];
      for (int j = 0; j < kLane; ++j) row[j] = element<T>(in, tile.first_row + first + j, tile.begin);
      for_each_step<kLane>(tile.width, [&](std::int64_t k, auto count) __attribute__((always_inline)) {
        Vec<C> block[kLane];
        for (int j = 0; j < kLane; ++j) block[j] = widen_lanes<T>(row[j] + k, count);
        transpose<C>(block);
        for (int i = 0; i < count; ++i) store(out + (k + i) * kRows + first, block[i]);
      });
    }
    return;
  }
  const BlockRuns<T, kRows> runs(in, tile);
  if (runs.count == 1) {
    const T* row = runs.run[0].first_lane;
    for (std::int64_t k = 0; k < tile.width; ++k, row += in.class_stride)
#pragma GCC unroll 8
      for (int j = 0; j < kRows; j += kLane) store(out + k * kRows + j, widen_lanes<T>(row + j, kLane));
    return;
  }
  for (std::int64_t k = 0; k < tile.width; ++k)
    for (int i = 0; i < runs.count; ++i) {
      const auto& run = runs.run[i];
      C* target = out + k * kRows + run.vector;
      const Vec<C> v = widen_lanes<T>(run.first_lane + k * in.class_stride, run.rows, run.lane);
      store(target, run.lane == 0 ? v : unite<C>(load(target), v));
    }
}

// Class k of the tile's rows from j on becomes value(k, j), a vector.
template <int kRows, typename T, typename Value>
GUMBEL_EXT_INLINE void store_block(const Rows& out, const Tile& tile, Value value) {
  using C = Compute<T>;
  constexpr int kLane = kLanes<C>;
  if (out.class_stride == 1) {
    for (int first = 0; first < kRows; first += kLane) {
      T* row[kLane];
      for (int j = 0; j < kLane; ++j) row[j] = element<T>(out, tile.first_row + first + j, tile.begin);
      for_each_step<kLane>(tile.width, [&](std::int64_t k, auto count) __attribute__((always_inline)) {
        Vec<C> block[kLane] = {};
        for (int i = 0; i < count; ++i) block[i] = value(k + i, first);
        transpose<C>(block);
        for (int j = 0; j < kLane; ++j) narrow_lanes<T>(row[j] + k, block[j], count);
      });
    }
    return;
  }
  const BlockRuns<T, kRows> runs(out, tile);
  if (runs.count == 1) {
    T* row = runs.run[0].first_lane;
    for (std::int64_t k = 0; k < tile.width; ++k, row += out.class_stride)
#pragma GCC unroll 8
      for (int j = 0; j < kRows; j += kLane) narrow_lanes<T>(row + j, value(k, j), kLane);
    return;
  }
  for (std::int64_t k = 0; k < tile.width; ++k)
    for (int i = 0; i < runs.count; ++i) {
      const auto& run = runs.run[i];
      narrow_lanes<T>(run.first_lane + k * out.class_stride, value(k, run.vector), run.rows, run.lane);
    }
}

// What sum_chunks makes of the row in each lane, of classes term(0) .. term(n - 1).
template <typename C, typename Term>
GUMBEL_EXT_INLINE LaneSums<C> sum_each_lane(std::int64_t n, Term term) {
  constexpr int kChunk = kLanes<C>, kTotals = kLanes<double>;
  LaneSums<C> total[kTotals];
  for_each_step<kRun * kChunk>(n, [&](std::int64_t first, auto count) __attribute__((always_inline)) {
    const auto sum_of = [&](int in_chunk) __attribute__((always_inline)) {
      return LaneSums<C>(sum_run<C>(divide_up(count, kChunk), [&](std::int64_t chunk) __attribute__((always_inline)) {
        const int k = static_cast<int>(chunk) * kChunk + in_chunk;
        return k < count ? term(first + k) : Vec<C>{};
      }));
    };
    for (int lane = 0; lane < kTotals; ++lane) {
      LaneSums<C> run = sum_of(lane);
      if constexpr (kChunk > kTotals) run += sum_of(lane + kTotals);
      total[lane] += run;
    }
  });
  for (int half = kTotals / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) total[lane] += total[lane + half];
  return total[0];
}

// Every lane's maximum but NaN, the first class that has it, and which lanes met NaN.
template <typename C>
class RunningBest {
 public:
  GUMBEL_EXT_INLINE RunningBest() {
    for (int i = 0; i < kParts; ++i) {
      max_[i] = -C(__builtin_inff()) - Part<Vec<C>>{};
      argmax_[i] = nan_[i] = Part<VecMask<C>>{};
    }
  }
  GUMBEL_EXT_INLINE void take(const Vec<C>& scores, std::int64_t cls) {
    for (int i = 0; i < kParts; ++i) {
      const Part<Vec<C>> v = part_of(scores, i * kRegisterBytes);
      const auto larger = v > max_[i];
      max_[i] = larger ? v : max_[i];
      argmax_[i] = larger ? static_cast<Lane<C>>(cls) - Part<VecMask<C>>{} : argmax_[i];
      nan_[i] |= v != v;
    }
  }
  // The maxima, NaN where there is one; and the classes.
  GUMBEL_EXT_INLINE void store(C* max, Lane<C>* argmax) const {
    for (int i = 0; i < kParts; ++i) {
      const Part<Vec<C>> v = nan_[i] ? C(__builtin_nanf("")) - Part<Vec<C>>{} : max_[i];
      __builtin_memcpy(max + i * kPartLanes<C>, &v, sizeof v);
    }
    __builtin_memcpy(argmax, argmax_, sizeof argmax_);
  }

 private:
  static constexpr int kParts = kVecBytes / kRegisterBytes;
  Part<Vec<C>> max_[kParts];
  Part<VecMask<C>> argmax_[kParts], nan_[kParts];
};

// Hands the tile's rows to op(block, rows), in blocks of as many rows as the constant `rows` says, for as long as they
// fill vectors; returns the others. Where the classes of `tensor` are strided, wide blocks lie within a run of adjacent
// rows, and single vectors cross from one to the next.
template <typename C, typename Op>
GUMBEL_EXT_INLINE Tile for_each_block(Tile tile, const Rows& tensor, Op op) {
  constexpr int kVector = kLanes<C>, kWide = kBlockVectors * kVector;
  const auto next = [&](auto rows) __attribute__((always_inline)) {
    op(tile.some_rows(0, rows), rows);
    tile = tile.some_rows(rows, tile.rows - rows);
  };
  while (tile.rows >= kVector) {
    if (adjacent_rows(tensor, tile.first_row, tile.rows, kWide) == kWide)
      next(Constant<kWide>());
    else
      next(Constant<kVector>());
  }
  return tile;
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
