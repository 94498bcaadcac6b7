// Which way the rows of a call go over the CPU, and how its threads share them out: one table, in plan.cpp. Every way
// gives the same bits. Free of torch.
#pragma once

#include <vector>

#include "../core/job.h"

namespace gumbel_ext::cpu {

// Adjacent rows with strided classes are handled in this number: a cache line, and a vector, of float32.
constexpr std::int64_t kAdjacentRows = 16;
// A transposed block has one vector of rows, or so many.
constexpr int kBlockVectors = 4;
constexpr std::int64_t kMostBlockRows = kBlockVectors * kAdjacentRows;
// The draws of gumbel_max that share one pass over the logits.
constexpr std::int64_t kDrawsPerTask = 64;

// Within a way, by the length of a row in vectors: so short that what is done once a row weighs as much as what is done
// to its classes, and so long that it hardly weighs. Rows of 16-bit types that are long are converted in registers, and
// not in a buffer beforehand.
constexpr int kShortVectors = 4;
constexpr int kLongVectors = 8;

enum class Way {
  kRows,        // a row at a time, its classes in the lanes of vectors (rows/)
  kTransposed,  // blocks of rows, a row in each lane (transposed/)
  kSearch,      // of the index: as kRows, with logarithms only for classes that may win (rows/index.h)
};

struct Plan {
  Way way = Way::kRows;
  // Consecutive rows that are handled together, so that short rows fill whole vectors and strided ones cache lines.
  std::int64_t group_rows = 1;
  // Of forward over several tiles: the result itself holds the exponentials between the passes, but for those of the
  // last tile, which are padded.
  bool in_place = false;
  // A task is a group, or, of the index, up to kDrawsPerTask draws for one.
  std::int64_t tasks = 0;
  // Threads at work: each on whole tasks; or all on one task after the other, sharing its tiles.
  std::int64_t parts = 1;
  bool share_tiles = false;
};

// What a plan depends on besides the job: the element type on an instruction set.
struct ElementTraits {
  int element_bytes;
  int compute_bytes;           // of a number in the working precision
  int vector_classes;          // numbers of the working precision in a vector
  bool registers_are_vectors;  // else they are shorter
};

Plan plan_forward(const ForwardJob& job, const ElementTraits& element, std::int64_t threads);
// `one_hot`: where the index is written as one-hot rows, or none.
Plan plan_index(const IndexJob& job, const Rows& one_hot, const ElementTraits& element, std::int64_t threads);
Plan plan_noise(const NoiseJob& job, std::int64_t threads);
Plan plan_estimate(const EstimateJob& job, std::int64_t threads);
Plan plan_log_prob(const LogProbJob& job, std::int64_t threads);
Plan plan_log_prob_backward(const LogProbBackwardJob& job, std::int64_t threads);
Plan plan_one_hot(const OneHotJob& job, std::int64_t threads);
Plan plan_backward(const BackwardJob& job, const ElementTraits& element, std::int64_t threads);
// Of k chained softmaxes: a row at a time, by one thread.
Plan plan_top_k(const Shape& shape, std::int64_t k, std::int64_t threads);

// For tests: {way, group_rows, in_place, parts, share_tiles} in place of what the tables say, wherever the job allows
// it; -1, or an empty vector, leaves the choice to the tables. Not to be called while another thread works.
void force_plan(std::vector<std::int64_t> choices);

}  // namespace gumbel_ext::cpu
