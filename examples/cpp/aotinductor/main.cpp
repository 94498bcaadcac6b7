// Serves the digits model that Python compiled ahead of time:
//
//   python examples/discrete_vae.py --save model.pt
//   python examples/cpp/aotinductor/export.py model.pt model.pt2
//   aotinductor model.pt2 digit.pgm 7 reconstruction.pgm
//
// reads an image of 8 x 8 pixels, prints its code, drawn with seed 7, and writes what the decoder makes of the
// code. The layers are machine code in the package; the sampling is gumbel_ext's.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <iostream>

#include "../pgm.h"

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::cerr << "usage: aotinductor MODEL.pt2 IMAGE.pgm SEED RECONSTRUCTION.pgm\n";
    return 2;
  }
  const c10::InferenceMode inference;
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  const at::Tensor image = read_pgm(argv[2]);
  const at::Tensor seed = at::scalar_tensor(std::stoll(argv[3]), at::kLong);

  const std::vector<at::Tensor> outputs = model.run({image.view({1, -1}), seed});
  const at::Tensor codes = outputs.at(0), pixels = outputs.at(1);

  std::cout << "codes";
  for (std::int64_t i = 0; i < codes.size(1); ++i) std::cout << " " << codes[0][i].item<std::int64_t>();
  std::cout << "\n";
  write_pgm(argv[4], pixels.view(image.sizes()));
} catch (const c10::Error& error) {
  std::cerr << error.what_without_backtrace() << "\n";
  return 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
