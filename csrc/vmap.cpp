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
        strides[d] = (*given)[d + 1];
        count += (size - 1) * strides[d];
      } else if (d != at::maybe_wrap_dim(dim, ndim_)) {
        strides[d] = count;
        count *= size;
      }
    }
    c10::SymDimVector result{given ? (*given)[0] : c10::SymInt(0), is_different_ ? count : c10::SymInt(0)};
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

// The same with the numbers that the call goes on with.
struct NoisyBatch : Batch {
  c10::SymDimVector own;
  OptionalNumbers numbers;

  NoisyBatch(const Arguments& args, bool noise)
      : Batch({args.logits, args.mask, args.tau_rows, args.row_seeds}, args.logits,
              noise && !args.seed.has_value() && !args.row_seeds.has_value()),
        numbers(args.numbers) {
    if (!*this || !noise || args.row_seeds.has_value()) return;
    own = row_numbering(args.logits, args.dim, args.numbers);
    numbers = c10::SymIntArrayRef(own);
  }
};

Tensor relaxed_vmap(const Tensor& logits, const OptionalTensor& mask, double tau, const OptionalTensor& tau_rows,
                    bool noise, OptionalInt seed, const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                    std::int64_t dim, OptionalNumbers numbers) {
  const Arguments args{logits, mask, tau, tau_rows, seed, row_seeds, generator, dim, numbers};
  check_arguments(args, "tau", /*may_be_zero=*/false);
  const NoisyBatch batch(args, noise);
  return batch.result(relaxed_operator().call(batch.whole(logits), batch.aligned(mask), tau, batch.aligned(tau_rows),
                                              noise, seed, batch.per_row(row_seeds), generator, batch.dim(dim),
                                              batch.numbers));
}

std::tuple<Tensor, Tensor> one_hot_vmap(const Tensor& logits, const OptionalTensor& mask, double tau,
                                        const OptionalTensor& tau_rows, bool noise, OptionalInt seed,
                                        const OptionalTensor& row_seeds, const OptionalGenerator& generator,
                                        std::int64_t dim, bool keep_relaxed, OptionalNumbers numbers) {
  const Arguments args{logits, mask, tau, tau_rows, seed, row_seeds, generator, dim, numbers};
  check_arguments(args, "tau", /*may_be_zero=*/false);
  const NoisyBatch batch(args, noise);
  const auto [one_hot, relaxed] =
      one_hot_operator().call(batch.whole(logits), batch.aligned(mask), tau, batch.aligned(tau_rows), noise, seed,
                              batch.per_row(row_seeds), generator, batch.dim(dim), keep_relaxed, batch.numbers);
  return {batch.result(one_hot), keep_relaxed ? batch.result(relaxed) : relaxed};
}

Tensor index_vmap(const Tensor& logits, const OptionalTensor& mask, double temperature,
                  const OptionalTensor& temperature_rows, OptionalInt seed, const OptionalTensor& row_seeds,
                  const OptionalGenerator& generator, std::int64_t dim, std::optional<c10::SymInt> num_samples,
                  OptionalNumbers numbers) {
  const Arguments args{logits, mask, temperature, temperature_rows, seed, row_seeds, generator, dim, numbers};
  check_index_shape(logits, check_arguments(args, "temperature", /*may_be_zero=*/true), num_samples);
  const NoisyBatch batch(args, temperature_rows.has_value() || temperature != 0);
  const Tensor index = index_operator().call(batch.whole(logits), batch.aligned(mask), temperature,
                                             batch.aligned(temperature_rows), seed, batch.per_row(row_seeds), generator,
                                             batch.dim(dim), std::move(num_samples), batch.numbers);
  return batch.result(index, /*has_classes=*/false);
}

Tensor noise_vmap(const Tensor& like, OptionalInt seed, const OptionalTensor& row_seeds,
                  const OptionalGenerator& generator, OptionalNumbers numbers) {
  check_noise(like, seed, row_seeds, generator, numbers);
  const OptionalTensor none;
  const NoisyBatch batch({like, none, 1, none, seed, row_seeds, generator, -1, numbers}, /*noise=*/true);
  return batch.result(
      noise_operator().call(batch.whole(like), seed, batch.per_row(row_seeds), generator, batch.numbers));
}

std::tuple<Tensor, Tensor> backward_vmap(const Tensor& grad, const Tensor& relaxed, double tau,
                                         const OptionalTensor& tau_rows, std::int64_t dim, bool need_logits,
                                         bool need_tau) {
  const Batch batch({grad, relaxed, tau_rows}, relaxed, /*draws=*/false);
  const auto [grad_logits, grad_tau] = backward_operator().call(
      batch.whole(grad), batch.whole(relaxed), tau, batch.aligned(tau_rows), batch.dim(dim), need_logits, need_tau);
  return {batch.result(grad_logits), batch.result(grad_tau)};
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, FuncTorchVmapMode, m) {
  m.impl("_relaxed", relaxed_vmap);
  m.impl("_one_hot", one_hot_vmap);
  m.impl("_index", index_vmap);
  m.impl("_noise", noise_vmap);
  m.impl("_backward", backward_vmap);
}

}  // namespace gumbel_ext
