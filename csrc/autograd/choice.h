// A sample as its gradient sees it: what the estimator takes, and the matrix whose rows are chosen.
#pragma once

#include <array>

#include "../operators.h"

namespace gumbel_ext {

using at::Tensor;

// EstimatorArguments that hold what they refer to.
struct Choice {
  Tensor logits, index;
  OptionalTensor seed, weight, mask, temperature_rows, tau_rows, row_seeds;
  double temperature = 1, tau = 1;
  std::int64_t estimator = 0, num_noises = 1, dim = -1;
  std::optional<c10::SymDimVector> numbers;
  bool drawn = false;

  Choice() = default;
  Choice(const OptionalTensor& weight, const EstimatorArguments& args);
  EstimatorArguments arguments() const;
  // Those that may be none.
  std::array<OptionalTensor*, 6> optional() {
    return {&seed, &weight, &mask, &temperature_rows, &tau_rows, &row_seeds};
  }

  // The gradient for one_hot(index), of the one for the value.
  Tensor to_one_hot(const Tensor& grad) const;
  // The value's tangent, of the one of one_hot(index); the other way round.
  Tensor from_one_hot(const Tensor& tangent) const;
  // The weight's gradient: a sum over the rows that chose it.
  Tensor to_weight(const Tensor& grad) const;
};

// Each row times its matrix, [..., n, m]: rows of shape [..., n] become [..., m]. The matrices' first dimensions
// broadcast with the rows'.
Tensor rows_times(const Tensor& rows, const Tensor& matrices);
// weight[index]; NaN in rows that are marked.
Tensor chosen_rows(const Tensor& weight, const Tensor& index);

}  // namespace gumbel_ext
