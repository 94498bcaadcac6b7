// The index kernel: argmax(logits / temperature + noise), for any number of draws. A team streams over its row, or
// over one of the parts into which few and long rows are cut, and takes kDraws draws at a time.
#pragma once

#include "search.cuh"

namespace gumbel_ext::cuda {

// A row in parts of one width, whole packs; the last may be shorter.
struct Parts {
  std::int64_t count, width;
  int last;  // its length

  // At most `most`. Requires: classes > 0.
  template <typename T>
  static Parts of(std::int64_t classes, std::int64_t most) {
    const std::int64_t width = divide_up(divide_up(classes, most), kPackClasses<T>) * kPackClasses<T>;
    const std::int64_t count = divide_up(classes, width);
    return {count, width, static_cast<int>(classes - (count - 1) * width)};
  }
  __device__ __forceinline__ int length(std::int64_t part) const {
    return part == count - 1 ? last : static_cast<int>(width);
  }
  template <typename T, typename Team>
  __device__ __forceinline__ Span<Team, kPackClasses<T>> span(const Team& team, const Shape& shape, std::int64_t base,
                                                              std::int64_t part) const {
    return {team, shape, base, part * width, length(part)};
  }
};

// What the blocks of the index kernel do, one after the other: a group of rows, as many as a block serves at once, some
// of their draws, and one part.
struct IndexTasks {
  std::int64_t count, draw_groups;
  Parts parts;
};

// a / b, where b mostly is 1.
__device__ __forceinline__ Division split(std::int64_t a, std::int64_t b) {
  return b == 1 ? Division{a, 0} : divide(a, b);
}

// To `out` goes the index, or its complement, of rows without a softmax where the job marks them, and where a low
// temperature took the row's best score out of range (to two infinities that tie, say): index_again searches that row
// once more.
__device__ __forceinline__ void write_best(const IndexJob& job, std::int64_t i, const Best& best, double temperature) {
  const bool infinite = best.score == __builtin_inf() || best.score == -__builtin_inf();
  const bool again = infinite && temperature > 0 && temperature < 1;
  job.out[i] = again || (job.marks && is_undefined(best.score)) ? ~best.index : best.index;
  if (job.scores_out) job.scores_out[i] = best.score;
}

// To `partial`, [rows][draws][parts], where that is given; else there is one part, and the job's `out` is written.
template <typename T, typename Team, int kDraws>
__global__ void __launch_bounds__(kIndexThreads, sizeof(T) == 8 ? 1 : 2)
    index_rows(const __grid_constant__ IndexJob job, const __grid_constant__ IndexTasks tasks,
               const __grid_constant__ RowQuotients<Compute<T>> quotients, Best* partial) {
  using C = Compute<T>;
  GUMBEL_EXT_SHARED(typename Team::Scratch, scratch);
  const Team team{scratch};
  const Shape& shape = job.scores.shape;
  const Parts& parts = tasks.parts;
  for (std::int64_t task = blockIdx.x; task < tasks.count; task += gridDim.x) {
    const Division by_part = split(task, parts.count), by_draw = split(by_part.quotient, tasks.draw_groups);
    const std::int64_t part = by_part.remainder, first_draw = by_draw.remainder * kDraws;
    const auto span = parts.template span<T>(team, shape, by_draw.quotient * team.rows(), part);
    const RowQuotient<C> quotient = quotients(job.temperature, span.row);
    Winner<C> best[kDraws];
    search_span<T>(best, job.scores, span, parts.length(part), quotient, first_draw);
    if (team.rank() != 0 || span.count == 0) continue;
#pragma unroll
    for (int d = 0; d < kDraws; ++d) {
      if (kDraws > 1 && first_draw + d >= job.draws) break;
      const std::int64_t i = span.row * job.draws + first_draw + d;
      const double score = static_cast<double>(best[d].score);
      if (partial)
        partial[i * parts.count + part] = {score, span.begin + best[d].index};
      else
        write_best(job, i, {score, best[d].index}, quotient.exact_temperature);
    }
  }
}

// One block a row and draw: `winners`, where they are given, or else `out`, from the parts.
static __global__ void __launch_bounds__(kIndexThreads, 2)
    index_combine(const __grid_constant__ IndexJob job, std::int64_t parts, const Best* partial, Best* winners) {
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  for (std::int64_t i = team.first(); i < job.scores.shape.rows * job.draws; i += team.step()) {
    Best mine{-__builtin_inf(), job.scores.shape.classes};
    for (std::int64_t p = team.rank(); p < parts; p += team.size()) mine = Better()(mine, partial[i * parts + p]);
    const Best best = team.combine(mine, Better());
    if (team.rank() != 0) continue;
    if (winners)
      winners[i] = best;
    else
      write_best(job, i, best, job.temperature[divide(i, job.draws).quotient]);
  }
}

// The marked ones of `out`: their rows are searched once more with their largest logit subtracted, which then is 0.
// A block looks at as many as it has threads, and searches for one after the other.
template <typename T>
__global__ void __launch_bounds__(kIndexThreads, 2)
    index_again(const __grid_constant__ IndexJob job, const __grid_constant__ Parts parts) {
  using C = Compute<T>;
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  const Shape& shape = job.scores.shape;
  const std::int64_t results = shape.rows * job.draws;
  const auto search = [&](std::int64_t row, const RowQuotient<C>& quotient, std::int64_t draw) {
    Best best{-__builtin_inf(), shape.classes};
    for (std::int64_t part = 0; part < parts.count; ++part) {
      const auto span = parts.template span<T>(team, shape, row, part);
      Winner<C> found[1];
      search_span<T>(found, job.scores, span, span.count, quotient, draw);
      best = Better()(best, Best{static_cast<double>(found[0].score), span.begin + found[0].index});
    }
    return best;
  };
  const auto lower = [](int a, int b) { return a < b ? a : b; };
  for (std::int64_t base = team.first() * team.size(); base < results; base += team.step() * team.size()) {
    for (int from = 0;;) {
      const std::int64_t mine = base + team.rank();
      const bool is_marked = team.rank() >= from && mine < results && job.out[mine] < 0;
      const int next = team.combine(is_marked ? team.rank() : team.size(), lower);
      if (next == team.size()) break;
      const Division at = divide(base + next, job.draws);
      const Best largest = search(at.quotient, RowQuotient<C>(0), 0);
      const RowQuotient<C> quotient(job.temperature[at.quotient], largest.score);
      const Best best = is_undefined(largest.score) ? largest : search(at.quotient, quotient, at.remainder);
      if (team.rank() == next) job.out[mine] = job.marks && is_undefined(best.score) ? ~best.index : best.index;
      from = next + 1;
    }
  }
}

// One-hot rows from their winners. A thread takes packs of classes, wherever they lie.
// hot(row): the winner and its score; NaN along a row where that is undefined.
template <typename T, typename Hot>
__device__ __forceinline__ void store_one_hot_packs(const Shape& shape, const Rows& out, Hot hot) {
  constexpr int kClasses = kPackClasses<T>;
  const std::int64_t packs = (shape.classes + kClasses - 1) / kClasses;
  const std::int64_t step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < shape.rows * packs; i += step) {
    const Division at = divide(i, packs);
    const std::int64_t row = at.quotient, first = at.remainder * kClasses;
    const Best best = hot(row);
    const bool undefined = is_undefined(best.score);
    T one, filler, values[kClasses];
    narrow(undefined ? __builtin_nanf("") : 1.f, one);
    narrow(undefined ? __builtin_nanf("") : 0.f, filler);
#pragma unroll
    for (int k = 0; k < kClasses; ++k) values[k] = first + k == best.index ? one : filler;
    const std::int64_t left = shape.classes - first;
    store_pack(Row<T>::template of<kClasses>(out, row, first), 0, static_cast<int>(left < kClasses ? left : kClasses),
               values);
  }
}

template <typename T>
__global__ void __launch_bounds__(kIndexThreads, 2)
    one_hot_packs(const __grid_constant__ ForwardJob job, const Best* winners) {
  store_one_hot_packs<T>(job.scores.shape, job.one_hot, [&](std::int64_t row) {
    const double tau = temperature_of(job.tau, row, /*may_be_zero=*/false);
    return tau == tau ? winners[row] : Best{tau, 0};
  });
}

// The same from an index that is marked.
template <typename T>
__global__ void __launch_bounds__(kIndexThreads, 2) one_hot_of_packs(const __grid_constant__ OneHotJob job) {
  store_one_hot_packs<T>(job.shape, job.out, [&](std::int64_t row) {
    const std::int64_t index = job.index[row];
    return Best{index < 0 ? __builtin_nan("") : 0, index};
  });
}

}  // namespace gumbel_ext::cuda
