// What the public functions have in common.
#pragma once

#include <ATen/record_function.h>
#include <torch/library.h>

#include "arguments.h"
#include "gumbel_ext.h"

// What profilers see of a call. (Of an operator they see its name by themselves.)
#define GUMBEL_EXT_PROFILED(name, ...) RECORD_FUNCTION("gumbel_ext::" name, std::vector<c10::IValue>({__VA_ARGS__}))

// Registers what implement(library) does wherever a public operator has to be found: nested tensors come to it for a
// refusal in one sentence; under vmap it is called also where no argument is batched, since the noise may have to be
// different for each element.
#define GUMBEL_EXT_PUBLIC_OPERATORS(implement)                               \
  TORCH_LIBRARY_IMPL(gumbel_ext, CompositeImplicitAutograd, m) {             \
    implement(m);                                                            \
  }                                                                          \
  TORCH_LIBRARY_IMPL(gumbel_ext, CompositeImplicitAutogradNestedTensor, m) { \
    implement(m);                                                            \
  }                                                                          \
  TORCH_LIBRARY_IMPL(gumbel_ext, FuncTorchVmapMode, m) {                     \
    implement(m);                                                            \
  }

namespace gumbel_ext {

// As Seed, for operators: a compiler may leave the number open.
struct SymSeed {
  OptionalSeed number;
  OptionalTensor rows;

  SymSeed() = default;
  SymSeed(const Seed& seed) : number(seed.number), rows(seed.rows) {
  }
  SymSeed(const OptionalSeed& number) : number(number) {
  }
  SymSeed(const at::Tensor& tensor) : SymSeed(Seed(tensor)) {
  }
};

// What schemas have for a temperature: a number, a tensor with one a row, or none.
inline Temperature to_temperature(const char* name, const at::Scalar& number) {
  TORCH_CHECK_TYPE(!number.isComplex(), name, ": expected a number or a tensor of real numbers, got a complex number");
  return number.toDouble();
}
inline Temperature to_temperature(const char*, const at::Tensor& rows) {
  return rows;
}
inline Temperature to_temperature(const char*, const OptionalTensor& rows) {
  return rows ? Temperature(*rows) : Temperature(1.0);
}

// The dispatcher's own words for a missing kernel are a page long; these are one sentence.
void check_device_has_kernels(const at::Device& device);

// What has to hold before the dispatcher looks for a kernel.
void check_kind(const at::Tensor& logits, const char* temperature_name, const Temperature& temperature,
                const OptionalTensor& mask, const SymSeed& seed);

}  // namespace gumbel_ext
