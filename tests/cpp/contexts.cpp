// In every context of use an operation gives the value and gradient that it gives without, and nothing that a program
// holds changes: a table of operations times a table of contexts, as tests/contexts.py has them for Python.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <c10/core/InferenceMode.h>
#include <gumbel_ext/gumbel_ext.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <future>
#include <map>
#include <string>
#include <vector>

#include "check.h"

namespace {

using at::Tensor;
using Operation = std::function<Tensor(const Tensor&)>;

struct Result {
  Tensor value, gradient;  // no gradient where there is none
};

const std::map<std::string, Operation> kOperations = {
    {"softmax", [](const Tensor& x) { return gumbel_ext::softmax(x, 0.7); }},
    {"straight_through", [](const Tensor& x) { return gumbel_ext::straight_through(x, 0.7); }},
    {"gumbel_softmax", [](const Tensor& x) { return gumbel_ext::gumbel_softmax(x, 0.7, false, -1, {}, 13); }},
    {"gumbel_softmax, hard", [](const Tensor& x) { return gumbel_ext::gumbel_softmax(x, 0.7, true, -1, {}, 13); }},
    {"gumbel_max", [](const Tensor& x) { return gumbel_ext::gumbel_max(x, 0.7, -1, {}, {}, 13); }},
    {"sample",
     [](const Tensor& x) {
       const auto drawn = gumbel_ext::sample(x, 0.7, -1, {}, {}, 13);
       return drawn.log_prob + 2 * drawn.entropy;
     }},
    {"gumbel_top_k",
     [](const Tensor& x) {
       const auto top = gumbel_ext::gumbel_top_k(x, 2, 0.7, -1, {}, 13);
       return top.log_probs + 2 * top.scores;
     }},
    {"gumbel_noise", [](const Tensor& x) { return gumbel_ext::gumbel_noise(x.sizes(), 13); }},
    {"one_hot_sample", [](const Tensor& x) { return gumbel_ext::one_hot_sample(x, 0.7, "gumbel", 0.9, -1, {}, 13); }},
    {"one_hot_sample, reinmax",
     [](const Tensor& x) { return gumbel_ext::one_hot_sample(x, 1.0, "reinmax", 1.0, -1, {}, 13); }},
    {"relaxed_top_k", [](const Tensor& x) { return gumbel_ext::relaxed_top_k(x, 2, 0.7, false, -1, {}, 13); }},
    {"relaxed_top_k, hard", [](const Tensor& x) { return gumbel_ext::relaxed_top_k(x, 2, 0.7, true, -1, {}, 13); }},
};

Tensor gradient(const Tensor& y, const Tensor& x, bool retain = false, bool create = false) {
  if (!y.requires_grad()) return {};
  const Tensor upstream = at::linspace(-1, 1, y.numel()).view(y.sizes());
  return torch::autograd::grad({y}, {x}, {upstream}, retain, create)[0];
}

Result plain(const Operation& call, const Tensor& x) {
  const Tensor y = call(x);
  return {y.detach().clone(), gradient(y, x)};
}

Result nobody_holds_the_output(const Operation& call, const Tensor& x) {
  Tensor y = call(x);
  const Tensor value = y.detach().clone();
  y = y * 1;
  return {value, gradient(y, x)};
}

// The output, views of it, and its memory under another name.
Result output_is_held(const Operation& call, const Tensor& x) {
  const Tensor y = call(x), value = y.detach().clone();
  const Tensor named = at::from_blob(y.data_ptr(), y.sizes(), y.options().requires_grad(false));
  const std::vector<Tensor> held = {y, y.detach(), y.view({-1}), named};
  const Tensor dx = gradient(y, x);
  for (const Tensor& tensor : held) EXPECT(tensor.reshape(value.sizes()).equal(value));
  EXPECT(y._version() == 0);
  return {value, dx};
}

Result retained_graph(const Operation& call, const Tensor& x) {
  const Tensor y = call(x), first = gradient(y, x, true);
  if (first.defined()) EXPECT(gradient(y, x).equal(first));
  return {y.detach(), first};
}

Result created_graph(const Operation& call, const Tensor& x) {
  const Tensor y = call(x), first = gradient(y, x, true, true);
  EXPECT(!first.defined() || first.requires_grad());
  return {y.detach(), first};
}

Result no_gradient(const Operation& call, const Tensor& x) {
  const at::NoGradGuard guard;
  const Tensor y = call(x);
  EXPECT(!y.requires_grad());
  return {y, {}};
}

Result inference(const Operation& call, const Tensor& x) {
  const c10::InferenceMode guard;
  const Tensor y = call(x);
  EXPECT(y.is_inference());
  return {y.clone(), {}};
}

Result autocast(const Operation& call, const Tensor& x) {
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Result found = plain(call, x);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  return found;
}

Result another_thread(const Operation& call, const Tensor& x) {
  const Tensor y = call(x);
  return std::async(std::launch::async, [&] { return Result{y.detach().clone(), gradient(y, x)}; }).get();
}

Result threads(const Operation& call, const Tensor& x) {
  std::vector<std::future<Result>> running;
  for (int i = 0; i < 4; ++i) running.push_back(std::async(std::launch::async, plain, call, x));
  Result last;
  for (auto& task : running) {
    last = task.get();
    EXPECT(last.value.equal(call(x)));
  }
  return last;
}

const std::map<std::string, std::function<Result(const Operation&, const Tensor&)>> kContexts = {
    {"nobody holds the output", nobody_holds_the_output},
    {"the output is held", output_is_held},
    {"retain_graph", retained_graph},
    {"create_graph", created_graph},
    {"NoGradGuard", no_gradient},
    {"InferenceMode", inference},
    {"autocast", autocast},
    {"backward in another thread", another_thread},
    {"threads", threads},
};

}  // namespace

int main() {
  for (const std::int64_t classes : {6, 70000}) {  // the memory of large results has an allocator of its own
    for (const auto& [name, call] : kOperations) {
      for (const auto& [context, run] : kContexts) {
        const Tensor x = at::arange(4 * classes, at::kFloat).mul(0.7).sin().view({4, classes}).requires_grad_();
        const Tensor before = x.detach().clone();
        const Result expected = plain(call, x);
        const auto generator = at::detail::getDefaultCPUGenerator();
        const Tensor state = generator.get_state();
        const Result found = run(call, x);
        const std::string where = name + ", " + context;
        check(found.value.equal(expected.value), __FILE__, __LINE__, "value: " + where);
        const bool recorded = context != "NoGradGuard" && context != "InferenceMode";
        const bool same = recorded && expected.gradient.defined()
                              ? found.gradient.defined() && found.gradient.allclose(expected.gradient, 1e-4, 1e-6)
                              : !found.gradient.defined();
        check(same, __FILE__, __LINE__, "gradient: " + where);
        check(x.detach().equal(before) && x._version() == 0, __FILE__, __LINE__, "logits: " + where);
        check(generator.get_state().equal(state), __FILE__, __LINE__, "generator: " + where);
      }
    }
  }
  return failures != 0;
}
