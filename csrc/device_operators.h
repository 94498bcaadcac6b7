// The operators of a device (operators.h): tensors to plain jobs, which the device then runs.
#pragma once

#include <ATen/Functions.h>
#include <ATen/MemoryOverlap.h>
#include <torch/library.h>

#include "core/noise_at.h"
#include "device_inputs.h"

namespace gumbel_ext {

// A device provides
//   struct Guard              made from a device of its kind; makes it the current one
//   kHostReadsValues          whether the host may read a tensor's values: those of tau are then checked
//   new_like(tensor)          a contiguous tensor like it, uninitialised
//   draw_noise(generator)     a Noise with a seed from the generator, or the device's default one, under its lock; or
//                             what derives from it and lets the generator move on only when the call has succeeded
//   record_seed(noise, to)    *to = the noise's seed; hold_seed(noise, from): the other way round
//   run(job, element, draw)   for all jobs, on the current device; draw(noise_of(job)) once, when all is done that can
//                             fail for want of memory; without `draw` for jobs that draw nothing
template <typename Device>
struct DeviceOperators {
  using Tensor = at::Tensor;

  using NoiseSource = gumbel_ext::NoiseSource<Device>;
  using Inputs = gumbel_ext::Inputs<Device>;

  static void run(const Inputs& inputs, const Arguments& args, const Rows& relaxed, const Rows& one_hot,
                  bool logarithms = false) {
    Device::run(ForwardJob{inputs.scores, inputs.tau, relaxed, one_hot, logarithms}, element_of(args.logits),
                inputs.draw());
  }

  template <bool kLogarithms>
  static Tensor relaxed(const Arguments& args) {
    const Inputs inputs(args, "tau", /*may_be_zero=*/false);
    Tensor out = Device::new_like(args.logits);
    run(inputs, args, output_rows_of(out, inputs.dim), {}, kLogarithms);
    return out;
  }

  static Tensor one_hot(const Arguments& args) {
    const Inputs inputs(args, "tau", /*may_be_zero=*/false);
    Tensor out = Device::new_like(args.logits);
    run(inputs, args, {}, output_rows_of(out, inputs.dim));
    return out;
  }

  static std::tuple<Tensor, Tensor> one_hot_relaxed(const Arguments& args) {
    const Inputs inputs(args, "tau", /*may_be_zero=*/false);
    Tensor out = Device::new_like(args.logits), relaxed = Device::new_like(args.logits);
    run(inputs, args, output_rows_of(relaxed, inputs.dim), output_rows_of(out, inputs.dim));
    return {out, relaxed};
  }

  // The index, and, where wanted, its score and the rows' statistics.
  static std::tuple<Tensor, Tensor, Tensor> search(const Arguments& args, const std::optional<c10::SymInt>& num_samples,
                                                   bool scored, bool with_statistics) {
    const Inputs inputs(args, "temperature", /*may_be_zero=*/true);
    auto shape = index_shape(args.logits, inputs.dim, num_samples);
    const auto empty = [&](at::ScalarType type) {
      return at::empty(C10_AS_INTARRAYREF_SLOW(shape), args.logits.options().dtype(type));
    };
    Tensor index = empty(at::kLong), score = scored ? empty(at::kDouble) : Tensor(), statistics, unused;
    IndexJob job{inputs.scores, inputs.tau};
    job.draws = num_samples.has_value() ? num_samples->expect_int() : 1;
    job.out = index.template mutable_data_ptr<std::int64_t>();
    if (scored) job.scores_out = score.template mutable_data_ptr<double>();
    if (with_statistics) {
      if (num_samples.has_value()) shape.pop_back();
      if (job.draws == 0) {  // the statistics are wanted all the same
        job.draws = 1;
        unused = empty(at::kLong);
        job.out = unused.template mutable_data_ptr<std::int64_t>();
        job.scores_out = nullptr;
      }
      shape.push_back(kRowStatistics);
      statistics = empty(at::kDouble);
      job.statistics = statistics.template mutable_data_ptr<double>();
    }
    Device::run(job, element_of(args.logits), inputs.draw());
    return {index, score, statistics};
  }

  static Tensor index(const Arguments& args, const std::optional<c10::SymInt>& num_samples) {
    return std::get<0>(search(args, num_samples, /*scored=*/false, /*with_statistics=*/false));
  }

  static std::tuple<Tensor, Tensor> scored_index(const Arguments& args, const std::optional<c10::SymInt>& num_samples) {
    const auto [index, score, none] = search(args, num_samples, /*scored=*/true, /*with_statistics=*/false);
    return {index, score};
  }

