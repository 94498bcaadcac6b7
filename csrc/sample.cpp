// Draws with all of their answers: the index, its log-probability and the entropy, as a public function and as an
// operator.
#include <torch/library.h>

#include "operators.h"
#include "public_call.h"

namespace gumbel_ext {
namespace {

Sample sample(const at::Tensor& logits, const Temperature& temperature, std::int64_t dim,
              const std::optional<c10::SymInt>& num_samples, const OptionalTensor& mask, const SymSeed& seed,
              const OptionalGenerator& generator) {
  check_kind(logits, "temperature", temperature, mask, seed);
  const std::int64_t number = number_of_call(seed.number, seed.rows);
  const auto [index, statistics] = call(
      draw_operator(),
      {logits, mask, temperature.number, temperature.rows, true, seed.number, seed.rows, generator, dim, {}, number},
      num_samples);
  const auto [log_prob, entropy] =
      call_log_prob({logits, mask, temperature.number, temperature.rows, index, statistics, dim});
  return {index, log_prob, entropy};
}

}  // namespace

Sample sample(const at::Tensor& logits, const Temperature& temperature, std::int64_t dim,
              std::optional<std::int64_t> num_samples, const OptionalTensor& mask, const Seed& seed,
              const OptionalGenerator& generator) {
  GUMBEL_EXT_PROFILED("sample", logits);
  return sample(logits, temperature, dim, std::optional<c10::SymInt>(num_samples), mask, SymSeed(seed), generator);
}

namespace {

using Number = const at::Scalar&;
using PerRow = const at::Tensor&;

template <typename Tau, typename SeedArgument>
std::tuple<at::Tensor, at::Tensor, at::Tensor> sample_overload(const at::Tensor& logits, Tau temperature,
                                                               std::int64_t dim, std::optional<c10::SymInt> num_samples,
                                                               const OptionalTensor& mask, SeedArgument seed,
                                                               const OptionalGenerator& generator) {
  Sample drawn =
      sample(logits, to_temperature("temperature", temperature), dim, num_samples, mask, SymSeed(seed), generator);
  return {std::move(drawn.index), std::move(drawn.log_prob), std::move(drawn.entropy)};
}

void implement(torch::Library& m) {
  m.impl("sample", sample_overload<Number, OptionalSeed>);
  m.impl("sample.tau_tensor", sample_overload<PerRow, OptionalSeed>);
  m.impl("sample.seed_tensor", sample_overload<Number, PerRow>);
  m.impl("sample.tensors", sample_overload<PerRow, PerRow>);
}

}  // namespace

GUMBEL_EXT_PUBLIC_OPERATORS(implement)

}  // namespace gumbel_ext
