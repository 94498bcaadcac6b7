// What a device's operators make of their arguments: the inputs of a job, and the tensors that keep their memory alive.
#pragma once

#include <ATen/Functions.h>

#include <optional>
#include <type_traits>

#include "checks.h"
#include "core/log_prob.h"
#include "operators.h"
#include "tensor_rows.h"

namespace gumbel_ext {

// Completes the job's noise when first called, and only then; keeps what that has drawn.
template <typename Job, typename Draw>
struct DrawOnce {
  Job& job;
  const Draw& draw;
  std::optional<std::invoke_result_t<const Draw&, Noise&>> drawn;

  DrawOnce(Job& job, const Draw& draw) : job(job), draw(draw) {
  }
  void operator()() {
    if (!drawn) drawn.emplace(draw(noise_of(job)));
  }
};

// The noise of a call. It is drawn from the generator last: a call that fails leaves that as it was.
template <typename Device>
struct NoiseSource {
  using Drawn = decltype(Device::draw_noise(OptionalGenerator()));

  Noise noise;
  at::Tensor row_seeds;
  const OptionalGenerator& generator;

  NoiseSource(const OptionalSeed& seed, const OptionalTensor& seeds, const OptionalGenerator& generator,
              Numbers numbers)
      : generator(generator) {
    noise.on = true;
    noise.seed = static_cast<std::uint64_t>(seed.has_value() ? seed->expect_int() : 0);
    noise.numbers = numbers;
    must_draw = !seed.has_value() && !seeds.has_value();
    if (!seeds.has_value()) return;
    row_seeds = seeds->contiguous();
    noise.row_seeds = row_seeds.const_data_ptr<std::int64_t>();
  }
  // Returns what was drawn; where nothing had to be, nothing.
  Drawn operator()(Noise& out) const {
    Drawn drawn;
    if (must_draw) drawn = Device::draw_noise(generator);
    out = must_draw ? static_cast<const Noise&>(drawn) : noise;
    out.on = true;
    out.numbers = noise.numbers;
    return drawn;
  }

 private:
  bool must_draw;
};

// A number for all rows, or one for each, which `memory` holds.
inline RowScalar row_scalar(double number, const OptionalTensor& rows, const at::Tensor& logits, std::int64_t dim,
                            at::Tensor& memory) {
  if (!rows.has_value()) return {number, nullptr};
  if (is_number(*rows)) return {rows->item().toDouble(), nullptr};
  memory = rows_as_double(*rows, logits, dim);
  return {1, memory.const_data_ptr<double>()};  // of no rows, none
}

// The same, of which the host checks what it can read.
template <typename Device>
RowScalar checked_row_scalar(const char* name, double number, const OptionalTensor& rows, const at::Tensor& logits,
                             std::int64_t dim, at::Tensor& memory, bool may_be_zero = false) {
  const RowScalar scalar = row_scalar(number, rows, logits, dim, memory);
  if (!scalar.rows) check_temperature(name, scalar.value, may_be_zero);
  for (std::int64_t r = 0; scalar.rows && Device::kHostReadsValues && r < memory.numel(); ++r)
    check_temperature(name, scalar.rows[r], may_be_zero);
  return scalar;
}

// Memory for one double a row, 0 at first, which `tensor` holds.
inline double* new_row_sums(const at::Tensor& logits, std::int64_t dim, at::Tensor& tensor) {
  const auto shape = row_shape(logits, dim);
  tensor = at::zeros(C10_AS_INTARRAYREF_SLOW(shape), logits.options().dtype(at::kDouble));
  return tensor.mutable_data_ptr<double>();
}

// A job's inputs, and the tensors that keep their memory alive.
template <typename Device>
struct Inputs {
  Scores scores;
  RowScalar tau;
  std::int64_t dim = 0;
  at::Tensor mask, row_taus;
  std::optional<NoiseSource<Device>> noise;
  std::optional<typename Device::Guard> guard;  // once the checks have seen that all tensors share the device

  Inputs(const Arguments& args, const char* temperature_name, bool may_be_zero) {
    dim = check_arguments(args, temperature_name, may_be_zero);
    guard.emplace(args.logits.device());
    scores.shape = shape_of(args.logits, dim);
    scores.logits = rows_of(args.logits, dim);
    scores.noise.on = args.noise;
    if (args.mask.has_value()) {
      mask = args.mask->expand(args.logits.sizes());
      scores.mask = rows_of(mask, dim);
    }
    tau =
        checked_row_scalar<Device>(temperature_name, args.tau, args.tau_rows, args.logits, dim, row_taus, may_be_zero);
    if (args.noise)
      noise.emplace(args.seed, args.row_seeds, args.generator, numbers_of(args.logits.sizes(), dim, args.numbers));
  }
  auto draw() const {
    return [this](Noise& out) { return noise ? (*noise)(out) : typename NoiseSource<Device>::Drawn(); };
  }
};

// The same of log-probabilities.
template <typename Device>
struct LogProbInputs {
  LogProbJob job;
  std::int64_t dim;
  at::Tensor mask, temperatures, index, statistics;
  typename Device::Guard guard;

  LogProbInputs(const LogProbArguments& args, std::int64_t dim) : dim(dim), guard(args.logits.device()) {
    job.shape = shape_of(args.logits, dim);
    job.logits = rows_of(args.logits, dim);
    if (args.mask.has_value()) {
      mask = args.mask->expand(args.logits.sizes());
      job.mask = rows_of(mask, dim);
    }
    job.temperature = row_scalar(args.temperature, args.temperature_rows, args.logits, dim, temperatures);
    index = args.index.contiguous();
    statistics = args.statistics.contiguous();
    job.index = index.const_data_ptr<std::int64_t>();
    job.statistics = statistics.const_data_ptr<double>();
    job.draws = index.dim() + 1 > std::max<std::int64_t>(args.logits.dim(), 1) ? index.size(-1) : 1;
  }
};

}  // namespace gumbel_ext
