// A call of the public API, made of bytes.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gumbel_ext/gumbel_ext.h>

#include <optional>
#include <ostream>
#include <vector>

#include "input.h"

enum class Operation { kSoftmax, kStraightThrough, kGumbelSoftmax, kGumbelSoftmaxHard, kGumbelMax, kGumbelNoise };

struct Call {
  Operation operation;
  at::Tensor logits;  // gumbel_noise: what has the noise's shape and dtype
  std::int64_t dim = -1;
  gumbel_ext::Temperature tau = 1.0;
  std::optional<at::Tensor> mask;
  gumbel_ext::Seed seed;
  std::optional<std::uint64_t> generator;  // the seed of one made for the call; else torch's default one
  std::uint64_t default_seed = 0;          // of torch's default generator
  std::optional<std::int64_t> num_samples;
  int threads = 1;
  at::Tensor upstream;  // the gradient for the result
  bool differentiate_twice = false;
  bool valid = true;               // whether the call has to succeed; else it has to throw a c10::Error
  std::vector<at::Tensor> memory;  // of all tensors above, flat

  bool is_relaxed() const {
    return operation == Operation::kSoftmax || operation == Operation::kGumbelSoftmax;
  }
  bool is_one_hot() const {
    return operation == Operation::kStraightThrough || operation == Operation::kGumbelSoftmaxHard;
  }
  bool has_noise() const {
    return operation != Operation::kSoftmax && operation != Operation::kStraightThrough;
  }
  bool has_tau() const {
    return operation != Operation::kGumbelNoise;
  }
  std::int64_t wrapped_dim() const {
    return dim < 0 ? dim + std::max<std::int64_t>(1, logits.dim()) : dim;
  }

  // The result; of another operation with `as`. The noise is the same each time, whatever it is drawn from.
  at::Tensor run(Operation as) const;
  at::Tensor run() const {
    return run(operation);
  }
};

Call make_call(const std::uint8_t* data, std::size_t size);
std::ostream& operator<<(std::ostream& out, const Call& call);
