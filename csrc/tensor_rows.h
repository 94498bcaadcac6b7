// Tensors seen as rows.
#pragma once

#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>

#include "core/job.h"

namespace gumbel_ext {

inline Element element_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Element::kFloat32;
    case at::kDouble:
      return Element::kFloat64;
    case at::kHalf:
      return Element::kFloat16;
    default:
      return Element::kBFloat16;
  }
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
      TORCH_CHECK_NOT_IMPLEMENTED(rows.ndim < kMaxDims, "gumbel_ext: expected at most ", kMaxDims,
                                  " dimensions that lie apart in memory, got a tensor of shape ", tensor.sizes(),
                                  " and strides ", tensor.strides());
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

// One value a row, in the rows' order.
inline at::Tensor rows_as_double(const at::Tensor& values, const at::Tensor& logits, std::int64_t dim) {
  at::DimVector shape(logits.sizes().begin(), logits.sizes().end());
  if (!shape.empty()) shape[dim] = 1;
  return values.detach().expand(shape).to(at::kDouble).contiguous();
}

}  // namespace gumbel_ext