  static std::tuple<Tensor, Tensor> draw(const Arguments& args, const std::optional<c10::SymInt>& num_samples) {
    const auto [index, none, statistics] = search(args, num_samples, /*scored=*/false, /*with_statistics=*/true);
    return {index, statistics};
  }

  static std::tuple<Tensor, Tensor, Tensor> scored_draw(const Arguments& args,
                                                        const std::optional<c10::SymInt>& num_samples) {
    return search(args, num_samples, /*scored=*/true, /*with_statistics=*/true);
  }

  static std::tuple<Tensor, Tensor> log_prob(const LogProbArguments& args) {
    const LogProbInputs<Device> inputs(args, check_log_prob(args));
    const auto options = args.logits.options().dtype(scores_type(args.logits.scalar_type()));
    Tensor log_prob = at::empty(args.index.sizes(), options);
    Tensor entropy = at::empty(C10_AS_INTARRAYREF_SLOW(index_shape(args.logits, inputs.dim, {})), options);
    LogProbJob job = inputs.job;
    job.log_prob = log_prob.mutable_data_ptr();
    job.entropy = entropy.mutable_data_ptr();
    Device::run(job, element_of(args.logits));
    return {log_prob, entropy};
  }

  static std::tuple<Tensor, Tensor> log_prob_backward(const OptionalTensor& grad_log_prob,
                                                      const OptionalTensor& grad_entropy, const LogProbArguments& args,
                                                      bool need_temperature) {
    const LogProbInputs<Device> inputs(args, check_log_prob_backward(grad_log_prob, grad_entropy, args));
    const Tensor of_log_prob = grad_log_prob ? grad_log_prob->contiguous() : Tensor();
    const Tensor of_entropy = grad_entropy ? grad_entropy->contiguous() : Tensor();
    Tensor grad_logits = Device::new_like(args.logits), grad_temperature;
    LogProbBackwardJob job;
    job.forward = inputs.job;
    if (grad_log_prob) job.grad_log_prob = of_log_prob.const_data_ptr();
    if (grad_entropy) job.grad_entropy = of_entropy.const_data_ptr();
    job.grad_logits = output_rows_of(grad_logits, inputs.dim);
    if (need_temperature) job.grad_temperature = new_row_sums(args.logits, inputs.dim, grad_temperature);
    Device::run(job, element_of(args.logits));
    return {grad_logits, grad_temperature};
  }

  static Ranked top_classes(const Arguments& args, const Ranking& ranking) {
    const Inputs inputs(args, "temperature", /*may_be_zero=*/true);
    const std::int64_t k = ranking.k;
    check_k(args.logits, inputs.dim, k);
    auto shape = index_shape(args.logits, inputs.dim, k);
    const auto options = args.logits.options();
    Tensor index = at::empty(C10_AS_INTARRAYREF_SLOW(shape), options.dtype(at::kLong));
    Tensor found = at::empty(index.sizes(), options.dtype(scores_type(args.logits.scalar_type())));
    shape.back() = kRowStatistics;
    Tensor statistics = at::empty(C10_AS_INTARRAYREF_SLOW(shape), options.dtype(at::kDouble));
    Device::run(
        TopClassesJob{inputs.scores, inputs.tau, k, index.template mutable_data_ptr<std::int64_t>(),
                      found.mutable_data_ptr(), statistics.template mutable_data_ptr<double>(), ranking.relative},
        element_of(args.logits), inputs.draw());
    return {index, found, statistics};
  }

  static std::tuple<Tensor, Tensor> sample(const Arguments& args, double tau, const OptionalTensor& tau_rows) {
    const std::int64_t dim = check_sample(args, tau, tau_rows);
    const Inputs inputs(args, "temperature", /*may_be_zero=*/false);
    Tensor memory;
    checked_row_scalar<Device>("tau", tau, tau_rows, args.logits, dim, memory);
    const auto options = args.logits.options().dtype(at::kLong);
    const auto shape = index_shape(args.logits, dim, {});
    Tensor index = at::empty(C10_AS_INTARRAYREF_SLOW(shape), options), seed = at::empty({}, options);
    IndexJob job{inputs.scores, inputs.tau};
    job.out = index.template mutable_data_ptr<std::int64_t>();
    job.marks = true;
    Device::run(job, element_of(args.logits), [&](Noise& noise) {
      auto drawn = (*inputs.noise)(noise);
      Device::record_seed(noise, seed.template mutable_data_ptr<std::int64_t>());
      return drawn;
    });
    return {index, seed};
  }

  static Tensor one_hot_of(const Tensor& index, const Tensor& logits, std::int64_t dim) {
    dim = at::maybe_wrap_dim(dim, logits.dim());
    const typename Device::Guard guard(logits.device());
    const Tensor rows = index.contiguous();
    Tensor out = Device::new_like(logits);
    Device::run(OneHotJob{shape_of(out, dim), rows.template const_data_ptr<std::int64_t>(), output_rows_of(out, dim)},
                element_of(out));
    return out;
  }

