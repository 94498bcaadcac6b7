// Schemas, and the public C++ functions, which call the dispatcher.
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>
#include <torch/version.h>

#include "checks.h"
#include "cpu/capability.h"
#include "gumbel_ext.h"
#include "operators.h"

namespace gumbel_ext {
namespace {

// The dispatcher's own words for a missing kernel are a page long; these are one sentence.
void check_device_has_kernels(const at::Device& device) {
#if defined(GUMBEL_EXT_WITH_CUDA)
  constexpr bool kCuda = true;
#else
  constexpr bool kCuda = false;
#endif
  const bool supported = device.is_cpu() || device.is_meta() || (kCuda && device.is_cuda());
  TORCH_CHECK_NOT_IMPLEMENTED(supported, "gumbel_ext: expected tensors on ", kCuda ? "cpu or cuda" : "cpu",
                              ", the devices this build has kernels for, got ", device);
}

// What has to hold before the dispatcher looks for a kernel.
void check_kind(const at::Tensor& logits, const char* temperature_name, const Temperature& temperature,
                const OptionalTensor& mask, const Seed& seed) {
  check_dense("logits", logits);
  check_device_has_kernels(logits.device());
  if (temperature.rows) check_dense(temperature_name, *temperature.rows);
  if (mask) check_dense("mask", *mask);
  if (seed.rows) check_dense("seed", *seed.rows);
}

at::Tensor relaxed(const at::Tensor& logits, const Temperature& tau, std::int64_t dim, const OptionalTensor& mask,
                   bool noise, const Seed& seed, const OptionalGenerator& generator) {
  check_kind(logits, "tau", tau, mask, seed);
  return relaxed_operator().call(logits, mask, tau.number, tau.rows, noise, seed.number, seed.rows, generator, dim, {});
}

at::Tensor one_hot(const at::Tensor& logits, const Temperature& tau, std::int64_t dim, const OptionalTensor& mask,
                   bool noise, const Seed& seed, const OptionalGenerator& generator) {
  check_kind(logits, "tau", tau, mask, seed);
  return std::get<0>(one_hot_operator().call(logits, mask, tau.number, tau.rows, noise, seed.number, seed.rows,
                                             generator, dim, /*keep_relaxed=*/false, {}));
}

at::Tensor index(const at::Tensor& logits, const Temperature& temperature, std::int64_t dim,
                 std::optional<c10::SymInt> num_samples, const OptionalTensor& mask, const Seed& seed,
                 const OptionalGenerator& generator) {
  check_kind(logits, "temperature", temperature, mask, seed);
  return index_operator().call(logits, mask, temperature.number, temperature.rows, seed.number, seed.rows, generator,
                               dim, std::move(num_samples), {});
}

at::Tensor noise(c10::SymIntArrayRef size, const Seed& seed, const OptionalGenerator& generator,
                 std::optional<at::ScalarType> dtype, std::optional<at::Device> device) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  check_device_has_kernels(options.device());
  check_noise_size(size);
  const at::Tensor like = at::empty({}, options).expand_symint(size);  // a shape for the price of a number
  return noise_operator().call(like, seed.number, seed.rows, generator, {});
}

}  // namespace

at::Tensor softmax(const at::Tensor& logits, const Temperature& tau, std::int64_t dim, const OptionalTensor& mask) {
  return relaxed(logits, tau, dim, mask, /*noise=*/false, {}, {});
}

at::Tensor straight_through(const at::Tensor& logits, const Temperature& tau, std::int64_t dim,
                            const OptionalTensor& mask) {
  return one_hot(logits, tau, dim, mask, /*noise=*/false, {}, {});
}

at::Tensor gumbel_softmax(const at::Tensor& logits, const Temperature& tau, bool hard, std::int64_t dim,
                          const OptionalTensor& mask, const Seed& seed, const OptionalGenerator& generator) {
  return (hard ? one_hot : relaxed)(logits, tau, dim, mask, /*noise=*/true, seed, generator);
}

