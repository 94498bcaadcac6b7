// What the schedule (schedule.cpp) asks of the kernels (kernels.cpp), which are compiled once for each instruction set.
#pragma once

#include "../core/job.h"
#include "../core/log_prob.h"
#include "../core/order.h"
#include "../core/top_k.h"
#include "plan.h"

namespace gumbel_ext::cpu {

// Memory that one thread works in, of the kernels' workspace_bytes; tile/buffers.h lays it out.
using Workspace = void*;

// What the passes over the tiles of one group share.
struct GroupState {
  std::int64_t first_row;
  std::int64_t rows;
  TileStats* stats;      // [tiles][rows]
  TileStats* row_stats;  // [rows], from combine; where tiles > 1
  void* row_buffer;      // forward, where tiles > 1: [rows][tiles or, in place, 1][kTileClasses] numbers
};

// The draws [first_draw, first_draw + draws) of a group's rows.
struct IndexTask {
  GroupState group;
  std::int64_t first_draw, draws;
  double shift;  // is subtracted from the logits first: what keeps quotients by a low temperature finite
  Best* best;    // [rows][draws]
  RowStatistics* statistics = nullptr;  // [tiles][rows] of softmax(logits / temperature), or none
};

// The kernels of one element type. Forward and backward: first every tile of a group; then, where tiles() > 1, combine
// once, and the finish of every tile. A group of one tile is done after the first call.
struct ElementKernels {
  ElementTraits traits;
  std::int64_t (*workspace_bytes)(const Shape&, const Plan&);
  void (*forward_tile)(const ForwardJob&, const Plan&, const GroupState&, std::int64_t tile, Workspace);
  void (*forward_combine)(const ForwardJob&, const GroupState&);
  void (*forward_finish)(const ForwardJob&, const Plan&, const GroupState&, std::int64_t tile, Workspace);
  // Over tiles [tile_begin, tile_end).
  void (*index_tiles)(const IndexJob&, const Plan&, const IndexTask&, std::int64_t tile_begin, std::int64_t tile_end,
                      Workspace);
  // A tile of one-hot rows whose winners are known.
  void (*one_hot_tile)(const Shape&, const Rows& out, const Plan&, const IndexTask&, std::int64_t tile, Workspace);
  // Of some rows.
  void (*log_prob_rows)(const LogProbJob&, std::int64_t first, std::int64_t rows);
  void (*log_prob_backward_tile)(const LogProbBackwardJob&, const Plan&, const GroupState&, std::int64_t tile,
                                 const DrawnClass* drawn, Workspace);
  void (*noise_tile)(const NoiseJob&, const Plan&, const GroupState&, std::int64_t tile, Workspace);
  void (*backward_tile)(const BackwardJob&, const Plan&, const GroupState&, std::int64_t tile, Workspace);
  void (*backward_combine)(const BackwardJob&, const GroupState&);
  void (*backward_finish)(const BackwardJob&, const Plan&, const GroupState&, std::int64_t tile, Workspace);
  // All of a group, whose row_buffer has estimate_bytes.
  std::int64_t (*estimate_bytes)(const Shape&, const Plan&);
  void (*estimate_group)(const EstimateJob&, const Plan&, const GroupState&, Workspace);
  // Of a whole row, in memory of top_k_bytes and top_k_backward_bytes.
  void (*top_k_row)(const TopKJob&, const Plan&, std::int64_t row, Workspace, void* memory);
  void (*top_k_backward_row)(const TopKBackwardJob&, const Plan&, std::int64_t row, Workspace, void* memory);
};

// Scores, exponentials and value.
inline std::int64_t top_k_bytes(const Shape& shape) {
  return 3 * divide_up(shape.classes, 8) * 64;
}
// Gradient, adjoint and exponentials; the scores of every step, and what else is known of it.
inline std::int64_t top_k_backward_bytes(const Shape& shape, std::int64_t k) {
  return (3 + k) * divide_up(shape.classes, 8) * 64 + k * std::int64_t(sizeof(TopKStep));
}

struct KernelTable {
  const char* isa;
  ElementKernels float32, float64, float16, bfloat16;

  const ElementKernels& of(Element element) const {
    switch (element) {
      case Element::kFloat32:
        return float32;
      case Element::kFloat64:
        return float64;
      case Element::kFloat16:
        return float16;
      default:
        return bfloat16;
    }
  }
};

}  // namespace gumbel_ext::cpu
