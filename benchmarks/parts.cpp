// What the parts of a noisy sample cost by themselves, on one core, in cache: nanoseconds a logit, as JSON. The very
// functions of the row kernels, over one tile; compiled by parts.py with the row kernels' flags.
#define GUMBEL_EXT_ISA parts
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "../csrc/cpu/rows/forward.h"

namespace {

using namespace gumbel_ext;
using namespace gumbel_ext::cpu::parts;

// The least of several batches: what disturbs only adds.
template <typename Call>
double nanoseconds(Call call) {
  using Clock = std::chrono::steady_clock;
  double least = 1e9;
  for (int batch = 0; batch < 40; ++batch) {
    const auto begin = Clock::now();
    for (int i = 0; i < 200; ++i) call();
    const double spent = std::chrono::duration<double, std::nano>(Clock::now() - begin).count();
    least = spent / 200 / kTileClasses < least ? spent / 200 / kTileClasses : least;
  }
  return least;
}

}  // namespace

int main() {
  const Shape shape{1, kTileClasses};
  const cpu::Plan plan;
  void* workspace =
      std::aligned_alloc(64, static_cast<std::size_t>(Buffers<float>(shape, plan, nullptr).bytes + 64) / 64 * 64);
  Buffers<float> buffers(shape, plan, workspace);
  const Tile tile(shape, cpu::GroupState{0, 1, nullptr, nullptr, nullptr}, 0);
  Noise noise;
  noise.on = true;
  const ExponentScale<float> exponent(0.7);

  const double philox = nanoseconds([&] {
    ++noise.seed;
    fill_words(noise, tile, 0, buffers);
  });
  const double logarithms = nanoseconds([&] { tile_noise(noise, tile, 0, buffers); });
  for (std::int64_t k = 0; k < kTileClasses; ++k) buffers.noise[k] = -0.001f * static_cast<float>(k);
  const double copied = nanoseconds([&] { __builtin_memcpy(buffers.scores, buffers.noise, kTileClasses * 4); });
  const double exponential = nanoseconds([&] {
    __builtin_memcpy(buffers.scores, buffers.noise, kTileClasses * 4);
    exponentiate(buffers.scores, buffers.scores, kTileClasses, exponent, 0.f);
  });
  std::printf("{\"Philox\": %.4f, \"two logarithms\": %.4f, \"exponential\": %.4f}\n", philox, logarithms,
              exponential - copied);
  std::free(workspace);
}