at::Tensor gumbel_max(const at::Tensor& logits, const Temperature& temperature, std::int64_t dim,
                      std::optional<std::int64_t> num_samples, const OptionalTensor& mask, const Seed& seed,
                      const OptionalGenerator& generator) {
  return index(logits, temperature, dim, num_samples, mask, seed, generator);
}

at::Tensor gumbel_noise(at::IntArrayRef size, const Seed& seed, const OptionalGenerator& generator,
                        std::optional<at::ScalarType> dtype, std::optional<at::Device> device) {
  return noise(c10::fromIntArrayRefSlow(size), seed, generator, dtype, device);
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
  return info;
}

// The same as JSON, for Python.
std::string build_info_json() {
  const BuildInfo info = build_info();
  std::string isas;
  for (const std::string& isa : info.cpu_isas) isas += (isas.empty() ? "\"" : ", \"") + isa + "\"";
  return "{\"version\": \"" + info.version + "\", \"torch_version\": \"" + info.torch_version +
         "\", \"cuda\": " + (info.cuda ? "true" : "false") + ", \"cpu_isa\": \"" + info.cpu_isa +
         "\", \"cpu_isas\": [" + isas + "], \"num_threads\": " + std::to_string(info.num_threads) + "}";
}

// Each public operator has an overload for a tensor and for a number, of the temperature and of the seed; those
// for tensors come first, since the first that fits is called and a tensor of one element fits a number too.
TORCH_LIBRARY(gumbel_ext, m) {
  const auto define = [&](const std::string& schema, bool random) {
    const std::vector<at::Tag> pure_tags = {at::Tag::pt2_compliant_tag};
    const std::vector<at::Tag> random_tags = {at::Tag::pt2_compliant_tag, at::Tag::nondeterministic_seeded};
    m.def(schema.c_str(), random ? random_tags : pure_tags);
  };
  struct Overload {
    std::string name, temperature, seed;
  };
  const std::string number = "float NAME=1.0", tensor = "Tensor NAME";
  const auto named = [](std::string argument, const char* name) {
    return argument.replace(argument.find("NAME"), 4, name);
  };

  for (const auto& [name, temperature] : {std::pair{".tau_tensor", tensor}, std::pair{"", number}})
    for (const std::string op : {"softmax", "straight_through"})
      define(
          op + name + "(Tensor logits, " + named(temperature, "tau") + ", *, int dim=-1, Tensor? mask=None) -> Tensor",
          false);
  const Overload overloads[] = {{".tensors", tensor, "Tensor seed"},
                                {".tau_tensor", tensor, "int? seed=None"},
                                {".seed_tensor", number, "Tensor seed"},
                                {"", number, "int? seed=None"}};
  for (const auto& [name, temperature, seed] : overloads) {
    const std::string rest = ", Tensor? mask=None, " + seed + ", Generator? generator=None) -> Tensor";
    define("gumbel_softmax" + name + "(Tensor logits, " + named(temperature, "tau") +
               ", bool hard=False, *, int dim=-1" + rest,
           true);
    define("gumbel_max" + name + "(Tensor logits, " + named(temperature, "temperature") +
               ", *, int dim=-1, SymInt? num_samples=None" + rest,
           true);
  }
  for (const auto& [name, seed] : {std::pair{".seed_tensor", "Tensor seed"}, std::pair{"", "int? seed=None"}})
    define(std::string("gumbel_noise") + name + "(SymInt[] size, *, " + seed +
               ", Generator? generator=None, ScalarType? dtype=None, Device? device=None) -> Tensor",
           true);

  m.def("_build_info() -> str", build_info_json);
  const std::string source = "int? seed, Tensor? row_seeds, Generator? generator", numbers = ", SymInt[]? numbers=None";
  const std::string inputs =
      "(Tensor logits, Tensor? mask, float tau, Tensor? tau_rows, bool noise, " + source + ", int dim";
  define("_relaxed" + inputs + numbers + ") -> Tensor", true);
  define("_one_hot" + inputs + ", bool keep_relaxed" + numbers + ") -> (Tensor, Tensor)", true);
  define("_index(Tensor logits, Tensor? mask, float temperature, Tensor? temperature_rows, " + source +
             ", int dim, SymInt? num_samples" + numbers + ") -> Tensor",
         true);
  define("_noise(Tensor like, " + source + numbers + ") -> Tensor", true);
  define(
      "_backward(Tensor grad, Tensor relaxed, float tau, Tensor? tau_rows, int dim, bool need_logits, "
      "bool need_tau) -> (Tensor, Tensor)",
      false);
  define("_backward_(Tensor grad, Tensor(a!) relaxed, float tau, Tensor? tau_rows, int dim, bool need_tau) -> Tensor",
         false);
}