  static Gradients estimate(const Tensor& grad, const EstimatorArguments& args, bool need_temperature, bool need_tau) {
    const std::int64_t dim = check_backward(grad, args.logits, args.dim);
    const typename Device::Guard guard(args.logits.device());
    EstimateJob job;
    job.scores.shape = shape_of(args.logits, dim);
    job.scores.logits = rows_of(args.logits, dim);
    Tensor mask, temperatures, taus, row_seeds;
    if (args.mask.has_value()) {
      mask = args.mask->expand(args.logits.sizes());
      job.scores.mask = rows_of(mask, dim);
    }
    job.temperature = checked_row_scalar<Device>("temperature", args.temperature, args.temperature_rows, args.logits,
                                                 dim, temperatures);
    job.tau = checked_row_scalar<Device>("tau", args.tau, args.tau_rows, args.logits, dim, taus);
    job.scores.noise.on = true;
    job.scores.noise.numbers = numbers_of(args.logits.sizes(), dim, args.numbers);
    if (args.seed.has_value()) Device::hold_seed(job.scores.noise, args.seed->template const_data_ptr<std::int64_t>());
    if (args.row_seeds.has_value()) {
      row_seeds = args.row_seeds->contiguous();
      job.scores.noise.row_seeds = row_seeds.template const_data_ptr<std::int64_t>();
    }
    job.estimator = static_cast<Estimator>(args.estimator);
    job.num_noises = args.num_noises;
    const Tensor index = args.index.contiguous();
    job.index = index.template const_data_ptr<std::int64_t>();
    job.grad = rows_of(grad, dim);
    Tensor grad_logits = Device::new_like(args.logits), grad_temperature, grad_tau;
    job.grad_logits = output_rows_of(grad_logits, dim);
    if (need_temperature) job.grad_temperature = new_row_sums(args.logits, dim, grad_temperature);
    if (need_tau) job.grad_tau = new_row_sums(args.logits, dim, grad_tau);
    Device::run(job, element_of(args.logits));
    return {grad_logits, grad_temperature, grad_tau};
  }

  static Tensor noise(const Tensor& like, OptionalSeed seed, const OptionalTensor& row_seeds,
                      const OptionalGenerator& generator, OptionalNumbers numbers, std::int64_t, std::int64_t draw) {
    check_noise(like, seed, row_seeds, generator, numbers, draw);
    const typename Device::Guard guard(like.device());
    const std::int64_t dim = like.dim() - 1;
    const NoiseSource source(seed, row_seeds, generator, numbers_of(like.sizes(), dim, numbers));
    Tensor out = Device::new_like(like);
    Device::run(NoiseJob{shape_of(out, dim), {}, static_cast<std::uint32_t>(draw), output_rows_of(out, dim)},
                element_of(out), source);
    return out;
  }

  static Tensor noise_at(const Tensor& classes, at::ScalarType dtype, OptionalSeed seed,
                         const OptionalTensor& row_seeds) {
    check_noise_at(classes, dtype, seed, row_seeds);
    const typename Device::Guard guard(classes.device());
    const OptionalGenerator none;
    const NoiseSource source(seed, row_seeds, none, {});
    const Tensor held = classes.contiguous();
    Tensor out = Device::new_like(at::empty({}, classes.options().dtype(dtype)).expand(classes.sizes()));
    NoiseAtJob job;
    job.draws = classes.size(-1);
    job.rows = job.draws > 0 ? classes.numel() / job.draws : 0;
    job.noise = source.noise;
    job.classes = held.template const_data_ptr<std::int64_t>();
    job.out = out.mutable_data_ptr();
    Device::run(job, element_of(out));
    return out;
  }

  // Writes the gradient for the logits to `grad_logits`, where it is defined; it may be `relaxed` itself.
  // Returns the gradient for tau, one a row, where it is needed.
  static Tensor write_backward(const Tensor& grad, const Tensor& relaxed, double tau, const OptionalTensor& tau_rows,
                               std::int64_t dim, const Tensor& grad_logits, bool need_tau) {
    BackwardJob job;
    job.shape = shape_of(relaxed, dim);
    if (grad_logits.defined()) job.grad_logits = output_rows_of(grad_logits, dim);  // first: it may be `relaxed`
    job.grad = rows_of(grad, dim);
    job.relaxed = rows_of(relaxed, dim);
    Tensor row_taus, grad_tau;
    if (tau_rows.has_value()) check_temperature_rows("tau", *tau_rows, relaxed, dim);
    job.tau = row_scalar(tau, tau_rows, relaxed, dim, row_taus);
    if (need_tau) job.grad_tau = new_row_sums(relaxed, dim, grad_tau);
    Device::run(job, element_of(relaxed));
    return grad_tau;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& relaxed, double tau,
                                             const OptionalTensor& tau_rows, std::int64_t dim, bool need_logits,
                                             bool need_tau) {
    dim = check_backward(grad, relaxed, dim);
    if (!need_logits && !need_tau) return {};
    const typename Device::Guard guard(relaxed.device());
    const Tensor grad_logits = need_logits ? Device::new_like(relaxed) : Tensor();
    const Tensor grad_tau = write_backward(grad, relaxed, tau, tau_rows, dim, grad_logits, need_tau);
    return {grad_logits, grad_tau};
  }

