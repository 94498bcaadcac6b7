// The five operations, called from C++, and a gradient through each of them that has one.
#include <ATen/ATen.h>
#include <gumbel_ext/gumbel_ext.h>

#include <iostream>

namespace {

// [0, 1, 2, ...], as Python prints a list, for comparing the two by eye.
void print(const char* name, const at::Tensor& values) {
  std::cout << name << " [";
  const at::Tensor flat = values.flatten();
  for (std::int64_t i = 0; i < flat.numel(); ++i) std::cout << (i ? ", " : "") << flat[i].item();
  std::cout << "]\n";
}

}  // namespace

int main() {
  std::cout << "gumbel_ext " << gumbel_ext::version() << " for torch " << gumbel_ext::build_info().torch_version
            << "\n";

  // Four rows of five classes.
  const at::Tensor logits = (at::arange(20, at::kFloat).view({4, 5}) * 0.7).sin() * 2;

  // Indices: one a row, three a row, one a row with seeds and temperatures of its own (0 is greedy).
  print("gumbel_max", gumbel_ext::gumbel_max(logits, 1.0, /*dim=*/-1, /*num_samples=*/{}, /*mask=*/{}, /*seed=*/42));
  print("three draws", gumbel_ext::gumbel_max(logits, 1.0, -1, /*num_samples=*/3, {}, 42));
  const at::Tensor temperatures = at::tensor({0.0, 0.5, 1.0, 2.0}).view({4, 1});
  print("per row", gumbel_ext::gumbel_max(logits, temperatures, -1, {}, {}, /*seed=*/at::arange(4, at::kLong)));

  // The noise is the same in every operation: logits plus noise gives the index, and so does the one-hot.
  const at::Tensor noise = gumbel_ext::gumbel_noise(logits.sizes(), /*seed=*/42);
  print("argmax(x + g)", (logits + noise).argmax(-1));

  // Gradients: a temperature to be learned, and logits.
  const at::Tensor x = logits.clone().requires_grad_();
  const at::Tensor tau = at::full({4, 1}, 0.5).requires_grad_();
  const at::Tensor one_hot = gumbel_ext::gumbel_softmax(x, tau, /*hard=*/true, -1, {}, 42);
  print("one-hot's index", one_hot.argmax(-1));
  (one_hot * at::arange(5)).sum().backward();
  print("d/dlogits, row 0", x.grad()[0]);
  print("d/dtau", tau.grad());

  // Without noise, and without the classes that the mask leaves out.
  const at::Tensor mask = at::arange(5) < 3;
  print("softmax, row 0", gumbel_ext::softmax(logits, 0.5, -1, mask)[0]);
  print("straight_through, row 0", gumbel_ext::straight_through(logits, 0.5, -1, mask)[0]);

  // What is wrong is said at once, as an exception.
  try {
    gumbel_ext::softmax(logits, -1.0);
  } catch (const c10::Error& error) {
    std::cout << "error: " << error.what_without_backtrace() << "\n";
  }
}
