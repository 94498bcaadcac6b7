// The node of every differentiable operation in torch's graph.
#pragma once

#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include "node.h"
#include "tangent.h"

namespace gumbel_ext {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

struct Backward;  // (softmax_backward.cpp)

// Whether what is done with a tensor now goes into a CUDA graph that is captured.
bool is_captured(const Tensor& tensor);

struct SoftmaxBackward : public torch::autograd::Node {
  variable_list apply(variable_list&& grads) override;
  // For a compiler of backward (compiled autograd): what a graph depends on, and a call of `apply_traced` in it.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override;
  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override;
  std::string name() const override {
    return "GumbelExtSoftmaxBackward";
  }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    relaxed.reset_data();
    tau_rows.reset_data();
  }

  // Whether p may be overwritten: this is its last use, it is the very tensor that was saved and not what a hook made
  // of it, and nobody else can reach its memory. On a GPU, one-hot outputs alone: work that another stream has not done
  // yet may still read a p that was handed out. And not while a graph is captured, whose backward may be replayed
  // without its forward; nor a p that was captured, which a replay of its forward writes again.
  bool take_relaxed(const Tensor& p);

  SavedVariable relaxed;   // p, an output of this node; or log p
  SavedVariable tau_rows;  // or none
  double tau = 1;
  mutable Tensor tau_as_tensor;  // of a compiler, for which each value of a number is another graph; where tau is one
  std::int64_t dim = -1;
  bool logarithms = false;  // whether the output is log p
  bool captured = false;    // whether p was, when it was made

 private:
  Backward unpack();
};

}  // namespace gumbel_ext
