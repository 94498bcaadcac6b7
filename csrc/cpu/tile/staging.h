// Tensors of any strides in and out of buffers, whose rows are contiguous.
#pragma once

#include "../plan.h"
#include "../simd/convert.h"
#include "../simd/transpose.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
GUMBEL_EXT_INLINE T* element(const Rows& rows, std::int64_t row, std::int64_t cls) {
  return static_cast<T*>(rows.data) + rows.offset(row) + cls * rows.class_stride;
}

// Whether the classes of a row, and the rows, follow each other without a gap.
GUMBEL_EXT_INLINE bool is_dense(const Rows& rows, std::int64_t classes) {
  return rows.class_stride == 1 && (rows.ndim == 0 || (rows.ndim == 1 && rows.stride[0] == classes));
}

// How many of the rows [first, first + rows), at most `limit`, are adjacent in memory while their classes are strided
// (as along dim 1 of an image); else 1.
GUMBEL_EXT_INLINE std::int64_t adjacent_rows(const Rows& tensor, std::int64_t first, std::int64_t rows,
                                             std::int64_t limit) {
  if (tensor.class_stride == 1 || tensor.ndim == 0 || tensor.stride[tensor.ndim - 1] != 1) return 1;
  const std::int64_t size = tensor.size[tensor.ndim - 1], left = size - first % size;
  const std::int64_t run = rows < left ? rows : left;
  return run < limit ? run : limit;
}

// `run` adjacent rows, at most a vector of them, to rows of a buffer and back. Whole vectors of classes are touched in
// the buffer.
template <typename T>
GUMBEL_EXT_INLINE void gather_adjacent(Compute<T>* out, std::int64_t out_stride, const T* in, std::int64_t class_stride,
                                       std::int64_t run, std::int64_t n) {
  using C = Compute<T>;
  for (std::int64_t k = 0; k < n; k += kLanes<C>) {
    Vec<C> block[kLanes<C>] = {};
    for (int i = 0; i < kLanes<C>; ++i)
      if (k + i < n) block[i] = widen_lanes<T>(in + (k + i) * class_stride, run);
    transpose<C>(block);
    for (int j = 0; j < kLanes<C>; ++j)
      if (j < run) store(out + j * out_stride + k, block[j]);
  }
}
template <typename T>
GUMBEL_EXT_INLINE void scatter_adjacent(T* out, std::int64_t class_stride, const Compute<T>* in, std::int64_t in_stride,
                                        std::int64_t run, std::int64_t n) {
  using C = Compute<T>;
  for (std::int64_t k = 0; k < n; k += kLanes<C>) {
    Vec<C> block[kLanes<C>] = {};
    for (int j = 0; j < kLanes<C>; ++j)
      if (j < run) block[j] = load(in + j * in_stride + k);
    transpose<C>(block);
    for (int i = 0; i < kLanes<C>; ++i)
      if (k + i < n) narrow_lanes<T>(out + (k + i) * class_stride, block[i], run);
  }
}

// body(r, run) for the runs of adjacent rows among [first, first + rows), each of at most a vector: row r, counted from
// `first`, and those after it.
template <typename C, typename Body>
GUMBEL_EXT_INLINE void for_each_run(const Rows& tensor, std::int64_t first, std::int64_t rows, Body body) {
  for (std::int64_t r = 0, run = 0; r < rows; r += run) {
    run = adjacent_rows(tensor, first + r, rows - r, kLanes<C>);
    body(r, run);
  }
}

// Whether rows of n classes are best read, and written, in the tensor itself: those that need no conversion, and long
// ones.
template <typename T>
GUMBEL_EXT_INLINE bool stays_in_tensor(const Rows& rows, std::int64_t n) {
  using C = Compute<T>;
  return rows.class_stride == 1 && (std::is_same_v<T, C> || (kConvertsRegisters && n >= kLongVectors * kLanes<C>));
}

// Rows [first, first + rows) x classes [begin, begin + n): pointers into the tensor itself, whose elements are T, if
// they are to stay there, else to rows of C in `staged`.
template <typename T>
GUMBEL_EXT_INLINE void stage_rows(const void** row_pointers, Compute<T>* staged, const Rows& in, std::int64_t first,
                                  std::int64_t rows, std::int64_t begin, std::int64_t n, bool stay) {
  using C = Compute<T>;
  const bool dense = !stay && rows > 1 && is_dense(in, n);
  const std::int64_t stride = dense ? n : padded<C>(n);
  if (dense) convert_row(staged, element<T>(in, first, begin), rows * n);  // short rows: one run of them all
  for (std::int64_t r = 0; r < rows; ++r)
    row_pointers[r] = stay ? static_cast<const void*>(element<T>(in, first + r, begin)) : staged + r * stride;
  if (stay || dense) return;
  for_each_run<C>(in, first, rows, [&](std::int64_t r, std::int64_t run) __attribute__((always_inline)) {
    const T* row = element<T>(in, first + r, begin);
    C* out = staged + r * stride;
    if (run > 1)
      gather_adjacent<T>(out, stride, row, in.class_stride, run, n);
    else if (in.class_stride == 1)
      convert_row(out, row, n);
    else
      for (std::int64_t k = 0; k < n; ++k) out[k] = widen(row[k * in.class_stride]);
  });
}

// Where the results for rows [first, first + rows) x classes [begin, begin + n) go: directly into the tensor where rows
// stay in it, else into `scratch`, as C, until finish(). Results in place of what is read go to `scratch` too where
// rows are short and end in partial vectors: the next row's load would wait for the masked store.
template <typename T>
class RowSink {
  using C = Compute<T>;

 public:
  GUMBEL_EXT_INLINE RowSink(const Rows& out, std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t n,
                            C* scratch, bool in_place)
      : out_(out),
        first_(first),
        rows_(rows),
        begin_(begin),
        n_(n),
        scratch_(scratch),
        direct_(stays_in_tensor<T>(out, n) && !(in_place && n % kLanes<C> != 0 && n < kLongVectors * kLanes<C>)),
        dense_(rows > 1 && is_dense(out, n)),
        stride_(dense_ ? n : padded<C>(n)) {
  }

  // write(to) with a pointer to row r's first element.
  template <typename Write>
  GUMBEL_EXT_INLINE void row(std::int64_t r, Write write) const {
    if (direct_)
      write(element<T>(out_, first_ + r, begin_));
    else
      write(scratch_ + r * stride_);
  }

  GUMBEL_EXT_INLINE void finish() const {
    if (direct_) return;
    if (dense_) {
      convert_row(element<T>(out_, first_, begin_), scratch_, rows_ * n_);
      return;
    }
    for_each_run<C>(out_, first_, rows_, [&](std::int64_t r, std::int64_t run) __attribute__((always_inline)) {
      T* target = element<T>(out_, first_ + r, begin_);
      const C* row = scratch_ + r * stride_;
      if (run > 1)
        scatter_adjacent<T>(target, out_.class_stride, row, stride_, run, n_);
      else if (out_.class_stride == 1)
        convert_row(target, row, n_);
      else
        for (std::int64_t k = 0; k < n_; ++k) narrow(row[k], target[k * out_.class_stride]);
    });
  }

 private:
  const Rows& out_;
  std::int64_t first_, rows_, begin_, n_;
  C* scratch_;
  bool direct_, dense_;
  std::int64_t stride_;
};

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
