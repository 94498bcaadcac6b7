// Samples with an estimator's gradient, as public functions and as operators.
#include <ATen/Functions.h>
#include <torch/library.h>

#include "checks.h"
#include "operators.h"
#include "public_call.h"

namespace gumbel_ext {
namespace {

struct Chosen {
  at::Tensor value, index;
};

Chosen choose(const at::Tensor& logits, const OptionalTensor& weight, const Temperature& tau,
              c10::string_view estimator, const Temperature& temperature, std::int64_t dim, const OptionalTensor& mask,
              const SymSeed& seed, const OptionalGenerator& generator, std::int64_t num_noises) {
  check_kind(logits, "tau", tau, mask, seed);
  if (temperature.rows) check_dense("temperature", *temperature.rows);
  const auto by = static_cast<std::int64_t>(to_estimator(estimator));
  check_num_noises(num_noises);
  if (weight) {
    check_dense("weight", *weight);
    check_weight(*weight, logits, dim);
  }
  const std::int64_t number = number_of_call(seed.number, seed.rows);
  const auto [index, seed_held] = call(
      sample_operator(),
      {logits, mask, temperature.number, temperature.rows, true, seed.number, seed.rows, generator, dim, {}, number},
      tau.number, tau.rows);
  const bool drawn = !seed.number && !seed.rows;
  const OptionalTensor used = takes_noise(Estimator(by)) && !seed.rows ? OptionalTensor(seed_held) : OptionalTensor();
  return {call_choice(weight, {logits,
                               mask,
                               temperature.number,
                               temperature.rows,
                               tau.number,
                               tau.rows,
                               index,
                               used,
                               seed.rows,
                               by,
                               num_noises,
                               dim,
                               {},
                               drawn}),
          index};
}

Embedded embedded(Chosen chosen) {
  // Of a row without a softmax, where NaN or infinity is: the index is its complement's.
  return {std::move(chosen.value), at::maximum(chosen.index, at::bitwise_not(chosen.index))};
}

}  // namespace

at::Tensor one_hot_sample(const at::Tensor& logits, const Temperature& tau, const std::string& estimator,
                          const Temperature& temperature, std::int64_t dim, const OptionalTensor& mask,
                          const Seed& seed, const OptionalGenerator& generator, std::int64_t num_noises) {
  GUMBEL_EXT_PROFILED("one_hot_sample", logits);
  return choose(logits, {}, tau, estimator, temperature, dim, mask, seed, generator, num_noises).value;
}

Embedded straight_through_embedding(const at::Tensor& logits, const at::Tensor& weight, const Temperature& tau,
                                    const std::string& estimator, const Temperature& temperature, std::int64_t dim,
                                    const OptionalTensor& mask, const Seed& seed, const OptionalGenerator& generator,
                                    std::int64_t num_noises) {
  GUMBEL_EXT_PROFILED("straight_through_embedding", logits, weight);
  return embedded(choose(logits, weight, tau, estimator, temperature, dim, mask, seed, generator, num_noises));
}

// ---- As operators ---------------------------------------------------------------------------------------------------

namespace {

using Number = const at::Scalar&;
using PerRow = const OptionalTensor&;
using SeedPerRow = const at::Tensor&;

template <typename Tau, typename SeedArgument>
at::Tensor one_hot_sample_overload(const at::Tensor& logits, Tau tau, c10::string_view estimator, Tau temperature,
                                   std::int64_t dim, const OptionalTensor& mask, SeedArgument seed,
                                   const OptionalGenerator& generator, std::int64_t num_noises) {
  return choose(logits, {}, to_temperature("tau", tau), estimator, to_temperature("temperature", temperature), dim,
                mask, seed, generator, num_noises)
      .value;
}
template <typename Tau, typename SeedArgument>
std::tuple<at::Tensor, at::Tensor> straight_through_embedding_overload(
    const at::Tensor& logits, const at::Tensor& weight, Tau tau, c10::string_view estimator, Tau temperature,
    std::int64_t dim, const OptionalTensor& mask, SeedArgument seed, const OptionalGenerator& generator,
    std::int64_t num_noises) {
  const Embedded result =
      embedded(choose(logits, weight, to_temperature("tau", tau), estimator, to_temperature("temperature", temperature),
                      dim, mask, seed, generator, num_noises));
  return {result.value, result.index};
}

void implement(torch::Library& m) {
  m.impl("one_hot_sample", one_hot_sample_overload<Number, OptionalSeed>);
  m.impl("one_hot_sample.tau_tensor", one_hot_sample_overload<PerRow, OptionalSeed>);
  m.impl("one_hot_sample.seed_tensor", one_hot_sample_overload<Number, SeedPerRow>);
  m.impl("one_hot_sample.tensors", one_hot_sample_overload<PerRow, SeedPerRow>);
  m.impl("straight_through_embedding", straight_through_embedding_overload<Number, OptionalSeed>);
  m.impl("straight_through_embedding.tau_tensor", straight_through_embedding_overload<PerRow, OptionalSeed>);
  m.impl("straight_through_embedding.seed_tensor", straight_through_embedding_overload<Number, SeedPerRow>);
  m.impl("straight_through_embedding.tensors", straight_through_embedding_overload<PerRow, SeedPerRow>);
}

}  // namespace

GUMBEL_EXT_PUBLIC_OPERATORS(implement)

}  // namespace gumbel_ext
