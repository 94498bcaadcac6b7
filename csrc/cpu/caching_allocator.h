// Memory for large results, kept for the next ones.
//
// Fresh memory costs more than the arithmetic that fills it: the system has to find, zero and map every page, and a
// virtual machine may have to ask its host for it. So the library keeps what large results leave behind, up to
// kKeptBytes in all (the environment variable GUMBEL_EXT_CPU_KEEP_MB names another limit, 0: nothing is kept), and
// gives it to the next result of about the same size. What is kept is the system's to take back whenever memory is
// short.
#pragma once

#include <ATen/core/Tensor.h>

namespace gumbel_ext::cpu {

constexpr std::int64_t kKeptBytes = std::int64_t(1) << 30;

// A contiguous tensor of the same shape, dtype and device, uninitialised.
at::Tensor new_like(const at::Tensor& tensor);

// Whether the tensor's memory is still the process' own, as this library or torch's allocator gave it: not a mapped
// file, another library's array, or memory that other processes share.
bool is_private(const at::Tensor& tensor);

// Bytes kept for the next results.
std::int64_t kept_bytes();
// Gives all of them back to the system.
void release_kept();

}  // namespace gumbel_ext::cpu
