// Under autocast on CUDA, results are float32, as those of torch's own softmax; on the CPU both keep the dtype.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "operators.h"

namespace gumbel_ext {
namespace {

// call(op(), args, rest...) with the logits as float32.
template <auto op, typename... Rest>
auto in_float32(const Arguments& args, const Rest&... rest) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::AutocastCUDA);
  const at::Tensor logits = at::autocast::cached_cast(at::kFloat, args.logits, at::kCUDA);
  return call(op(),
              {logits, args.mask, args.tau, args.tau_rows, args.noise, args.seed, args.row_seeds, args.generator,
               args.dim, args.numbers, args.call},
              rest...);
}

at::Tensor choice_in_float32(const OptionalTensor& weight, const EstimatorArguments& args) {
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::AutocastCUDA);
  const at::Tensor logits = at::autocast::cached_cast(at::kFloat, args.logits, at::kCUDA);
  return call_choice(weight,
                     {logits, args.mask, args.temperature, args.temperature_rows, args.tau, args.tau_rows, args.index,
                      args.seed, args.row_seeds, args.estimator, args.num_noises, args.dim, args.numbers, args.drawn});
}

}  // namespace

TORCH_LIBRARY_IMPL(gumbel_ext, AutocastCUDA, m) {
  m.impl("_relaxed", forward_kernel<in_float32<relaxed_operator>>);
  m.impl("_log_relaxed", forward_kernel<in_float32<log_relaxed_operator>>);
  m.impl("_one_hot", forward_kernel<in_float32<one_hot_operator>>);
  m.impl("_choice", choice_kernel<choice_in_float32>);
  m.impl("_one_hot_relaxed", forward_kernel<in_float32<one_hot_relaxed_operator>>);
  m.impl("_top_k", top_k_kernel<in_float32<top_k_operator, SoftTopK>>);
}

}  // namespace gumbel_ext
