// Vectors folded to single numbers. The order is always the same, so that the bits are.
#pragma once

#include <utility>

#include "../../core/fold.h"
#include "vec.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// The lanes folded in halves, to a single one.
template <typename C, int kCount = kLanes<C>, typename Fold>
GUMBEL_EXT_INLINE C fold_lanes(const C* lanes, Fold fold) {
  if constexpr (kCount == 1) {
    return lanes[0];
  } else {
    typedef C Half __attribute__((vector_size(kCount / 2 * sizeof(C))));
    Half low, high;
    __builtin_memcpy(&low, lanes, sizeof low);
    __builtin_memcpy(&high, lanes + kCount / 2, sizeof high);
    const Half folded = fold(low, high);
    C next[kCount / 2];
    __builtin_memcpy(next, &folded, sizeof folded);
    return fold_lanes<C, kCount / 2>(next, fold);
  }
}

template <typename C, typename Fold>
GUMBEL_EXT_INLINE C fold_vector(Vec<C> v, Fold fold) {
  C lanes[kLanes<C>];
  store(lanes, v);
  return fold_lanes(lanes, fold);
}

// The larger of two registers' numbers, lane by lane; of NaN, NaN where kLargerKeepsNan, else the second.
#if defined(GUMBEL_EXT_NEON)
constexpr bool kLargerKeepsNan = true;
GUMBEL_EXT_INLINE Part<Vec<float>> larger(Part<Vec<float>> a, Part<Vec<float>> b) {
  return (Part<Vec<float>>)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
}
GUMBEL_EXT_INLINE Part<Vec<double>> larger(Part<Vec<double>> a, Part<Vec<double>> b) {
  return (Part<Vec<double>>)vmaxq_f64((float64x2_t)a, (float64x2_t)b);
}
#else
constexpr bool kLargerKeepsNan = false;
template <typename V>
GUMBEL_EXT_INLINE V larger(V a, V b) {
  return Larger()(a, b);
}
#endif

// The maximum of the scores that each lane has taken, and which lanes took NaN, if the maximum does not say so.
template <typename C>
struct RunningMax {
  Vec<C> max = broadcast(-C(__builtin_inff()));
  VecMask<C> nan = {};

  GUMBEL_EXT_INLINE void take(const Vec<C>& scores) {
    max = by_parts<Vec<C>>([](auto a, auto b) __attribute__((always_inline)) { return larger(a, b); }, scores, max);
    if constexpr (!kLargerKeepsNan) nan |= is_nan<C>(scores);
  }
  GUMBEL_EXT_INLINE void take(const RunningMax& other) {
    take(other.max);
    nan |= other.nan;
  }
};

// The maximum of all lanes; NaN where there is one.
template <typename C>
GUMBEL_EXT_INLINE C row_max(const RunningMax<C>& lanes) {
  const bool has_nan = any_lane<C>(kLargerKeepsNan ? is_nan<C>(lanes.max) : lanes.nan);
  return has_nan ? C(__builtin_nanf("")) : fold_vector<C>(lanes.max, Larger());
}

// Rows whose vectors are folded together.
template <typename C>
constexpr int kFoldedRows = kLanes<C> / 2;

#if defined(__AVX2__)
// `vectors` hold 2 * kWidth lanes of each row, row after row; in the end, one.
template <int kWidth, typename Half, typename Fold, int... kLane>
GUMBEL_EXT_INLINE void fold_rows_halves(Half* vectors, Fold fold, std::integer_sequence<int, kLane...> lanes) {
  for (int i = 0; i < kWidth; ++i) {
    const Half a = vectors[2 * i], b = vectors[2 * i + 1];
    vectors[i] = fold(__builtin_shufflevector(a, b, (kLane / kWidth * 2 * kWidth + kLane % kWidth)...),
                      __builtin_shufflevector(a, b, (kLane / kWidth * 2 * kWidth + kLane % kWidth + kWidth)...));
  }
  if constexpr (kWidth > 1) fold_rows_halves<kWidth / 2>(vectors, fold, lanes);
}
#endif

// out[r] is what fold_vector makes of rows[r], for kFoldedRows<C> rows at once.
template <typename C, typename Fold>
GUMBEL_EXT_INLINE void fold_rows(C* out, const Vec<C>* rows, Fold fold) {
  constexpr int kRows = kFoldedRows<C>;
#if defined(__AVX2__)
  typedef C Half __attribute__((vector_size(kVecBytes / 2)));
  Half vectors[kRows];
  for (int r = 0; r < kRows; ++r) {
    Half halves[2];
    __builtin_memcpy(halves, rows + r, sizeof halves);
    vectors[r] = fold(halves[0], halves[1]);
  }
  fold_rows_halves<kRows / 2>(vectors, fold, std::make_integer_sequence<int, kRows>());
  __builtin_memcpy(out, vectors, sizeof *vectors);
#else
  for (int r = 0; r < kRows; ++r) {
    out[r] = fold_vector<C>(rows[r], fold);
  }
#endif
}

