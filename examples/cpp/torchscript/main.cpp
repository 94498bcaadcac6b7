// Serves the digits model that Python trained and saved as TorchScript:
//
//   python examples/discrete_vae.py --save model.pt
//   torchscript model.pt digit.pgm 7 reconstruction.pgm
//
// reads an image of 8 x 8 pixels, prints its code, drawn with seed 7, and writes what the decoder makes of the
// code. The model calls torch.ops.gumbel_ext.gumbel_max; linking gumbel_ext is all that takes.
#include <torch/script.h>

#include <iostream>

#include "../pgm.h"

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::cerr << "usage: torchscript MODEL.pt IMAGE.pgm SEED RECONSTRUCTION.pgm\n";
    return 2;
  }
  const c10::InferenceMode inference;
  torch::jit::Module model = torch::jit::load(argv[1]);
  const at::Tensor image = read_pgm(argv[2]);
  const std::int64_t seed = std::stoll(argv[3]);

  const at::Tensor codes = model.get_method("encode")({image.view({1, -1}), seed}).toTensor();
  const at::Tensor pixels = model.get_method("decode")({codes}).toTensor();

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
