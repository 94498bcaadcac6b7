// The operators under torch.func.vmap: one call on the whole batch, which is one more dimension of rows.
//
// Without a seed, vmap's `randomness` rules as for torch's own random functions: an error, the same noise for every
// element, or different noise, also where no argument is batched. With a seed, each element is what a loop would
// compute: the rows of all elements are numbered alike.
#include <ATen/Functions.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/functorch/DynamicLayer.h>
#include <ATen/functorch/PlumbingHelper.h>
#include <torch/library.h>

#include "checks.h"
#include "operators.h"

namespace gumbel_ext {
namespace {

using at::Tensor;
using at::functorch::RandomnessType;

// A call's tensors with the batch as their first dimension, and the result on its way back. Without a batch, all is
// as it came.
class Batch {
 public:
  // `draws`: whether the call draws noise without a seed.
  Batch(std::initializer_list<OptionalTensor> tensors, const Tensor& first, bool draws)
      : layer_(*at::functorch::maybeCurrentDynamicLayer()), ndim_(first.dim()) {
    const bool may_draw = !draws || layer_.randomness() != RandomnessType::Error;
    TORCH_CHECK(
        may_draw,
        "gumbel_ext: expected randomness=\"same\" or \"different\" from vmap, for noise that is drawn without a "
        "seed, got \"error\"");
    is_different_ = draws && layer_.randomness() == RandomnessType::Different;
    is_on_ = is_different_;
    for (const OptionalTensor& tensor : tensors) is_on_ |= at::functorch::isBatchedAtLevel(tensor, layer_.layerId());
  }

  // A tensor with all the dimensions of the first one; of a single number, with one more.
  Tensor whole(const Tensor& tensor) const {
    if (!is_on_) return tensor;
    auto [value, at_dim] = at::functorch::unwrapTensorAtLevel(tensor, layer_.layerId());
    value = at_dim ? value.movedim(*at_dim, 0) : expanded(value);
    return ndim_ == 0 ? value.unsqueeze(-1) : value;
  }
  // A tensor that broadcasts to the first one.
  OptionalTensor aligned(const OptionalTensor& tensor) const {
    if (!is_on_ || !tensor) return tensor;
    auto [value, at_dim] = at::functorch::unwrapTensorAtLevel(*tensor, layer_.layerId());
    if (!at_dim) return value;
    value = value.movedim(*at_dim, 0);
    while (value.dim() < std::max<std::int64_t>(ndim_, 1) + 1) value = value.unsqueeze(1);
    return value;
  }
  // Matrices whose first dimensions broadcast to those of the rows, of which an element has `rows`.
  OptionalTensor matrices(const OptionalTensor& tensor, std::int64_t rows) const {
    if (!is_on_ || !tensor) return tensor;
    auto [value, at_dim] = at::functorch::unwrapTensorAtLevel(*tensor, layer_.layerId());
    if (!at_dim) return value;
    value = value.movedim(*at_dim, 0);
    while (value.dim() < rows + 3) value = value.unsqueeze(1);
    return value;
  }
  // A tensor with one number a row.
  OptionalTensor per_row(const OptionalTensor& tensor) const {
    if (!is_on_ || !tensor) return tensor;
    auto [value, at_dim] = at::functorch::unwrapTensorAtLevel(*tensor, layer_.layerId());
    return at_dim ? value.movedim(*at_dim, 0) : expanded(value);
  }
  std::int64_t dim(std::int64_t dim) const {
    return is_on_ ? at::maybe_wrap_dim(dim, ndim_) + 1 : dim;
  }

  // How the batch's rows are numbered, given how an element's are.
  c10::SymDimVector row_numbering(const Tensor& first, std::int64_t dim, OptionalNumbers given) const {
    c10::SymDimVector strides(ndim_, 0);
    c10::SymInt count = 1;  // above the last of an element's rows
    for (std::int64_t d = ndim_ - 1; d >= 0; --d) {
      const c10::SymInt size = first.sym_size(d);
      if (given) {
        strides[d] = (*given)[d + 2];
        count += (size - 1) * strides[d];
      } else if (d != at::maybe_wrap_dim(dim, ndim_)) {
        strides[d] = count;
        count *= size;
      }
    }
    const c10::SymInt none(0);
    c10::SymDimVector result{given ? (*given)[0] : none, given ? (*given)[1] : none, is_different_ ? count : none};
    result.append(strides.begin(), strides.end());
    if (ndim_ == 0) result.push_back(0);
    return result;
  }

