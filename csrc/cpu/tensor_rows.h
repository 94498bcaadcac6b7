// Tensors seen as rows.
#pragma once

#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "capability.h"
#include "job.h"

namespace gumbel_ext::cpu {

// A new tensor like `tensor`. Large ones ask the kernel for huge pages: touching fresh memory for the first
// time costs as much as the arithmetic otherwise. (A request: where it is refused, nothing changes.)
inline at::Tensor new_like(const at::Tensor& tensor) {
  at::Tensor result = at::empty_like(tensor);
#if defined(__linux__)
  constexpr std::uintptr_t kHugePage = std::uintptr_t(1) << 21;
  const auto begin = (reinterpret_cast<std::uintptr_t>(result.data_ptr()) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<std::uintptr_t>(result.data_ptr()) + result.nbytes()) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
  return result;
}

// The rows of `tensor` along `dim`, its other dimensions merged where their strides allow.
inline Rows rows_of(const at::Tensor& tensor, std::int64_t dim) {
  Rows rows;
  rows.data = tensor.data_ptr();
  rows.class_stride = tensor.dim() > 0 && tensor.size(dim) > 1 ? tensor.stride(dim) : 1;
  for (std::int64_t d = 0; d < tensor.dim(); ++d) {
    const std::int64_t size = tensor.size(d), stride = tensor.stride(d);
    if (d == dim || size == 1) continue;
    if (rows.ndim > 0 && rows.stride[rows.ndim - 1] == size * stride) {
      rows.size[rows.ndim - 1] *= size;
      rows.stride[rows.ndim - 1] = stride;
    } else {
      rows.size[rows.ndim] = size;
      rows.stride[rows.ndim++] = stride;
    }
  }
  return rows;
}

inline Shape shape_of(const at::Tensor& tensor, std::int64_t dim) {
  Shape shape;
  shape.classes = tensor.dim() > 0 ? tensor.size(dim) : 1;
  shape.rows = shape.classes > 0 ? tensor.numel() / shape.classes : 0;
  return shape;
}

// How many rows make a group: short rows fill a tile together; rows whose classes lie apart are taken in
// the number that shares a cache line.
inline std::int64_t group_rows(const Shape& shape, const Rows& rows) {
  const std::int64_t width = std::max<std::int64_t>(16, std::min(shape.classes, kTileClasses));
  const std::int64_t at_least = rows.class_stride == 1 ? 1 : 16;
  return std::max<std::int64_t>(1, std::min(shape.rows, std::max(at_least, kTileClasses / width)));
}

// One value a row, in the rows' order.
inline at::Tensor rows_as_double(const at::Tensor& values, const at::Tensor& logits, std::int64_t dim) {
  at::DimVector shape(logits.sizes().begin(), logits.sizes().end());
  if (!shape.empty()) shape[dim] = 1;
  return values.detach().expand(shape).to(at::kDouble).contiguous();
}

inline const ElementKernels& kernels_for(at::ScalarType type) {
  const KernelTable& table = kernel_table();
  switch (type) {
    case at::kFloat:
      return table.float32;
    case at::kDouble:
      return table.float64;
    case at::kHalf:
      return table.float16;
    default:
      return table.bfloat16;
  }
}

}  // namespace gumbel_ext::cpu
