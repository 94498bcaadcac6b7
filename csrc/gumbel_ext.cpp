// The public functions: from C++ by name, from everywhere else as operators (schemas.cpp).
#include "gumbel_ext.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/library.h>
#include <torch/version.h>

#include <atomic>

#include "checks.h"
#include "cpu/caching_allocator.h"
#include "cpu/select_kernels.h"
#include "operators.h"
#include "public_call.h"

namespace gumbel_ext {

std::int64_t number_of_call(const OptionalSeed& seed, const OptionalTensor& row_seeds) {
  static std::atomic<std::int64_t> calls = 0;
  const bool draws = !seed.has_value() && !row_seeds.has_value();
  return draws && c10::impl::TorchDispatchModeTLS::any_modes_set() ? ++calls : 0;
}

void check_device_has_kernels(const at::Device& device) {
  if (device.is_cpu() || device.is_meta()) return;
  const bool cuda = relaxed_operator().hasKernelForDispatchKey(c10::DispatchKey::CUDA);
  TORCH_CHECK_NOT_IMPLEMENTED(cuda && device.is_cuda(), "gumbel_ext: expected tensors on ",
                              cuda ? "cpu or cuda" : "cpu", ", the devices this build has kernels for, got ", device);
}

void check_kind(const at::Tensor& logits, const char* temperature_name, const Temperature& temperature,
                const OptionalTensor& mask, const SymSeed& seed) {
  check_dense("logits", logits);
  check_device_has_kernels(logits.device());
  if (temperature.rows) check_dense(temperature_name, *temperature.rows);
  if (mask) check_dense("mask", *mask);
  if (seed.rows) check_dense("seed", *seed.rows);
}

namespace {

const auto& forward_operator(bool hard) {
  return hard ? one_hot_operator() : relaxed_operator();
}

// `op` is a forward_operator.
at::Tensor forward(const c10::TypedOperatorHandle<ForwardSignature<at::Tensor>>& op, const at::Tensor& logits,
                   const Temperature& tau, std::int64_t dim, const OptionalTensor& mask, bool noise,
                   const SymSeed& seed, const OptionalGenerator& generator) {
  check_kind(logits, "tau", tau, mask, seed);
  const std::int64_t number = noise ? number_of_call(seed.number, seed.rows) : 0;
  return call(op, {logits, mask, tau.number, tau.rows, noise, seed.number, seed.rows, generator, dim, {}, number});
}

// log(gumbel_softmax(logits, tau)), of seeds told apart.
at::Tensor log_gumbel_softmax(const at::Tensor& logits, const at::Tensor& tau, OptionalSeed seed,
                              const OptionalTensor& row_seeds, const OptionalGenerator& generator) {
  SymSeed any_seed(seed);
  any_seed.rows = row_seeds;
  return forward(log_relaxed_operator(), logits, tau, /*dim=*/-1, /*mask=*/{}, /*noise=*/true, any_seed, generator);
}

at::Tensor index(const at::Tensor& logits, const Temperature& temperature, std::int64_t dim,
                 const std::optional<c10::SymInt>& num_samples, const OptionalTensor& mask, const SymSeed& seed,
                 const OptionalGenerator& generator) {
  check_kind(logits, "temperature", temperature, mask, seed);
  return call(index_operator(),
              {logits,
               mask,
               temperature.number,
               temperature.rows,
               true,
               seed.number,
               seed.rows,
               generator,
               dim,
               {},
               number_of_call(seed.number, seed.rows)},
              num_samples);
}

at::Tensor top_k(const at::Tensor& logits, const SoftTopK& top, const Temperature& tau, std::int64_t dim,
                 const OptionalTensor& mask, const SymSeed& seed, const OptionalGenerator& generator) {
  check_kind(logits, "tau", tau, mask, seed);
  const std::int64_t number = number_of_call(seed.number, seed.rows);
  return std::get<0>(call(
      top_k_operator(),
      {logits, mask, tau.number, tau.rows, /*noise=*/true, seed.number, seed.rows, generator, dim, {}, number}, top));
}

// Where noise lies in a larger whole.
struct Offsets {
  c10::SymInt cls, row;
  std::int64_t draw;
};

// Rows in C order from the offsets on (arguments.h).
c10::SymDimVector numbers_from(const Offsets& offsets, c10::SymIntArrayRef size) {
  c10::SymDimVector numbers(size.size() + 2, 0);
  c10::SymInt count = 1;
  for (std::int64_t d = std::int64_t(size.size()) - 2; d >= 0; count *= size[d--]) numbers[d + 2] = count;
  numbers[0] = offsets.row;
  numbers[1] = offsets.cls;
  return numbers;
}

at::Tensor noise(c10::SymIntArrayRef size, const SymSeed& seed, const OptionalGenerator& generator,
                 std::optional<at::ScalarType> dtype, std::optional<at::Device> device, const Offsets& offsets) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  check_device_has_kernels(options.device());
  check_noise_size(size);
  const at::Tensor like = at::empty({}, options).expand_symint(size);  // a shape for the price of a number
  check_offsets(size, offsets.cls, offsets.row, seed.rows);
  c10::SymDimVector numbers;
  if (offsets.cls != 0 || offsets.row != 0) numbers = numbers_from(offsets, size);
  return noise_operator().call(like, seed.number, seed.rows, generator,
                               numbers.empty() ? OptionalNumbers() : c10::SymIntArrayRef(numbers),
                               number_of_call(seed.number, seed.rows), offsets.draw);
}

}  // namespace