  static Tensor backward_in_place(const Tensor& grad, Tensor& relaxed, double tau, const OptionalTensor& tau_rows,
                                  std::int64_t dim, bool need_tau) {
    dim = check_backward(grad, relaxed, dim);
    at::assert_no_internal_overlap(relaxed);
    at::assert_no_overlap(relaxed, grad);
    const typename Device::Guard guard(relaxed.device());
    const Tensor grad_tau = write_backward(grad, relaxed, tau, tau_rows, dim, relaxed, need_tau);
    relaxed.unsafeGetTensorImpl()->bump_version();  // (torch's fallback counts only what an operator also returns)
    return grad_tau;
  }

  static std::tuple<Tensor, Tensor> top_k(const Arguments& args, const SoftTopK& top) {
    const Inputs inputs(args, "tau", /*may_be_zero=*/false);
    check_k(args.logits, inputs.dim, top.k);
    const auto type = scores_type(args.logits.scalar_type());
    const Tensor like = at::empty({}, args.logits.options().dtype(type)).expand(args.logits.sizes());
    Tensor out = Device::new_like(args.logits), scores = Device::new_like(like);
    Device::run(TopKJob{inputs.scores, inputs.tau, top.k, top.hard, output_rows_of(out, inputs.dim),
                        output_rows_of(scores, inputs.dim)},
                element_of(args.logits), inputs.draw());
    return {out, scores};
  }

  static std::tuple<Tensor, Tensor> top_k_backward(const Tensor& grad, const Tensor& scores, std::int64_t k,
                                                   const Tensor& tau, std::int64_t dim, bool need_logits,
                                                   bool need_tau) {
    dim = check_top_k_backward(grad, scores, k, tau, dim);
    if (!need_logits && !need_tau) return {};
    const typename Device::Guard guard(grad.device());
    TopKBackwardJob job;
    job.shape = shape_of(grad, dim);
    job.k = k;
    job.grad = rows_of(grad, dim);
    job.scores = rows_of(scores, dim);
    Tensor row_taus, grad_logits, grad_tau;
    job.tau = row_scalar(1, tau, grad, dim, row_taus);
    if (need_logits) job.grad_logits = output_rows_of(grad_logits = Device::new_like(grad), dim);
    if (need_tau) {
      const auto shape = row_shape(grad, dim);
      grad_tau = at::zeros(C10_AS_INTARRAYREF_SLOW(shape), grad.options().dtype(at::kDouble));
      job.grad_tau = grad_tau.template mutable_data_ptr<double>();
    }
    Device::run(job, element_of(grad));
    return {grad_logits, grad_tau};
  }

  static void implement(torch::Library& library) {
    library.impl("_relaxed", forward_kernel<relaxed<false>>);
    library.impl("_log_relaxed", forward_kernel<relaxed<true>>);
    library.impl("_one_hot", forward_kernel<one_hot>);
    library.impl("_one_hot_relaxed", forward_kernel<one_hot_relaxed>);
    library.impl("_index", index_kernel<index>);
    library.impl("_scored_index", index_kernel<scored_index>);
    library.impl("_draw", index_kernel<draw>);
    library.impl("_scored_draw", index_kernel<scored_draw>);
    library.impl("_log_prob", log_prob_kernel<log_prob>);
    library.impl("_log_prob_backward", log_prob_backward_kernel<log_prob_backward>);
    library.impl("_top_classes", top_classes_kernel<top_classes>);
    library.impl("_sample", sample_kernel<sample>);
    library.impl("_one_hot_of", one_hot_of);
    library.impl("_estimate", estimate_kernel<estimate>);
    library.impl("_noise", noise);
    library.impl("_noise_at", noise_at);
    library.impl("_backward", backward);
    library.impl("_backward_", backward_in_place);
    library.impl("_top_k", top_k_kernel<top_k>);
    library.impl("_top_k_backward", top_k_backward);
  }
};

}  // namespace gumbel_ext
