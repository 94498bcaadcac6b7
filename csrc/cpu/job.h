// What the schedule (schedule.cpp) asks of the row kernels (kernels.cpp), which are built once for each
// instruction set.
#pragma once

#include "../core/job.h"

namespace gumbel_ext::cpu {

// Rows side by side whose classes lie apart are taken in the number that shares a cache line.
constexpr std::int64_t kNeighbourRows = 16;
// Rows side by side that are handled in lanes (lanes.h) are taken in up to so many vectors at once, 64 rows of float.
constexpr int kLaneVectors = 4;
constexpr std::int64_t kRowsInLanes = kLaneVectors * kNeighbourRows;

// Memory that one thread works in, of the kernels' workspace_bytes; workspace.h lays it out.
using Workspace = void*;

// What the passes over the tiles of one group share.
struct GroupState {
  std::int64_t first_row;
  std::int64_t rows;
  TileStats* stats;      // [tiles][rows]
  TileStats* row_stats;  // [rows], from combine; where tiles > 1
  void* row_buffer;      // of the working precision, [rows][tiles or, in place, 1][kTileClasses]; where tiles > 1
};

// The kernels of one element type. Forward and backward: first every tile of a group; then, where
// `tiles() > 1`, combine once, and the finish of every tile. A group of one tile is done after the first call.
struct ElementKernels {
  std::int64_t element_bytes;
  std::int64_t compute_bytes;  // of one number in the working precision
  std::int64_t (*workspace_bytes)(const Shape&);
  void (*forward_tile)(const ForwardJob&, const GroupState&, std::int64_t tile, Workspace);
  void (*forward_combine)(const ForwardJob&, const GroupState&);
  void (*forward_finish)(const ForwardJob&, const GroupState&, std::int64_t tile, Workspace);
  // Draws [first_draw, first_draw + draws) over tiles [tile_begin, tile_end); best: [rows][draws].
  void (*index_tiles)(const IndexJob&, const GroupState&, std::int64_t first_draw, std::int64_t draws,
                      std::int64_t tile_begin, std::int64_t tile_end, Best* best, Workspace);
  void (*one_hot_tile)(const ForwardJob&, const GroupState&, std::int64_t tile, const Best* best, Workspace);
  void (*noise_tile)(const NoiseJob&, const GroupState&, std::int64_t tile, Workspace);
  void (*backward_tile)(const BackwardJob&, const GroupState&, std::int64_t tile, Workspace);
  void (*backward_combine)(const BackwardJob&, const GroupState&);
  void (*backward_finish)(const BackwardJob&, const GroupState&, std::int64_t tile, Workspace);
};

struct KernelTable {
  const char* isa;
  ElementKernels float32, float64, float16, bfloat16;
};

}  // namespace gumbel_ext::cpu
