// The operators on the CPU: tensors to plain jobs, and jobs to threads.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>
#include <torch/library.h>

#include "../checks.h"
#include "../operators.h"
#include "capability.h"
#include "schedule.h"
#include "tensor_rows.h"

namespace gumbel_ext {
namespace {

using namespace cpu;
using at::Tensor;

// One number from the generator, under its lock.
std::uint64_t draw_seed(const OptionalGenerator& generator) {
  auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(source->mutex_);
  return source->random64();
}

// A job's inputs, and the tensors that keep their memory alive.
struct Inputs {
  Scores scores;
  RowScalar tau;
  std::int64_t dim = 0;
  Tensor mask, row_seeds, row_taus;

  Inputs(const Arguments& args, bool noise, const char* temperature_name, bool may_be_zero) {
    dim = check_arguments(args, temperature_name, may_be_zero);
    scores.shape = shape_of(args.logits, dim);
    scores.logits = rows_of(args.logits, dim);
    if (args.mask.has_value()) {
      mask = args.mask->expand(args.logits.sizes());
      scores.mask = rows_of(mask, dim);
    }
    tau.value = args.tau;
    if (args.tau_rows.has_value()) set_row_taus(*args.tau_rows, args.logits, temperature_name, may_be_zero);
    scores.noise = noise_source(noise, args.seed, args.row_seeds, args.generator, row_seeds);  // nothing fails now
    scores.shape.group_rows = group_rows(scores.shape, scores.logits);
  }

  static Noise noise_source(bool noise, OptionalInt seed, const OptionalTensor& seeds,
                            const OptionalGenerator& generator, Tensor& keep_alive) {
    Noise source;
    source.on = noise;
    if (!noise) return source;
    if (seeds.has_value()) {
      keep_alive = seeds->contiguous();
      source.row_seeds = keep_alive.const_data_ptr<std::int64_t>();
    } else {
      source.seed = seed.has_value() ? static_cast<std::uint64_t>(*seed) : draw_seed(generator);
    }
    return source;
  }

