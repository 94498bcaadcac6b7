// Autograd from C++: the gradients, and a training that arrives.
#include <ATen/ATen.h>
#include <gumbel_ext/gumbel_ext.h>

#include "check.h"

namespace {

// dx = p (dy - <p, dy>) / tau, whatever the operation.
void every_operation_has_the_gradient_of_softmax() {
  const at::Tensor x = at::arange(24, at::kDouble).mul(0.7).sin().view({4, 6});
  const at::Tensor dy = at::arange(24, at::kDouble).mul(0.3).cos().view({4, 6});
  const double tau = 0.5;
  const auto holds = [&](const at::Tensor& noise, const auto& operation) {
    const at::Tensor leaf = x.clone().requires_grad_();
    operation(leaf).backward(dy);
    const at::Tensor p = ((x + noise) / tau).softmax(-1);
    return leaf.grad().allclose(p * (dy - (p * dy).sum(-1, true)) / tau);
  };
  const at::Tensor none = at::zeros_like(x), noise = gumbel_ext::gumbel_noise(x.sizes(), 7, {}, at::kDouble);
  EXPECT(holds(none, [&](const at::Tensor& t) { return gumbel_ext::softmax(t, tau); }));
  EXPECT(holds(none, [&](const at::Tensor& t) { return gumbel_ext::straight_through(t, tau); }));
  EXPECT(holds(noise, [&](const at::Tensor& t) { return gumbel_ext::gumbel_softmax(t, tau, false, -1, {}, 7); }));
  EXPECT(holds(noise, [&](const at::Tensor& t) { return gumbel_ext::gumbel_softmax(t, tau, true, -1, {}, 7); }));
}

void the_temperature_has_a_gradient() {
  const at::Tensor x = at::arange(24, at::kDouble).mul(0.7).sin().view({4, 6});
  const at::Tensor tau = at::full({4, 1}, 0.5, at::kDouble).requires_grad_();
  const at::Tensor other = tau.detach().clone().requires_grad_();
  gumbel_ext::softmax(x, tau).pow(2).sum().backward();
  (x / other).softmax(-1).pow(2).sum().backward();
  EXPECT(tau.grad().allclose(other.grad()));
}

// A policy learns to choose class 3, the one that costs least, from samples alone.
void training_arrives() {
  at::Tensor logits = at::zeros({1, 5}).requires_grad_();
  const at::Tensor cost = at::tensor({4.0, 3.0, 2.0, 0.0, 1.0}).to(at::kFloat);
  for (int step = 0; step < 200; ++step) {
    const at::Tensor choice = gumbel_ext::gumbel_softmax(logits.expand({64, 5}), 0.7, /*hard=*/true, -1, {}, step);
    (choice * cost).sum(-1).mean().backward();
    logits = (logits.detach() - 0.5 * logits.grad()).requires_grad_();
  }
  EXPECT(logits.softmax(-1)[0][3].item<float>() > 0.9);
}

}  // namespace

int main() {
  every_operation_has_the_gradient_of_softmax();
  the_temperature_has_a_gradient();
  training_arrives();
  return failures != 0;
}
