// What a device's tensor side asks of its kernel side: plain pointers and sizes. The same on every device.
//
// A row is one categorical variable: the classes along `dim`, at one position of the other dimensions. Rows are
// numbered in C order over those. Long rows are cut into tiles of kTileClasses classes: where a tile ends depends on
// nothing but the class, so that sums have the same order, and values the same bits, however the work is shared out.
#pragma once

#include "portability.h"

namespace gumbel_ext {

constexpr std::int64_t kTileClasses = 2048;
constexpr int kMaxDims = 24;  // few enough for the parameters of a CUDA kernel

enum class Element { kFloat32, kFloat64, kFloat16, kBFloat16 };

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
template <typename T>
using Compute = typename ComputeType<T>::Type;

GUMBEL_EXT_INLINE constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

struct Division {
  std::int64_t quotient, remainder;
};

// a / b, for numbers that are not negative. Most fit 32 bits, whose division takes a fraction of the time.
GUMBEL_EXT_INLINE Division divide(std::int64_t a, std::int64_t b) {
  if ((a | b) >> 32 != 0) return {a / b, a % b};
  const std::uint32_t x = static_cast<std::uint32_t>(a), y = static_cast<std::uint32_t>(b);
  return {x / y, x % y};
}

// A number for each row: the sum of its index times its stride, over the dimensions other than the classes', outermost
// first, merged where possible.
struct RowStrides {
  int ndim = 0;
  std::int64_t size[kMaxDims];
  std::int64_t stride[kMaxDims];

  GUMBEL_EXT_INLINE std::int64_t offset(std::int64_t row) const {
    std::int64_t result = 0;
    GUMBEL_EXT_ROLLED for (int d = ndim - 1; d > 0; --d) {
      const Division division = divide(row, size[d]);
      result += division.remainder * stride[d];
      row = division.quotient;
    }
    return ndim > 0 ? result + row * stride[0] : 0;
  }
};

// Rows of a tensor of any strides; class k of row r is data[offset(r) + k * class_stride].
struct Rows : RowStrides {
  void* data = nullptr;
  std::int64_t class_stride = 0;

  GUMBEL_EXT_INLINE explicit operator bool() const {
    return data != nullptr;
  }
};

// The state of a generator while a CUDA graph is captured: known only when the graph runs. The seed of a call is
// generator_seed(*seed, *offset + offset_in_graph).
struct CapturedState {
  const std::int64_t* seed = nullptr;
  const std::int64_t* offset = nullptr;
  std::uint64_t offset_in_graph = 0;
};

// How the noise numbers rows and classes: as they lie, or, of a part of a larger whole, as they are numbered there.
struct Numbers {
  bool rows_in_order = true;
  std::int64_t first_row = 0, first_class = 0;
  RowStrides strides;

  GUMBEL_EXT_INLINE std::uint64_t row(std::int64_t row) const {
    return static_cast<std::uint64_t>(rows_in_order ? row : first_row + strides.offset(row));
  }
};

// Where the noise comes from: one seed (or where the device holds it, or a captured state) and the rows' numbers, or a
// seed for each row, all of which then have number 0. Class k is class first_class + k of the noise.
struct Noise {
  bool on = false;
  std::uint64_t seed = 0;
  const std::int64_t* held_seed = nullptr;
  const std::int64_t* row_seeds = nullptr;
  CapturedState captured;
  Numbers numbers;