// A double for each lane of a vector of C.
template <typename C>
struct LaneSums {
  static constexpr int kParts = kLanes<C> / kLanes<double>;
  Vec<double> part[kParts] = {};

  LaneSums() = default;
  GUMBEL_EXT_INLINE explicit LaneSums(const Vec<C>& v) {
    if constexpr (std::is_same_v<C, double>) {
      part[0] = v;
    } else {
      typedef float Half __attribute__((vector_size(kVecBytes / 2)));
      Half halves[kParts];
      __builtin_memcpy(halves, &v, sizeof v);
#if defined(__AVX512F__)  // (GCC 12 makes four instructions of a __builtin_convertvector.)
      for (int i = 0; i < kParts; ++i) part[i] = (Vec<double>)_mm512_cvtps_pd((__m256)halves[i]);
#else
      for (int i = 0; i < kParts; ++i) part[i] = __builtin_convertvector(halves[i], Vec<double>);
#endif
    }
  }
  GUMBEL_EXT_INLINE LaneSums& operator+=(const LaneSums& other) {
    for (int i = 0; i < kParts; ++i) part[i] += other.part[i];
    return *this;
  }
  GUMBEL_EXT_INLINE void store(double* out) const {
    __builtin_memcpy(out, part, sizeof part);
  }
};

// The lanes in double, float's upper half added to its lower one.
template <typename C>
GUMBEL_EXT_INLINE Vec<double> to_double(const Vec<C>& v) {
  const LaneSums<C> lanes(v);
  Vec<double> sum = lanes.part[0];
  for (int i = 1; i < lanes.kParts; ++i) sum += lanes.part[i];
  return sum;
}

// term(0) + ... + term(chunks - 1), of at most kRun vectors of the working precision.
constexpr int kRun = 8;
template <typename C, typename Term>
GUMBEL_EXT_INLINE Vec<C> sum_run(std::int64_t chunks, Term term) {
  if (chunks == kRun) return ((term(0) + term(1)) + (term(2) + term(3))) + ((term(4) + term(5)) + (term(6) + term(7)));
  Vec<C> run = {};
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) run += term(chunk);
  return run;
}

// Sum of term(0) .. term(chunks - 1), vectors of the working precision: runs of them, then on in double, so that
// the rounding error stays at a few units however many there are. term's second argument says whether its chunk may be
// the last one.
template <typename C, typename Term>
GUMBEL_EXT_INLINE double sum_chunks(std::int64_t chunks, Term term) {
  Vec<double> total = {};
  std::int64_t first = 0;
  for (; first + kRun < chunks; first += kRun)
    total += to_double<C>(sum_run<C>(kRun, [&](std::int64_t chunk) __attribute__((always_inline)) {
      return term(first + chunk, Constant<false>());
    }));
  total += to_double<C>(sum_run<C>(chunks - first, [&](std::int64_t chunk) __attribute__((always_inline)) {
    return term(first + chunk, Constant<true>());
  }));
  return fold_vector<double>(total, Plus());
}

// give(r, the sum of term(r, 0) .. term(r, chunks - 1)) for every row; short rows several at once, to the same bits.
template <typename C, typename Term, typename Give>
GUMBEL_EXT_INLINE void sum_rows(std::int64_t rows, std::int64_t chunks, Term term, Give give) {
  constexpr int kBlock = kFoldedRows<double>;
  std::int64_t r = 0;
  for (; chunks <= kRun && r + kBlock <= rows; r += kBlock) {
    Vec<double> totals[kBlock] = {};
    for (int i = 0; i < kBlock; ++i)
      totals[i] += to_double<C>(sum_run<C>(chunks, [&](std::int64_t chunk) __attribute__((always_inline)) {
        return term(r + i, chunk, Constant<true>());
      }));
    double sums[kBlock];
    fold_rows<double>(sums, totals, Plus());
    for (int i = 0; i < kBlock; ++i) give(r + i, sums[i]);
  }
  for (; r < rows; ++r)
    give(r, sum_chunks<C>(chunks, [&](std::int64_t chunk, auto may_be_last)
                                      __attribute__((always_inline)) { return term(r, chunk, may_be_last); }));
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
