// Tensors of any strides in and out of buffers whose rows lie one after the other.
#pragma once

#include <utility>

#include "convert.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
GUMBEL_EXT_INLINE T* element(const Rows& rows, std::int64_t row, std::int64_t cls) {
  return static_cast<T*>(rows.data) + rows.offset(row) + cls * rows.class_stride;
}

// Whether the classes of a row, and one row after the other, lie side by side.
GUMBEL_EXT_INLINE bool is_dense(const Rows& rows, std::int64_t classes) {
  return rows.class_stride == 1 && (rows.ndim == 0 || (rows.ndim == 1 && rows.stride[0] == classes));
}

// How many of the rows [first, first + rows), at most `limit`, follow each other in memory while their
// classes lie apart (as along dim 1 of an image).
GUMBEL_EXT_INLINE std::int64_t neighbours(const Rows& tensor, std::int64_t first, std::int64_t rows,
                                          std::int64_t limit) {
  if (tensor.class_stride == 1 || tensor.ndim == 0 || tensor.stride[tensor.ndim - 1] != 1) return 1;
  const std::int64_t size = tensor.size[tensor.ndim - 1], left = size - first % size;
  const std::int64_t run = rows < left ? rows : left;
  return run < limit ? run : limit;
}

// block[i][j] becomes block[j][i]: interleaving the halves as often as it takes.
template <typename V, int kCount, int... kLane>
GUMBEL_EXT_INLINE void transpose(V (&block)[kCount], std::integer_sequence<int, kLane...>) {
  for (int width = 1; width < kCount; width *= 2) {
    V next[kCount];
    for (int i = 0; i < kCount / 2; ++i) {
      const V a = block[i], b = block[i + kCount / 2];
      next[2 * i] = __builtin_shufflevector(a, b, (kLane / 2 + kLane % 2 * kCount)...);
      next[2 * i + 1] = __builtin_shufflevector(a, b, (kCount / 2 + kLane / 2 + kLane % 2 * kCount)...);
    }
    for (int i = 0; i < kCount; ++i) block[i] = next[i];
  }
}
template <typename C>
GUMBEL_EXT_INLINE void transpose(Vec<C> (&block)[kLanes<C>]) {
  constexpr int kCount = kLanes<C>;
#if defined(__AVX512F__)
  transpose(block, std::make_integer_sequence<int, kCount>());
#elif defined(__AVX2__)
  typedef C Half __attribute__((vector_size(kVecBytes / 2)));
  Half in[kCount][2], out[kCount][2];
  __builtin_memcpy(in, block, sizeof in);
  for (int row = 0; row < 2; ++row)
    for (int column = 0; column < 2; ++column) {
      Half quarter[kCount / 2];
      for (int i = 0; i < kCount / 2; ++i) quarter[i] = in[row * kCount / 2 + i][column];
      transpose(quarter, std::make_integer_sequence<int, kCount / 2>());
      for (int i = 0; i < kCount / 2; ++i) out[column * kCount / 2 + i][row] = quarter[i];
    }
  __builtin_memcpy(block, out, sizeof out);
#else
  C in[kCount][kCount], out[kCount][kCount];
  __builtin_memcpy(in, block, sizeof in);
  for (int i = 0; i < kCount; ++i)
    for (int j = 0; j < kCount; ++j) out[j][i] = in[i][j];
  __builtin_memcpy(block, out, sizeof out);
#endif
}

// `run` neighbouring rows, at most a vector of them, to rows of a buffer and back. Whole vectors of classes
// are touched in the buffer.
template <typename T>
GUMBEL_EXT_INLINE void gather_neighbours(Compute<T>* out, std::int64_t out_stride, const T* in,
                                         std::int64_t class_stride, std::int64_t run, std::int64_t n) {
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
GUMBEL_EXT_INLINE void scatter_neighbours(T* out, std::int64_t class_stride, const Compute<T>* in,
                                          std::int64_t in_stride, std::int64_t run, std::int64_t n) {
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

// Rows so short that what is done once a row weighs as much as what is done to its classes.
constexpr int kShortVectors = 4;
// Rows so long that what is done once a row hardly weighs.
constexpr int kLongVectors = 8;

// Whether rows of n classes are best read, and written, where they lie.
template <typename T>
GUMBEL_EXT_INLINE bool stays(const Rows& rows, std::int64_t n) {
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
  for (std::int64_t r = 0, run = 0; r < rows; r += run) {
    const T* row = element<T>(in, first + r, begin);
    C* out = staged + r * stride;
    run = neighbours(in, first + r, rows - r, kLanes<C>);
    if (run > 1)
      gather_neighbours<T>(out, stride, row, in.class_stride, run, n);
    else if (in.class_stride == 1)
      convert_row(out, row, n);
    else
      for (std::int64_t k = 0; k < n; ++k) out[k] = widen(row[k * in.class_stride]);
  }
}

// Where the results for rows [first, first + rows) x classes [begin, begin + n) go: n elements of T in the tensor
// itself where it can hold them so, else n of C in `scratch` until finish(). In place of what is read, rows of partial
// vectors wait for finish() too, unless they are long: a processor takes the store of such a vector for one of the
// whole, which holds up the next row's load.
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
        direct_(stays<T>(out, n) && !(in_place && n % kLanes<C> != 0 && n < kLongVectors * kLanes<C>)),
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
    for (std::int64_t r = 0, run = 0; r < rows_; r += run) {
      T* target = element<T>(out_, first_ + r, begin_);
      const C* row = scratch_ + r * stride_;
      run = neighbours(out_, first_ + r, rows_ - r, kLanes<C>);
      if (run > 1)
        scatter_neighbours<T>(target, out_.class_stride, row, stride_, run, n_);
      else if (out_.class_stride == 1)
        convert_row(target, row, n_);
      else
        for (std::int64_t k = 0; k < n_; ++k) narrow(row[k], target[k * out_.class_stride]);
    }
  }

 private:
  const Rows& out_;
  std::int64_t first_, rows_, begin_, n_;
  C* scratch_;
  bool direct_, dense_;
  std::int64_t stride_;
};

// n classes side by side: `hot` holds 1, or none does where it is -1, the others `filler`.
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
  constexpr std::int64_t kBlock = kVecBytes / sizeof(T);
  T block[kBlock];
  for (T& element : block) narrow(filler, element);
  std::int64_t k = 0;
  for (; k + kBlock <= n; k += kBlock) __builtin_memcpy(out + k, block, sizeof block);
  for (; k < n; ++k) out[k] = block[0];
  if (hot >= 0) narrow(C(1), out[hot]);
}

// A vector of neighbouring rows.
template <typename T>
GUMBEL_EXT_INLINE void write_hot_neighbours(T* out, std::int64_t class_stride, std::int64_t n, const std::int64_t* hot,
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
  for (std::int64_t r = 0, run = 0; r < rows; r += run) {
    T* target = element<T>(out, first + r, begin);
    run = neighbours(out, first + r, rows - r, kLanes<C>);
    if (out.class_stride == 1) {
      write_hot_row(target, n, hot[r], filler[r]);
    } else if (run == kLanes<C>) {
      write_hot_neighbours<T>(target, out.class_stride, n, hot + r, filler + r);
    } else {
      for (std::int64_t k = 0; k < n; ++k)
        for (std::int64_t j = 0; j < run; ++j)
          narrow(k == hot[r + j] ? C(1) : filler[r + j], target[k * out.class_stride + j]);
    }
  }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
