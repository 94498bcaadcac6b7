/// \file
/// Grey images as text, http://netpbm.sourceforge.net/doc/pgm.html ("plain PGM"): "P2", width, height, the
/// largest value, then the pixels row by row. No comments.
#pragma once

#include <ATen/ATen.h>

#include <fstream>
#include <stdexcept>
#include <string>

/// \return float32 [height, width] in [0, 1].
inline at::Tensor read_pgm(const std::string& path) {
  std::ifstream file(path);
  std::string magic;
  std::int64_t width = 0, height = 0, largest = 0;
  file >> magic >> width >> height >> largest;
  const bool sensible = width > 0 && height > 0 && largest > 0 && width <= 1 << 14 && height <= 1 << 14;
  if (!file || magic != "P2" || !sensible) throw std::runtime_error(path + ": expected a plain PGM image (P2)");
  const at::Tensor image = at::empty({height, width}, at::kFloat);
  for (std::int64_t i = 0; i < image.numel(); ++i) {
    std::int64_t value = -1;
    if (!(file >> value) || value < 0 || value > largest)
      throw std::runtime_error(path + ": expected " + std::to_string(width * height) + " pixels in [0, " +
                               std::to_string(largest) + "], pixel " + std::to_string(i) + " is not");
    image.mutable_data_ptr<float>()[i] = float(value) / float(largest);
  }
  return image;
}

/// \param image in [0, 1], [height, width].
inline void write_pgm(const std::string& path, const at::Tensor& image) {
  std::ofstream file(path);
  file << "P2\n" << image.size(1) << " " << image.size(0) << "\n255\n";
  const at::Tensor values = (image * 255).round().to(at::kLong).contiguous();
  for (std::int64_t i = 0; i < values.numel(); ++i)
    file << values.const_data_ptr<std::int64_t>()[i] << ((i + 1) % values.size(1) ? " " : "\n");
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}