// The overloads: Tau and SeedArgument are a number or a tensor.
template <typename Tau>
at::Tensor softmax_overload(const at::Tensor& logits, Tau tau, std::int64_t dim, const OptionalTensor& mask) {
  return softmax(logits, tau, dim, mask);
}
template <typename Tau>
at::Tensor straight_through_overload(const at::Tensor& logits, Tau tau, std::int64_t dim, const OptionalTensor& mask) {
  return straight_through(logits, tau, dim, mask);
}
template <typename Tau, typename SeedArgument>
at::Tensor gumbel_softmax_overload(const at::Tensor& logits, Tau tau, bool hard, std::int64_t dim,
                                   const OptionalTensor& mask, SeedArgument seed, const OptionalGenerator& generator) {
  return gumbel_softmax(logits, tau, hard, dim, mask, seed, generator);
}
template <typename Tau, typename SeedArgument>
at::Tensor gumbel_max_overload(const at::Tensor& logits, Tau temperature, std::int64_t dim,
                               std::optional<c10::SymInt> num_samples, const OptionalTensor& mask, SeedArgument seed,
                               const OptionalGenerator& generator) {
  return index(logits, temperature, dim, std::move(num_samples), mask, seed, generator);
}
template <typename SeedArgument>
at::Tensor gumbel_noise_overload(c10::SymIntArrayRef size, SeedArgument seed, const OptionalGenerator& generator,
                                 std::optional<at::ScalarType> dtype, std::optional<at::Device> device) {
  return noise(size, seed, generator, dtype, device);
}

void implement(torch::Library& m) {
  using Rows = const at::Tensor&;
  m.impl("softmax", softmax_overload<double>);
  m.impl("softmax.tau_tensor", softmax_overload<Rows>);
  m.impl("straight_through", straight_through_overload<double>);
  m.impl("straight_through.tau_tensor", straight_through_overload<Rows>);
  m.impl("gumbel_softmax", gumbel_softmax_overload<double, OptionalInt>);
  m.impl("gumbel_softmax.tau_tensor", gumbel_softmax_overload<Rows, OptionalInt>);
  m.impl("gumbel_softmax.seed_tensor", gumbel_softmax_overload<double, Rows>);
  m.impl("gumbel_softmax.tensors", gumbel_softmax_overload<Rows, Rows>);
  m.impl("gumbel_max", gumbel_max_overload<double, OptionalInt>);
  m.impl("gumbel_max.tau_tensor", gumbel_max_overload<Rows, OptionalInt>);
  m.impl("gumbel_max.seed_tensor", gumbel_max_overload<double, Rows>);
  m.impl("gumbel_max.tensors", gumbel_max_overload<Rows, Rows>);
  m.impl("gumbel_noise", gumbel_noise_overload<OptionalInt>);
  m.impl("gumbel_noise.seed_tensor", gumbel_noise_overload<Rows>);
}

TORCH_LIBRARY_IMPL(gumbel_ext, CompositeImplicitAutograd, m) {
  implement(m);
}
// Nested tensors come here for a refusal in one sentence.
TORCH_LIBRARY_IMPL(gumbel_ext, CompositeImplicitAutogradNestedTensor, m) {
  implement(m);
}
// Under vmap also where no argument is batched: the noise may have to be different for each element.
TORCH_LIBRARY_IMPL(gumbel_ext, FuncTorchVmapMode, m) {
  implement(m);
}

}  // namespace gumbel_ext
