// Checksums of every operation's values and gradients, one a line, to be compared between processors and compilers:
//   checksums                        all of them
//   checksums OPERATION ROWS         none: one call on rows of 1024 classes, for a count of its instructions; `inputs`
//                                    is what there is besides the call
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gumbel_ext/gumbel_ext.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <map>
#include <string>

namespace {

using at::Tensor;
using Operation = Tensor (*)(const Tensor& x, std::int64_t dim);

const Tensor kTau = at::full({1}, 0.75, at::kDouble);

const std::map<std::string, Operation> kOperations = {
    {"softmax", [](const Tensor& x, std::int64_t dim) { return gumbel_ext::softmax(x, 0.7, dim); }},
    {"softmax tau", [](const Tensor& x, std::int64_t dim) { return gumbel_ext::softmax(x, kTau, dim, x > -2); }},
    {"straight_through", [](const Tensor& x, std::int64_t dim) { return gumbel_ext::straight_through(x, 0.7, dim); }},
    {"relaxed",
     [](const Tensor& x, std::int64_t dim) { return gumbel_ext::gumbel_softmax(x, 0.7, false, dim, {}, 1); }},
    {"hard", [](const Tensor& x, std::int64_t dim) { return gumbel_ext::gumbel_softmax(x, 0.7, true, dim, {}, 1); }},
    {"index", [](const Tensor& x, std::int64_t dim) { return gumbel_ext::gumbel_max(x, 1.0, dim, {}, {}, 1); }},
    {"cool", [](const Tensor& x, std::int64_t dim) { return gumbel_ext::gumbel_max(x, 0.3, dim, 3, x > -2, 1); }},
    {"log_prob",
     [](const Tensor& x, std::int64_t dim) { return gumbel_ext::sample(x, kTau, dim, 3, x > -2, 1).log_prob; }},
    {"entropy", [](const Tensor& x, std::int64_t dim) { return gumbel_ext::sample(x, 0.8, dim, {}, {}, 1).entropy; }},
    {"without replacement",
     [](const Tensor& x, std::int64_t dim) {
       const auto top = gumbel_ext::gumbel_top_k(x, std::min<std::int64_t>(3, x.size(dim)), kTau, dim, x > -2, 1);
       return top.scores + top.indices;
     }},
    {"reinmax", [](const Tensor& x,
                   std::int64_t dim) { return gumbel_ext::one_hot_sample(x, kTau, "reinmax", 0.8, dim, x > -2, 1); }},
    {"rao", [](const Tensor& x,
               std::int64_t dim) { return gumbel_ext::one_hot_sample(x, 0.7, "rao", 0.8, dim, {}, 1, {}, 3); }},
    {"top_k",
     [](const Tensor& x, std::int64_t dim) {
       return gumbel_ext::relaxed_top_k(x, std::min<std::int64_t>(3, x.size(dim)), 0.7, false, dim, {}, 1);
     }},
    {"noise",
     [](const Tensor& x, std::int64_t) { return gumbel_ext::gumbel_noise(x.sizes(), 1, {}, x.scalar_type()); }},
};

// Multiples of 2^-12 below 16, the same everywhere: no rounding, and no random number generator.
Tensor numbers(at::IntArrayRef shape, std::uint64_t seed) {
  Tensor out = at::empty(shape, at::kFloat);
  float* data = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    std::uint64_t z = seed + static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    data[i] = static_cast<float>(static_cast<std::int32_t>((z ^ (z >> 31)) & 0x1ffff) - 0x10000) * 0x1p-12f;
  }
  return out;
}

// FNV-1a.
std::uint64_t checksum(const Tensor& tensor) {
  const Tensor values = tensor.contiguous();
  const auto* bytes = static_cast<const unsigned char*>(values.const_data_ptr());
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (std::size_t i = 0; i < values.nbytes(); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

struct Case {
  std::vector<std::int64_t> shape;
  std::int64_t dim;
};
const Case kCases[] = {{{4, 1}, -1},    {{5, 7}, -1},  {{33, 32}, -1},   {{9, 65}, -1},  {{3, 333}, -1},
                       {{2, 4100}, -1}, {{65, 40}, 0}, {{2, 37, 81}, 1}, {{2600, 3}, 0}, {{1, 9001}, -1}};

void print_checksums() {
  for (const auto type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16})
    for (const Case& c : kCases)
      for (const auto& [name, operation] : kOperations) {
        const Tensor x = numbers(c.shape, 1).to(type).requires_grad_();
        const Tensor y = operation(x, c.dim);
        std::string sums = name + " " + at::toString(type);
        for (const std::int64_t size : c.shape) sums += " " + std::to_string(size);
        std::printf("%s: %016" PRIx64, sums.c_str(), checksum(y.detach()));
        if (y.requires_grad()) {
          y.backward(numbers(c.shape, 2).to(type));
          std::printf(" %016" PRIx64, checksum(x.grad()));
        }
        std::printf("\n");
      }
}

void call_once(const std::string& name, std::int64_t rows) {
  at::set_num_threads(1);
  const bool is_backward = name == "backward";
  const Tensor x = numbers({rows, 1024}, 1), dy = numbers({rows, 1024}, 2);
  if (name == "inputs") return;
  x.requires_grad_(is_backward);
  const Tensor y = kOperations.at(is_backward ? "relaxed" : name)(x, -1);
  if (is_backward) y.backward(dy);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3)
    call_once(argv[1], std::stoll(argv[2]));
  else
    print_checksums();
}