at::Tensor softmax(const at::Tensor& logits, const Temperature& tau, std::int64_t dim, const OptionalTensor& mask) {
  GUMBEL_EXT_PROFILED("softmax", logits);
  return forward(relaxed_operator(), logits, tau, dim, mask, /*noise=*/false, {}, {});
}

at::Tensor straight_through(const at::Tensor& logits, const Temperature& tau, std::int64_t dim,
                            const OptionalTensor& mask) {
  GUMBEL_EXT_PROFILED("straight_through", logits);
  return forward(one_hot_operator(), logits, tau, dim, mask, /*noise=*/false, {}, {});
}

at::Tensor gumbel_softmax(const at::Tensor& logits, const Temperature& tau, bool hard, std::int64_t dim,
                          const OptionalTensor& mask, const Seed& seed, const OptionalGenerator& generator) {
  GUMBEL_EXT_PROFILED("gumbel_softmax", logits);
  return forward(forward_operator(hard), logits, tau, dim, mask, /*noise=*/true, seed, generator);
}

at::Tensor gumbel_max(const at::Tensor& logits, const Temperature& temperature, std::int64_t dim,
                      std::optional<std::int64_t> num_samples, const OptionalTensor& mask, const Seed& seed,
                      const OptionalGenerator& generator) {
  GUMBEL_EXT_PROFILED("gumbel_max", logits);
  return index(logits, temperature, dim, num_samples, mask, seed, generator);
}

at::Tensor gumbel_noise(at::IntArrayRef size, const Seed& seed, const OptionalGenerator& generator,
                        std::optional<at::ScalarType> dtype, std::optional<at::Device> device,
                        std::int64_t class_offset, std::int64_t row_offset, std::int64_t draw) {
  GUMBEL_EXT_PROFILED("gumbel_noise");
  return noise(c10::fromIntArrayRefSlow(size), seed, generator, dtype, device, {class_offset, row_offset, draw});
}

at::Tensor relaxed_top_k(const at::Tensor& logits, std::int64_t k, const Temperature& tau, bool hard, std::int64_t dim,
                         const OptionalTensor& mask, const Seed& seed, const OptionalGenerator& generator) {
  GUMBEL_EXT_PROFILED("relaxed_top_k", logits);
  return top_k(logits, {k, hard}, tau, dim, mask, seed, generator);
}

std::string version() {
  return GUMBEL_EXT_VERSION;
}

BuildInfo build_info() {
  BuildInfo info;
  info.version = version();
  info.torch_version = TORCH_VERSION;
#if defined(GUMBEL_EXT_WITH_CUDA)
  info.cuda = true;
#else
  info.cuda = false;
#endif
  info.cpu_isa = cpu::kernel_table().isa;
  for (const auto* table : cpu::available_kernels()) info.cpu_isas.emplace_back(table->isa);
  info.num_threads = at::get_num_threads();
  info.cpu_cached_bytes = cpu::kept_bytes();
  return info;
}

void empty_cache() {
  cpu::release_kept();
}

// ---- As operators ---------------------------------------------------------------------------------------------------

