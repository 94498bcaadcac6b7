// Draws without replacement: the classes, their log-probabilities and their scores, as a public function and as an
// operator.
#include <torch/library.h>

#include "operators.h"
#include "public_call.h"

namespace gumbel_ext {
namespace {

TopK top_k(const at::Tensor& logits, std::int64_t k, const Temperature& temperature, std::int64_t dim,
           const OptionalTensor& mask, const SymSeed& seed, const OptionalGenerator& generator) {
  check_kind(logits, "temperature", temperature, mask, seed);
  const std::int64_t number = number_of_call(seed.number, seed.rows);
  const auto [indices, found, statistics] = call(
      top_classes_operator(),
      {logits, mask, temperature.number, temperature.rows, true, seed.number, seed.rows, generator, dim, {}, number},
      Ranking{k});
  const auto [log_probs, entropy] =
      call_log_prob({logits, mask, temperature.number, temperature.rows, indices, statistics, dim});
  return {indices, log_probs, top_scores_operator().call(found, statistics, log_probs)};
}

}  // namespace

TopK gumbel_top_k(const at::Tensor& logits, std::int64_t k, const Temperature& temperature, std::int64_t dim,
                  const OptionalTensor& mask, const Seed& seed, const OptionalGenerator& generator) {
  GUMBEL_EXT_PROFILED("gumbel_top_k", logits);
  return top_k(logits, k, temperature, dim, mask, seed, generator);
}

namespace {

using Number = const at::Scalar&;
using PerRow = const at::Tensor&;

template <typename Tau, typename SeedArgument>
std::tuple<at::Tensor, at::Tensor, at::Tensor> gumbel_top_k_overload(const at::Tensor& logits, std::int64_t k,
                                                                     Tau temperature, std::int64_t dim,
                                                                     const OptionalTensor& mask, SeedArgument seed,
                                                                     const OptionalGenerator& generator) {
  TopK top = top_k(logits, k, to_temperature("temperature", temperature), dim, mask, SymSeed(seed), generator);
  return {std::move(top.indices), std::move(top.log_probs), std::move(top.scores)};
}

void implement(torch::Library& m) {
  m.impl("gumbel_top_k", gumbel_top_k_overload<Number, OptionalSeed>);
  m.impl("gumbel_top_k.tau_tensor", gumbel_top_k_overload<PerRow, OptionalSeed>);
  m.impl("gumbel_top_k.seed_tensor", gumbel_top_k_overload<Number, PerRow>);
  m.impl("gumbel_top_k.tensors", gumbel_top_k_overload<PerRow, PerRow>);
}

}  // namespace

GUMBEL_EXT_PUBLIC_OPERATORS(implement)

}  // namespace gumbel_ext