  Tensor result(const Tensor& tensor, bool has_classes = true) const {
    if (!is_on_ || !tensor.defined()) return tensor;
    const Tensor value = ndim_ == 0 && has_classes ? tensor.squeeze(-1) : tensor;
    return at::functorch::makeBatched(value, 0, layer_.layerId());
  }
  explicit operator bool() const {
    return is_on_;
  }

 private:
  Tensor expanded(const Tensor& tensor) const {
    c10::SymDimVector shape{layer_.batchSize()};
    shape.append(tensor.sym_sizes().begin(), tensor.sym_sizes().end());
    return tensor.expand_symint(shape);
  }

  at::functorch::DynamicLayer layer_;
  std::int64_t ndim_;
  bool is_different_ = false, is_on_ = false;
  c10::impl::ExcludeDispatchKeyGuard below_{
      c10::DispatchKeySet({c10::DispatchKey::FuncTorchVmapMode, c10::DispatchKey::FuncTorchBatched})};
};

// The same for a call that may draw noise, and how that goes on to number its rows.
struct NoisyBatch : Batch {
  c10::SymDimVector own;
  OptionalNumbers numbers;

  NoisyBatch(const Arguments& args, const OptionalTensor& other = {})
      : Batch({args.logits, args.mask, args.tau_rows, args.row_seeds, other}, args.logits,
              args.noise && !args.seed.has_value() && !args.row_seeds.has_value()),
        numbers(args.numbers) {
    if (!*this || !args.noise || args.row_seeds.has_value()) return;
    own = row_numbering(args.logits, args.dim, args.numbers);
    numbers = c10::SymIntArrayRef(own);
  }