namespace {

// What the schemas have for a temperature and for a seed: a number, or a tensor with one a row.
using Number = const at::Scalar&;
using PerRow = const at::Tensor&;

template <typename Tau>
at::Tensor softmax_overload(const at::Tensor& logits, Tau tau, std::int64_t dim, const OptionalTensor& mask) {
  return forward(relaxed_operator(), logits, to_temperature("tau", tau), dim, mask, /*noise=*/false, {}, {});
}
template <typename Tau>
at::Tensor straight_through_overload(const at::Tensor& logits, Tau tau, std::int64_t dim, const OptionalTensor& mask) {
  return forward(one_hot_operator(), logits, to_temperature("tau", tau), dim, mask, /*noise=*/false, {}, {});
}
template <typename Tau, typename SeedArgument>
at::Tensor gumbel_softmax_overload(const at::Tensor& logits, Tau tau, bool hard, std::int64_t dim,
                                   const OptionalTensor& mask, SeedArgument seed, const OptionalGenerator& generator) {
  return forward(forward_operator(hard), logits, to_temperature("tau", tau), dim, mask, /*noise=*/true, seed,
                 generator);
}
template <typename Tau, typename SeedArgument>
at::Tensor gumbel_max_overload(const at::Tensor& logits, Tau temperature, std::int64_t dim,
                               std::optional<c10::SymInt> num_samples, const OptionalTensor& mask, SeedArgument seed,
                               const OptionalGenerator& generator) {
  return index(logits, to_temperature("temperature", temperature), dim, std::move(num_samples), mask, seed, generator);
}
template <typename SeedArgument>
at::Tensor gumbel_noise_overload(c10::SymIntArrayRef size, SeedArgument seed, const OptionalGenerator& generator,
                                 std::optional<at::ScalarType> dtype, std::optional<at::Device> device,
                                 c10::SymInt class_offset, c10::SymInt row_offset, std::int64_t draw) {
  return noise(size, seed, generator, dtype, device, {std::move(class_offset), std::move(row_offset), draw});
}
template <typename Tau, typename SeedArgument>
at::Tensor relaxed_top_k_overload(const at::Tensor& logits, std::int64_t k, Tau tau, bool hard, std::int64_t dim,
                                  const OptionalTensor& mask, SeedArgument seed, const OptionalGenerator& generator) {
  return top_k(logits, {k, hard}, to_temperature("tau", tau), dim, mask, seed, generator);
}

void implement(torch::Library& m) {
  m.impl("softmax", softmax_overload<Number>);
  m.impl("softmax.tau_tensor", softmax_overload<PerRow>);
  m.impl("straight_through", straight_through_overload<Number>);
  m.impl("straight_through.tau_tensor", straight_through_overload<PerRow>);
  m.impl("gumbel_softmax", gumbel_softmax_overload<Number, OptionalSeed>);
  m.impl("gumbel_softmax.tau_tensor", gumbel_softmax_overload<PerRow, OptionalSeed>);
  m.impl("gumbel_softmax.seed_tensor", gumbel_softmax_overload<Number, PerRow>);
  m.impl("gumbel_softmax.tensors", gumbel_softmax_overload<PerRow, PerRow>);
  m.impl("gumbel_max", gumbel_max_overload<Number, OptionalSeed>);
  m.impl("gumbel_max.tau_tensor", gumbel_max_overload<PerRow, OptionalSeed>);
  m.impl("gumbel_max.seed_tensor", gumbel_max_overload<Number, PerRow>);
  m.impl("gumbel_max.tensors", gumbel_max_overload<PerRow, PerRow>);
  m.impl("gumbel_noise", gumbel_noise_overload<OptionalSeed>);
  m.impl("gumbel_noise.seed_tensor", gumbel_noise_overload<PerRow>);
  m.impl("relaxed_top_k", relaxed_top_k_overload<Number, OptionalSeed>);
  m.impl("relaxed_top_k.tau_tensor", relaxed_top_k_overload<PerRow, OptionalSeed>);
  m.impl("relaxed_top_k.seed_tensor", relaxed_top_k_overload<Number, PerRow>);
  m.impl("relaxed_top_k.tensors", relaxed_top_k_overload<PerRow, PerRow>);
  m.impl("_log_gumbel_softmax", log_gumbel_softmax);
}

}  // namespace

GUMBEL_EXT_PUBLIC_OPERATORS(implement)

}  // namespace gumbel_ext
