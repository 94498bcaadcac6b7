// A row's sample is the same whatever thread, batch and number of threads serves it; calls from many threads at
// once, with and without a seed, are safe.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gumbel_ext/gumbel_ext.h>

#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr std::int64_t kRows = 64, kClasses = 1000;

at::Tensor sample(const at::Tensor& logits, const at::Tensor& seeds) {
  return gumbel_ext::gumbel_max(logits, 1.0, -1, {}, {}, seeds);
}

void each_thread_gets_the_same() {
  const at::Tensor logits = gumbel_ext::gumbel_noise({kRows, kClasses}, 1);
  const at::Tensor seeds = at::arange(kRows, at::kLong);
  const at::Tensor expected = sample(logits, seeds);
  std::vector<at::Tensor> results(4);
  {
    std::vector<std::jthread> threads;
    for (std::int64_t t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        std::vector<at::Tensor> parts;
        for (std::int64_t row = 0; row < kRows; row += t + 1)
          parts.push_back(sample(logits.slice(0, row, row + t + 1), seeds.slice(0, row, row + t + 1)));
        results[t] = at::cat(parts);
      });
  }
  for (const at::Tensor& result : results) EXPECT(result.equal(expected));
}

void unseeded_calls_share_the_generator() {
  const at::Tensor logits = at::zeros({kRows, kClasses});
  std::vector<at::Tensor> results(4);
  {
    std::vector<std::jthread> threads;
    for (at::Tensor& result : results) threads.emplace_back([&] { result = gumbel_ext::gumbel_max(logits); });
  }
  for (std::size_t i = 1; i < results.size(); ++i) EXPECT(!results[i].equal(results[0]));
}

void gradients_in_threads() {
  const at::Tensor logits = gumbel_ext::gumbel_noise({kRows, kClasses}, 1);
  const auto gradient = [&] {
    const at::Tensor leaf = logits.clone().requires_grad_();
    gumbel_ext::gumbel_softmax(leaf, 0.5, true, -1, {}, 3).pow(2).sum().backward();
    return leaf.grad();
  };
  const at::Tensor expected = gradient();
  std::vector<at::Tensor> results(4);
  {
    std::vector<std::jthread> threads;
    for (at::Tensor& result : results) threads.emplace_back([&] { result = gradient(); });
  }
  for (const at::Tensor& result : results) EXPECT(result.equal(expected));
}

}  // namespace

int main() {
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    each_thread_gets_the_same();
    unseeded_calls_share_the_generator();
    gradients_in_threads();
  }
  return failures != 0;
}
