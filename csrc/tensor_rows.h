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

// The strides of a tensor's dimensions but `dim`, merged where possible.
inline RowStrides merged_strides(at::IntArrayRef sizes, at::IntArrayRef strides, std::int64_t dim) {
  RowStrides rows;
  for (std::int64_t d = 0; d < std::int64_t(sizes.size()); ++d) {
    const std::int64_t size = sizes[d], stride = strides[d];
    if (d == dim || size == 1) continue;
    if (rows.ndim > 0 && rows.stride[rows.ndim - 1] == size * stride) {
      rows.size[rows.ndim - 1] *= size;
      rows.stride[rows.ndim - 1] = stride;
    } else {
      TORCH_CHECK_NOT_IMPLEMENTED(rows.ndim < kMaxDims, "gumbel_ext: expected at most ", kMaxDims,
                                  " dimensions that cannot be merged, got a tensor of shape ", sizes, " and strides ",
                                  strides);
      rows.size[rows.ndim] = size;
      rows.stride[rows.ndim++] = stride;
    }
  }
  return rows;
}

// The rows of `tensor` along `dim`, to be read: what torch copies lazily is not copied for that.
inline Rows rows_of(const at::Tensor& tensor, std::int64_t dim) {
  Rows rows{merged_strides(tensor.sizes(), tensor.strides(), dim)};
  rows.data = const_cast<void*>(tensor.const_data_ptr());
  rows.class_stride = tensor.dim() > 0 && tensor.size(dim) > 1 ? tensor.stride(dim) : 1;
  return rows;
}

// The same, to be written.
inline Rows output_rows_of(const at::Tensor& tensor, std::int64_t dim) {
  tensor.mutable_data_ptr();
  return rows_of(tensor, dim);
}

// How the noise numbers rows along `dim` of a tensor of these sizes, and their classes (arguments.h).
inline Numbers numbers_of(at::IntArrayRef sizes, std::int64_t dim, const at::OptionalSymIntArrayRef& numbers) {
  if (!numbers.has_value()) return {};
  const at::IntArrayRef given = C10_AS_INTARRAYREF_SLOW(*numbers);
  Numbers result{false, given[0], given[1], merged_strides(sizes, given.slice(2), dim)};
  const RowStrides& strides = result.strides;
  result.rows_in_order = result.first_row == 0 && (strides.ndim == 0 || (strides.ndim == 1 && strides.stride[0] == 1));
  return result;
}

inline Shape shape_of(const at::Tensor& tensor, std::int64_t dim) {
  Shape shape;
  shape.classes = tensor.dim() > 0 ? tensor.size(dim) : 1;
  shape.rows = shape.classes > 0 ? tensor.numel() / shape.classes : 0;
  return shape;
}

// The logits' shape with size 1 along `dim`: one value a row.
inline c10::SymDimVector row_shape(const at::Tensor& logits, std::int64_t dim) {
  c10::SymDimVector shape(logits.sym_sizes().begin(), logits.sym_sizes().end());
  if (!shape.empty()) shape[dim] = 1;
  return shape;
}

// One value for each row, in the rows' order.
inline at::Tensor rows_as_double(const at::Tensor& values, const at::Tensor& logits, std::int64_t dim) {
  return values.detach().expand_symint(row_shape(logits, dim)).to(at::kDouble).contiguous();
}

}  // namespace gumbel_ext
