// What the forward operators take, as one value.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace gumbel_ext {

using OptionalTensor = std::optional<at::Tensor>;
using OptionalSeed = std::optional<c10::SymInt>;  // a compiler may leave it open
using OptionalGenerator = std::optional<at::Generator>;
// How the noise numbers rows that are part of a larger whole: the first row's number and, for each dimension, what a
// step along it adds (along `dim`, nothing); {}: in C order from 0.
using OptionalNumbers = at::OptionalSymIntArrayRef;

struct Arguments {
  const at::Tensor& logits;
  const OptionalTensor& mask;
  double tau;                      // of the index: its temperature
  const OptionalTensor& tau_rows;  // instead of `tau`
  bool noise;                      // whether there is any
  const OptionalSeed& seed;
  const OptionalTensor& row_seeds;  // instead of `seed`
  const OptionalGenerator& generator;
  std::int64_t dim;
  OptionalNumbers numbers;
  std::int64_t call;  // see number_of_call()
};

// What the gradient of a sample takes besides its index.
struct EstimatorArguments {
  const at::Tensor& logits;
  const OptionalTensor& mask;
  double temperature;
  const OptionalTensor& temperature_rows;
  double tau;
  const OptionalTensor& tau_rows;
  const at::Tensor& index;     // one a row; of a row without a softmax, the complement
  const OptionalTensor& seed;  // of no dimensions; where noise is made again
  const OptionalTensor& row_seeds;
  std::int64_t estimator;  // an Estimator
  std::int64_t num_noises;
  std::int64_t dim;
  OptionalNumbers numbers;
  bool drawn;  // whether the seed came from a generator
};

// What the log-probabilities of a draw take.
struct LogProbArguments {
  const at::Tensor& logits;
  const OptionalTensor& mask;
  double temperature;
  const OptionalTensor& temperature_rows;
  const at::Tensor& index;       // one a row, or, in a last dimension, several
  const at::Tensor& statistics;  // as _draw has them
  std::int64_t dim;
};

// While a compiler traces, a number of its own for each draw without a seed; else 0. No kernel reads it: compilers take
// two calls with the same arguments for one (JIT's do not, by the schemas).
std::int64_t number_of_call(const OptionalSeed& seed, const OptionalTensor& row_seeds);

}  // namespace gumbel_ext
