// The node, in torch's graph, of a sample with an estimator's gradient (core/estimator.h).
#pragma once

#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include "choice.h"
#include "node.h"
#include "tangent.h"

namespace gumbel_ext {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// The gradients for logits, temperature and tau, of one for one_hot(index): by the kernel; by operations that can be
// differentiated again where something asks for that, or where `again` does.
Gradients estimate(const Tensor& grad, const Choice& choice, bool need_temperature, bool need_tau, bool again = false);

// The tangent of one_hot(index) along one of tau.
Tensor tangent_along_tau(const Choice& choice, const Tensor& d_tau);

struct EstimatorBackward : public torch::autograd::Node {
  // Edges: logits, weight, temperature, tau.
  static constexpr std::size_t kInputs = 4;

  void save(const Choice& choice);
  variable_list apply(variable_list&& grads) override;
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override;
  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override;
  std::string name() const override {
    return "GumbelExtEstimatorBackward";
  }
  void release_variables() override;

 private:
  static constexpr std::size_t kTensors = 8;
  Choice unpack();

  SavedVariable tensors_[kTensors];
  Choice rest_;                           // what is no tensor
  mutable Tensor numbers_as_tensors_[2];  // temperature and tau
};

}  // namespace gumbel_ext
