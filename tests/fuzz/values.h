// What the tensors of a call hold.
#pragma once

#include <ATen/ATen.h>

#include <iterator>
#include <limits>
#include <string_view>
#include <vector>

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
// Where arithmetic in one of the dtypes changes its ways.
inline constexpr double kEdges[] = {0.0,     -0.0,     1.0,     -1.0,  0.5,    88.0, -104.0,    1e4,
                                    65504.0, -65504.0, 1e30,    -1e31, 1e32,   1e38, -1e38,     3.4e38,
                                    -3.4e38, 1e-30,    1e-38,   1e-45, -1e-45, 6e-8, 1e300,     -1e300,
                                    1.7e308, 5e-324,   -1e-300, 16.0,  -16.0,  kNan, kInfinity, -kInfinity};
inline constexpr double kTemperatures[] = {1.0,  0.5,  2.0,    0.1,    1e-3, 1e-30, 1e-38, 1e-45,
                                           10.0, 1e-4, 1e-300, 5e-324, 1e4,  3e4,   3e38,  1.7e308};

// Values for tensors: all of them are made of the same bytes, each in a way of its own.
class Values {
 public:
  explicit Values(std::string_view bytes) : bytes_(bytes.empty() ? std::string_view("\0", 1) : bytes) {
  }

  // Any bits; edges; or small numbers.
  void fill(const at::Tensor& flat, int way) const {
    if (flat.scalar_type() == at::kBool) return fill_with(flat, [](int byte) { return double(byte & 1); });
    switch (way % 4) {
      case 0:
        return fill_bits(flat);
      case 1:
        return fill_with(flat, [](int byte) { return kEdges[byte % std::size(kEdges)]; });
      default:
        return fill_with(flat, [](int byte) { return (byte - 128) / 16.0; });
    }
  }
  // Positive ones; any bits in one of eight cases, and in another zeros too.
  void fill_temperatures(const at::Tensor& flat, int way) const {
    if (way % 8 == 0) return fill_bits(flat);
    const int zero = way % 8 == 1 ? 200 : 256;
    fill_with(flat, [&](int byte) { return byte < zero ? kTemperatures[byte % std::size(kTemperatures)] : 0; });
  }

 private:
  void fill_bits(const at::Tensor& flat) const {
    char* to = static_cast<char*>(flat.mutable_data_ptr());
    for (std::size_t i = 0; i < flat.nbytes(); ++i) to[i] = bytes_[i % bytes_.size()];
  }
  template <typename Value>
  void fill_with(const at::Tensor& flat, Value value) const {
    std::vector<double> values(flat.numel());
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = value(static_cast<unsigned char>(bytes_[i % bytes_.size()]));
    flat.copy_(at::from_blob(values.data(), flat.sizes(), at::kDouble));
  }

  std::string_view bytes_;
};
