// The noise kernel: Gumbel noise by itself.
#pragma once

#include "../tile/scores.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

template <typename T>
void noise_tile(const NoiseJob& job, const Plan& plan, const GroupState& group, std::int64_t tile_index,
                Workspace workspace) {
  using C = Compute<T>;
  const Tile tile(job.shape, group, tile_index);
  Buffers<C> buffers(job.shape, plan, workspace);
  fill_words(job.noise, tile, job.draw, buffers);
  tile_noise(job.noise, tile, job.draw, buffers);
  const RowSink<T> sink = tile.sink<T>(job.out, buffers.staged);
  for (std::int64_t r = 0; r < tile.rows; ++r)
    sink.row(r, [&](auto* out) __attribute__((always_inline)) {
      convert_row(out, buffers.noise + r * tile.noise_stride(), tile.width);
    });
  sink.finish();
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