 private:
  void set_row_taus(const Tensor& rows, const Tensor& logits, const char* name, bool may_be_zero) {
    row_taus = rows_as_double(rows, logits, dim);
    const double* values = row_taus.const_data_ptr<double>();
    for (std::int64_t r = 0; r < row_taus.numel(); ++r) check_temperature(name, values[r], may_be_zero);
    tau.rows = values;
  }
};

Tensor relaxed_cpu(const Tensor& logits, const OptionalTensor& mask, double tau, const OptionalTensor& tau_rows,
                   bool noise, OptionalInt seed, const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                   std::int64_t dim) {
  const Inputs inputs({logits, mask, tau, tau_rows, seed, row_seeds, generator, dim}, noise, "tau", false);
  Tensor out = new_like(logits);
  run_forward(kernels_for(logits.scalar_type()), {inputs.scores, inputs.tau, rows_of(out, inputs.dim), {}});
  return out;
}

std::tuple<Tensor, Tensor> one_hot_cpu(const Tensor& logits, const OptionalTensor& mask, double tau,
                                       const OptionalTensor& tau_rows, bool noise, OptionalInt seed,
                                       const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                                       std::int64_t dim, bool keep_relaxed) {
  const Inputs inputs({logits, mask, tau, tau_rows, seed, row_seeds, generator, dim}, noise, "tau", false);
  Tensor out = new_like(logits);
  Tensor relaxed = keep_relaxed ? new_like(logits) : at::empty({0}, logits.options());
  const Rows relaxed_rows = keep_relaxed ? rows_of(relaxed, inputs.dim) : Rows{};
  run_forward(kernels_for(logits.scalar_type()), {inputs.scores, inputs.tau, relaxed_rows, rows_of(out, inputs.dim)});
  return {out, relaxed};
}

Tensor index_cpu(const Tensor& logits, const OptionalTensor& mask, double temperature,
                 const OptionalTensor& temperature_rows, OptionalInt seed, const OptionalTensor& row_seeds,
                 const OptionalGenerator& generator, std::int64_t dim, std::optional<c10::SymInt> num_samples) {
  // Before the inputs, which may take a seed from the generator: a refused call leaves it as it was.
  const auto shape = check_index_shape(logits, at::maybe_wrap_dim(dim, logits.dim()), num_samples);
  const bool noise = temperature_rows.has_value() || temperature != 0;
  const Inputs inputs({logits, mask, temperature, temperature_rows, seed, row_seeds, generator, dim}, noise,
                      "temperature", true);
  Tensor out = at::empty(C10_AS_INTARRAYREF_SLOW(shape), logits.options().dtype(at::kLong));
  const std::int64_t draws = num_samples.has_value() ? num_samples->expect_int() : 1;
  run_index(kernels_for(logits.scalar_type()), {inputs.scores, inputs.tau, draws},
            out.mutable_data_ptr<std::int64_t>());
  return out;
}

void noise_cpu(Tensor& out, OptionalInt seed, const OptionalTensor& row_seeds, const OptionalGenerator& generator) {
  check_noise(out, seed, row_seeds, generator);
  Tensor seeds;
  NoiseJob job;
  job.shape = shape_of(out, out.dim() - 1);
  job.out = rows_of(out, out.dim() - 1);
  job.noise = Inputs::noise_source(true, seed, row_seeds, generator, seeds);
  job.shape.group_rows = group_rows(job.shape, job.out);
  run_noise(kernels_for(out.scalar_type()), job);
}

// Writes the gradient for the logits to `grad_logits`, where it is defined; it may be `relaxed` itself.
// Returns the gradient for tau, one a row, where it is needed.
Tensor write_backward(const Tensor& grad, const Tensor& relaxed, double tau, const OptionalTensor& tau_rows,
                      std::int64_t dim, const Tensor& grad_logits, bool need_tau) {
  BackwardJob job;
  job.shape = shape_of(relaxed, dim);
  job.grad = rows_of(grad, dim);
  job.relaxed = rows_of(relaxed, dim);
  job.tau.value = tau;
  Tensor row_taus, grad_tau;
  if (tau_rows.has_value()) {
    check_temperature_rows("tau", *tau_rows, relaxed, dim);
    row_taus = rows_as_double(*tau_rows, relaxed, dim);
    job.tau.rows = row_taus.const_data_ptr<double>();
  }
  if (grad_logits.defined()) job.grad_logits = rows_of(grad_logits, dim);
  if (need_tau) {
    const auto shape = row_shape(relaxed, dim);
    grad_tau = at::zeros(C10_AS_INTARRAYREF_SLOW(shape), relaxed.options().dtype(at::kDouble));
    job.grad_tau = grad_tau.mutable_data_ptr<double>();
  }
  job.shape.group_rows = group_rows(job.shape, job.relaxed);
  run_backward(kernels_for(relaxed.scalar_type()), job);
  return grad_tau;
}

std::tuple<Tensor, Tensor> backward_cpu(const Tensor& grad, const Tensor& relaxed, double tau,
                                        const OptionalTensor& tau_rows, std::int64_t dim, bool need_logits,
                                        bool need_tau) {
  dim = check_backward(grad, relaxed, dim);
  const Tensor grad_logits = need_logits ? new_like(relaxed) : Tensor();
  const Tensor grad_tau = write_backward(grad, relaxed, tau, tau_rows, dim, grad_logits, need_tau);
  return {grad_logits, grad_tau};
}

Tensor backward_in_place_cpu(const Tensor& grad, Tensor& relaxed, double tau, const OptionalTensor& tau_rows,
                             std::int64_t dim, bool need_tau) {
  dim = check_backward(grad, relaxed, dim);
  return write_backward(grad, relaxed, tau, tau_rows, dim, relaxed, need_tau);
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, CPU, m) {
  m.impl("_relaxed", relaxed_cpu);
  m.impl("_one_hot", one_hot_cpu);
  m.impl("_index", index_cpu);
  m.impl("_noise_", noise_cpu);
  m.impl("_backward", backward_cpu);
  m.impl("_backward_", backward_in_place_cpu);
}

}  // namespace gumbel_ext
