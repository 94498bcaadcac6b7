// What the tensor side (ops.cpp) asks of the kernel side (kernels.cpp): plain pointers and sizes.
//
// A row is one categorical variable: the classes along `dim`, at one position of the other
// dimensions. Rows are numbered in C order over those. Work is cut into
//   groups  of consecutive rows, handled together so that short rows fill whole vectors, and
//   tiles   of kTileClasses classes; where a tile ends depends on nothing but the class, so that sums
//           have the same order, and values the same bits, however the work is shared out.
#pragma once

#include "../core/portability.h"

namespace gumbel_ext::cpu {

constexpr std::int64_t kTileClasses = 2048;
constexpr int kMaxDims = 64;

struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

// Arithmetic is in float for the 16-bit types.
template <typename T>
struct ComputeType {
  using Type = float;
};
template <>
struct ComputeType<double> {
  using Type = double;
};

// Rows of a tensor of any strides; class k of row r is data[offset(r) + k * class_stride].
struct Rows {
  void* data = nullptr;
  std::int64_t class_stride = 0;
  int ndim = 0;  // of the dimensions other than the classes', outermost first, merged where possible
  std::int64_t size[kMaxDims];
  std::int64_t stride[kMaxDims];

  GUMBEL_EXT_INLINE explicit operator bool() const {
    return data != nullptr;
  }
  GUMBEL_EXT_INLINE std::int64_t offset(std::int64_t row) const {
    std::int64_t result = 0;
    for (int d = ndim - 1; d > 0; --d) {
      result += row % size[d] * stride[d];
      row /= size[d];
    }
    return ndim > 0 ? result + row * stride[0] : 0;
  }
};

// Where the noise comes from: one seed and the row's number, or a seed for each row (and row 0).
struct Noise {
  bool on = false;
  std::uint64_t seed = 0;
  const std::int64_t* row_seeds = nullptr;
};

// A positive number for all rows, or one for each.
struct RowScalar {
  double value = 1;
  const double* rows = nullptr;
  GUMBEL_EXT_INLINE double operator[](std::int64_t row) const {
    return rows ? rows[row] : value;
  }
};

struct Shape {
  std::int64_t rows = 0;
  std::int64_t classes = 0;
  std::int64_t group_rows = 1;
  GUMBEL_EXT_INLINE std::int64_t tiles() const {
    return (classes + kTileClasses - 1) / kTileClasses;
  }
};

// What a class scores before the softmax or the argmax: logits (masked) + noise.
struct Scores {
  Shape shape;
  Rows logits;
  Rows mask;  // of bool, or none
  Noise noise;
};

struct ForwardJob {
  Scores scores;
  RowScalar tau;
  Rows relaxed;  // softmax(scores / tau), or none
  Rows one_hot;  // one_hot(argmax(scores)), or none
};

struct IndexJob {
  Scores scores;
  RowScalar temperature;  // divides the logits before the noise; 0: neither division nor noise
  std::int64_t draws = 1;
  double shift = 0;  // is subtracted from the logits first; see schedule.cpp
};

struct NoiseJob {
  Shape shape;
  Noise noise;
  Rows out;
};

struct BackwardJob {
  Shape shape;
  RowScalar tau;
  Rows grad;     // with respect to the output
  Rows relaxed;  // p
  Rows grad_logits;
  double* grad_tau = nullptr;  // one a row, or none
};

// One tile of one row, after the first pass over it.
struct TileStats {
  double max;      // of the scores; NaN where the tile holds one
  double sum;      // forward: of the exponentials relative to max; backward: of p * grad
  double log_sum;  // backward: of p * (grad - sum) * log(p)
  std::int64_t argmax;
};

// The best class so far.
struct Best {
  double score;  // NaN is the largest
  std::int64_t index;
};

// Memory that one thread works in, of the kernels' workspace_bytes; workspace.h lays it out.
using Workspace = void*;

// What the passes over the tiles of one group share.
struct GroupState {
  std::int64_t first_row;
  std::int64_t rows;
  TileStats* stats;  // [tiles][rows]
  void* row_buffer;  // of the working precision, [rows][tiles * kTileClasses]; where tiles > 1
};

// The kernels of one element type. Forward and backward: first every tile of a group, then, where
// `tiles() > 1`, the finish of every tile; a group of one tile is done after the first call.
struct ElementKernels {
  std::int64_t compute_bytes;  // of one number in the working precision
  std::int64_t (*workspace_bytes)(const Shape&);
  void (*forward_tile)(const ForwardJob&, const GroupState&, std::int64_t tile, Workspace);
  void (*forward_finish)(const ForwardJob&, const GroupState&, std::int64_t tile, Workspace);
  // Draws [first_draw, first_draw + draws) over tiles [tile_begin, tile_end); best: [rows][draws].
  void (*index_tiles)(const IndexJob&, const GroupState&, std::int64_t first_draw, std::int64_t draws,
                      std::int64_t tile_begin, std::int64_t tile_end, Best* best, Workspace);
  void (*one_hot_tile)(const ForwardJob&, const GroupState&, std::int64_t tile, const Best* best, Workspace);
  void (*noise_tile)(const NoiseJob&, const GroupState&, std::int64_t tile, Workspace);
  void (*backward_tile)(const BackwardJob&, const GroupState&, std::int64_t tile, Workspace);
  void (*backward_finish)(const BackwardJob&, const GroupState&, std::int64_t tile, Workspace);
};

struct KernelTable {
  const char* isa;
  ElementKernels float32, float64, float16, bfloat16;
};

}  // namespace gumbel_ext::cpu