  GUMBEL_EXT_INLINE std::uint64_t counter_row(std::int64_t row) const {
    return row_seeds ? 0 : numbers.row(row);
  }
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
  GUMBEL_EXT_INLINE std::int64_t tiles() const {
    return divide_up(classes, kTileClasses);
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
  Rows relaxed;             // softmax(scores / tau), or none
  Rows one_hot;             // one_hot(argmax(scores)), or none
  bool logarithms = false;  // whether `relaxed` is log_softmax(scores / tau)
};

struct IndexJob {
  Scores scores;
  RowScalar temperature;  // divides the logits before the noise; 0: neither division nor noise
  std::int64_t draws = 1;
  std::int64_t* out = nullptr;   // [rows][draws]
  bool marks = false;            // of a row without a softmax, `out` is the index's complement
  double* scores_out = nullptr;  // [rows][draws] the best scores, where quotients may have left the range; or none
  double* statistics = nullptr;  // RowStatistics (core/log_prob.h) of softmax(logits / temperature), one a row, or none
};

// log softmax(logits / temperature)[index], and that softmax's entropy, in the working precision.
struct LogProbJob {
  Shape shape;
  Rows logits;
  Rows mask;  // of bool, or none
  RowScalar temperature;
  std::int64_t draws = 1;
  const std::int64_t* index = nullptr;  // [rows][draws]; in backward, classes that are not in the row lie elsewhere
  const double* statistics = nullptr;   // as IndexJob has them
  void* log_prob = nullptr;             // [rows][draws]
  void* entropy = nullptr;              // one a row
};

// A class that draws of a row have hit, and the sum of their gradients.
struct DrawnClass {
  std::int64_t index;
  double weight;
};

struct LogProbBackwardJob {
  LogProbJob forward;
  const void* grad_log_prob = nullptr;  // [rows][draws], in the working precision, or none
  const void* grad_entropy = nullptr;   // one a row, or none
  Rows grad_logits;
  double* grad_temperature = nullptr;  // one a row, or none
};

// one_hot(index); NaN along rows that are marked.
struct OneHotJob {
  Shape shape;
  const std::int64_t* index = nullptr;  // one a row, as IndexJob marks it
  Rows out;
};

// The k best classes of logits / temperature + noise, the best first.
struct TopClassesJob {
  Scores scores;
  RowScalar temperature;          // as IndexJob has it
  std::int64_t k = 1;             // at most the number of classes
  std::int64_t* index = nullptr;  // [rows][k]
  // [rows][k], in the working precision: their scores less the row's largest logit / temperature. At temperature 0, 0
  // for the first class and -infinity for the others; of a row without a softmax, NaN. If not `relative`, the scores as
  // they are, infinite where a low temperature takes them out of range.
  void* found = nullptr;
  double* statistics = nullptr;  // as IndexJob has them
  bool relative = true;
};

struct NoiseJob {
  Shape shape;
  Noise noise;
  std::uint32_t draw = 0;
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

// Which gradient a one-hot sample has (core/estimator.h).
enum class Estimator : std::int64_t { kGumbel, kSoftmax, kReinmax, kRao };

// Whether its gradient takes the noise of the draw.
GUMBEL_EXT_INLINE constexpr bool takes_noise(Estimator estimator) {
  return estimator == Estimator::kGumbel || estimator == Estimator::kRao;
}

// The gradients of one_hot(index), index = argmax(logits / temperature + noise), by an estimator.
struct EstimateJob {
  Scores scores;  // with the noise of the draw
  RowScalar temperature, tau;
  Estimator estimator = Estimator::kGumbel;
  std::int64_t num_noises = 1;          // of kRao
  const std::int64_t* index = nullptr;  // one a row, as IndexJob marks it
  Rows grad;                            // with respect to the one-hot rows
  Rows grad_logits;
  double* grad_temperature = nullptr;  // one a row, or none
  double* grad_tau = nullptr;          // one a row, or none
};

struct TopKJob {
  Scores scores;
  RowScalar tau;
  std::int64_t k = 1;  // at most the number of classes
  bool hard = false;
  Rows value;  // the sum of k chained softmaxes of the scores (core/top_k.h); hard: 1 where the k largest scores are
  Rows kept;   // the scores, in the working precision
};

struct TopKBackwardJob {
  Shape shape;
  RowScalar tau;
  std::int64_t k = 1;
  Rows grad;    // with respect to the relaxed value
  Rows scores;  // in the working precision
  Rows grad_logits;
  double* grad_tau = nullptr;  // one a row, or none
};

GUMBEL_EXT_INLINE Noise& noise_of(NoiseJob& job) {
  return job.noise;
}
template <typename Job>
GUMBEL_EXT_INLINE Noise& noise_of(Job& job) {
  return job.scores.noise;
}

// One tile of one row, after the first pass over it; or all the row's tiles, combined.
struct TileStats {
  double max;      // of the scores; NaN where the tile holds one
  double sum;      // forward: of the exponentials relative to max; backward: of p * grad * kGradientScale
  double tau_sum;  // backward: of the classes' tau_gradient_term
  std::int64_t argmax;
};

}  // namespace gumbel_ext