  // op(), called with the whole batch.
  template <typename Operator, typename... Rest>
  auto call_whole(const Operator& op, const Arguments& args, const Rest&... rest) const {
    const Tensor logits = whole(args.logits);
    const OptionalTensor mask = aligned(args.mask), tau_rows = aligned(args.tau_rows),
                         row_seeds = per_row(args.row_seeds);
    return call(op,
                Arguments{logits, mask, args.tau, tau_rows, args.noise, args.seed, row_seeds, args.generator,
                          dim(args.dim), numbers, args.call},
                rest...);
  }
};

template <auto op>
Tensor forward_vmap(const Arguments& args) {
  check_arguments(args, "tau", /*may_be_zero=*/false);
  const NoisyBatch batch(args);
  return batch.result(batch.call_whole(op(), args));
}

std::tuple<Tensor, Tensor> one_hot_relaxed_vmap(const Arguments& args) {
  check_arguments(args, "tau", /*may_be_zero=*/false);
  const NoisyBatch batch(args);
  const auto [one_hot, relaxed] = batch.call_whole(one_hot_relaxed_operator(), args);
  return {batch.result(one_hot), batch.result(relaxed)};
}

Tensor index_vmap(const Arguments& args, const std::optional<c10::SymInt>& num_samples) {
  index_shape(args.logits, check_arguments(args, "temperature", /*may_be_zero=*/true), num_samples);
  const NoisyBatch batch(args);
  return batch.result(batch.call_whole(index_operator(), args, num_samples), /*has_classes=*/false);
}

Ranked top_classes_vmap(const Arguments& args, const Ranking& ranking) {
  check_k(args.logits, check_arguments(args, "temperature", /*may_be_zero=*/true), ranking.k);
  const NoisyBatch batch(args);
  const auto [index, found, statistics] = batch.call_whole(top_classes_operator(), args, ranking);
  return {batch.result(index, /*has_classes=*/false), batch.result(found, /*has_classes=*/false),
          batch.result(statistics, /*has_classes=*/false)};
}

Tensor top_scores_vmap(const Tensor& found, const Tensor& statistics, const Tensor& log_probs) {
  const Batch batch({found, statistics, log_probs}, found, /*draws=*/false);
  return batch.result(
      top_scores_operator().call(*batch.per_row(found), *batch.per_row(statistics), *batch.per_row(log_probs)),
      /*has_classes=*/false);
}

std::tuple<Tensor, Tensor> sample_vmap(const Arguments& args, double tau, const OptionalTensor& tau_rows) {
  check_sample(args, tau, tau_rows);
  const NoisyBatch batch(args, tau_rows);
  const auto [index, seed] = batch.call_whole(sample_operator(), args, tau, batch.aligned(tau_rows));
  return {batch.result(index, /*has_classes=*/false), seed};
}

std::tuple<Tensor, Tensor> draw_vmap(const Arguments& args, const std::optional<c10::SymInt>& num_samples) {
  index_shape(args.logits, check_arguments(args, "temperature", /*may_be_zero=*/true), num_samples);
  const NoisyBatch batch(args);
  const auto [index, statistics] = batch.call_whole(draw_operator(), args, num_samples);
  return {batch.result(index, /*has_classes=*/false), batch.result(statistics, /*has_classes=*/false)};
}

// call(arguments of the whole batch).
auto with_whole_batch(const Batch& batch, const LogProbArguments& args, auto call) {
  const Tensor logits = batch.whole(args.logits), index = *batch.per_row(args.index),
               statistics = *batch.per_row(args.statistics);
  const OptionalTensor mask = batch.aligned(args.mask), temperature_rows = batch.aligned(args.temperature_rows);
  return call(
      LogProbArguments{logits, mask, args.temperature, temperature_rows, index, statistics, batch.dim(args.dim)});
}

std::tuple<Tensor, Tensor> log_prob_vmap(const LogProbArguments& args) {
  const Batch batch({args.logits, args.mask, args.temperature_rows, args.index, args.statistics}, args.logits,
                    /*draws=*/false);
  return with_whole_batch(batch, args, [&](const LogProbArguments& whole) {
    const auto [log_prob, entropy] = call_log_prob(whole);
    return std::tuple(batch.result(log_prob, /*has_classes=*/false), batch.result(entropy, /*has_classes=*/false));
  });
}

std::tuple<Tensor, Tensor> log_prob_backward_vmap(const OptionalTensor& grad_log_prob,
                                                  const OptionalTensor& grad_entropy, const LogProbArguments& args,
                                                  bool need_temperature) {
  const Batch batch(
      {args.logits, args.mask, args.temperature_rows, args.index, args.statistics, grad_log_prob, grad_entropy},
      args.logits, /*draws=*/false);
  return with_whole_batch(batch, args, [&](const LogProbArguments& whole) {
    const auto [logits, temperature] =
        call_log_prob_backward(batch.per_row(grad_log_prob), batch.per_row(grad_entropy), whole, need_temperature);
    return std::tuple(batch.result(logits), batch.result(temperature));
  });
}

// call(arguments of the whole batch).
template <typename Call>
auto with_whole_batch(const Batch& batch, const EstimatorArguments& args, Call call) {
  c10::SymDimVector own;
  OptionalNumbers numbers = args.numbers;
  if (batch && !args.row_seeds.has_value()) {
    own = batch.row_numbering(args.logits, args.dim, args.numbers);
    numbers = c10::SymIntArrayRef(own);
  }
  const Tensor logits = batch.whole(args.logits), index = *batch.per_row(args.index);
  const OptionalTensor mask = batch.aligned(args.mask), temperature_rows = batch.aligned(args.temperature_rows),
                       tau_rows = batch.aligned(args.tau_rows), row_seeds = batch.per_row(args.row_seeds);
  return call(EstimatorArguments{logits, mask, args.temperature, temperature_rows, args.tau, tau_rows, index, args.seed,
                                 row_seeds, args.estimator, args.num_noises, batch.dim(args.dim), numbers, args.drawn});
}

Tensor choice_vmap(const OptionalTensor& weight, const EstimatorArguments& args) {
  const Batch batch({args.logits, args.mask, args.temperature_rows, args.tau_rows, args.index, args.row_seeds, weight},
                    args.logits, args.drawn);
  return with_whole_batch(batch, args, [&](const EstimatorArguments& whole) {
    return batch.result(call_choice(batch.matrices(weight, args.index.dim()), whole), /*has_classes=*/!weight);
  });
}

Gradients estimate_vmap(const Tensor& grad, const EstimatorArguments& args, bool need_temperature, bool need_tau) {
  const Batch batch({args.logits, args.mask, args.temperature_rows, args.tau_rows, args.index, args.row_seeds, grad},
                    args.logits, args.drawn);
  return with_whole_batch(batch, args, [&](const EstimatorArguments& whole) {
    const auto [logits, temperature, tau] = call_estimate(batch.whole(grad), whole, need_temperature, need_tau);
    return Gradients(batch.result(logits), batch.result(temperature), batch.result(tau));
  });
}

Tensor one_hot_of_vmap(const Tensor& index, const Tensor& logits, std::int64_t dim) {
  const Batch batch({index, logits}, logits, /*draws=*/false);
  return batch.result(one_hot_of_operator().call(*batch.per_row(index), batch.whole(logits), batch.dim(dim)));
}

Tensor noise_vmap(const Tensor& like, OptionalSeed seed, const OptionalTensor& row_seeds,
                  const OptionalGenerator& generator, OptionalNumbers numbers, std::int64_t call, std::int64_t draw) {
  check_noise(like, seed, row_seeds, generator, numbers, draw);
  const OptionalTensor none;
  const NoisyBatch batch({like, none, 1, none, /*noise=*/true, seed, row_seeds, generator, -1, numbers, call});
  return batch.result(
      noise_operator().call(batch.whole(like), seed, batch.per_row(row_seeds), generator, batch.numbers, call, draw));
}

std::tuple<Tensor, Tensor> backward_vmap(const Tensor& grad, const Tensor& relaxed, double tau,
                                         const OptionalTensor& tau_rows, std::int64_t dim, bool need_logits,
                                         bool need_tau) {
  const Batch batch({grad, relaxed, tau_rows}, relaxed, /*draws=*/false);
  const auto [grad_logits, grad_tau] = backward_operator().call(
      batch.whole(grad), batch.whole(relaxed), tau, batch.aligned(tau_rows), batch.dim(dim), need_logits, need_tau);
  return {batch.result(grad_logits), batch.result(grad_tau)};
}

std::tuple<Tensor, Tensor> top_k_vmap(const Arguments& args, const SoftTopK& top) {
  check_k(args.logits, check_arguments(args, "tau", /*may_be_zero=*/false), top.k);
  const NoisyBatch batch(args);
  const auto [value, scores] = batch.call_whole(top_k_operator(), args, top);
  return {batch.result(value), batch.result(scores)};
}

std::tuple<Tensor, Tensor> top_k_backward_vmap(const Tensor& grad, const Tensor& scores, std::int64_t k,
                                               const Tensor& tau, std::int64_t dim, bool need_logits, bool need_tau) {
  const Batch batch({grad, scores, tau}, grad, /*draws=*/false);
  const auto [grad_logits, grad_tau] = top_k_backward_operator().call(
      batch.whole(grad), batch.whole(scores), k, *batch.aligned(tau), batch.dim(dim), need_logits, need_tau);
  return {batch.result(grad_logits), batch.result(grad_tau)};
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, FuncTorchVmapMode, m) {
  m.impl("_relaxed", forward_kernel<forward_vmap<relaxed_operator>>);
  m.impl("_log_relaxed", forward_kernel<forward_vmap<log_relaxed_operator>>);
  m.impl("_one_hot", forward_kernel<forward_vmap<one_hot_operator>>);
  m.impl("_one_hot_relaxed", forward_kernel<one_hot_relaxed_vmap>);
  m.impl("_index", index_kernel<index_vmap>);
  m.impl("_draw", index_kernel<draw_vmap>);
  m.impl("_log_prob", log_prob_kernel<log_prob_vmap>);
  m.impl("_log_prob_backward", log_prob_backward_kernel<log_prob_backward_vmap>);
  m.impl("_top_scores", top_scores_vmap);
  m.impl("_top_classes", top_classes_kernel<top_classes_vmap>);
  m.impl("_sample", sample_kernel<sample_vmap>);
  m.impl("_choice", choice_kernel<choice_vmap>);
  m.impl("_estimate", estimate_kernel<estimate_vmap>);
  m.impl("_one_hot_of", one_hot_of_vmap);
  m.impl("_noise", noise_vmap);
  m.impl("_backward", backward_vmap);
  m.impl("_top_k", top_k_kernel<top_k_vmap>);
  m.impl("_top_k_backward", top_k_backward_vmap);
}

}  // namespace gumbel_ext
