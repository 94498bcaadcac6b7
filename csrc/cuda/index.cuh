// The index kernel: argmax(logits / temperature + noise), for any number of draws. A team streams over its row, or
// over one of the parts into which few and long rows are cut, and takes kDraws draws at a time.
//
// In float, a class can win only if its word is small (core/search.h): most need no logarithm.
#pragma once

#include "scores.cuh"

namespace gumbel_ext::cuda {

// Whether any of a thread's classes could reach `best`.
template <int kClasses>
__device__ __forceinline__ bool may_win(const float (&logits)[kClasses], const PhiloxWords (&words)[kClasses / 4],
                                        const RowQuotient<float>& quotient, float best_offset) {
  bool hit = false;
#pragma unroll
  for (int i = 0; i < kClasses; ++i)
    hit |= !quotient.is_noisy() ||
           !(log2_of_word(words[i / 4].word[i % 4]) > WordLimit::limit(quotient.about(logits[i]), best_offset));
  return hit;
}

// Four classes, from position `first` of a span of `count`.
template <typename C>
__device__ __forceinline__ void try_classes(Winner<C>& best, const C* logits, const RowQuotient<C>& quotient,
                                            const C (&noise)[kPhiloxWords], int first, int count) {
#pragma unroll
  for (int i = 0; i < kPhiloxWords; ++i) {
    const C score = quotient.exact(logits[i]) + (quotient.is_noisy() ? noise[i] : C(0));
    if (first + i < count && beats(score, best.score)) best = {score, first + i};
  }
}

// One draw's search through a span.
template <int kLanes, typename C>
struct Search {
  Winner<C> best{-C(__builtin_inff()), 0};
  float best_offset = WordLimit::offset(-__builtin_inff());

  template <int kClasses>
  __device__ __forceinline__ void pack(const C (&logits)[kClasses], const RowQuotient<C>& quotient, const NoiseKey& key,
                                       int first, int count, std::uint32_t draw) {
    PhiloxWords words[kClasses / kPhiloxWords];
#pragma unroll
    for (int q = 0; q < kClasses / kPhiloxWords; ++q) words[q] = key.words(first + q * kPhiloxWords, draw);
    if constexpr (sizeof(C) == 4)
      if (!__any_sync(kAllLanes, first < count && may_win(logits, words, quotient, best_offset))) return;
#pragma unroll
    for (int q = 0; q < kClasses / kPhiloxWords; ++q) {
      C noise[kPhiloxWords];
      words_to_noise(noise, words[q], key, first + q * kPhiloxWords, draw);
      try_classes(best, &logits[q * kPhiloxWords], quotient, noise, first + q * kPhiloxWords, count);
    }
    if constexpr (sizeof(C) == 4) {
      const auto larger = [](float a, float b) { return a >= b ? a : b; };  // a NaN stays with its own lane
      best_offset = WordLimit::offset(combine_lanes<kLanes>(best.score, larger));
    }
  }
  template <int kClasses>
  __device__ __forceinline__ void pack_without_noise(const C (&logits)[kClasses], const RowQuotient<C>& quotient,
                                                     int first, int count) {
    const C none[kPhiloxWords] = {};
#pragma unroll
    for (int q = 0; q < kClasses; q += kPhiloxWords) try_classes(best, &logits[q], quotient, none, first + q, count);
  }
};

// Packs that a thread loads before it looks at the first: enough bytes on their way to keep memory busy.
constexpr int kLoads = 2;

// The winners of draws [first_draw, first_draw + kDraws) in the span, the same for all of its team. `length` is the
// span's `count`, also for threads whose row does not exist.
template <typename T, int kDraws, typename Team, int kClasses>
__device__ __forceinline__ void search_span(Winner<Compute<T>> (&best)[kDraws], const Scores& scores,
                                            const Span<Team, kClasses>& span, int length,
                                            const RowQuotient<Compute<T>>& quotient, std::int64_t first_draw) {
  using C = Compute<T>;
  const bool noisy = __any_sync(kAllLanes, scores.noise.on && quotient.is_noisy());
  const NoiseKey key(scores.noise, span.row, span.begin);
  const Logits<T, kClasses> row(scores, span.row, span.begin);
  Search<Team::kLanes, C> searches[kDraws];
  for (int step = 0; step * span.team.size() * kClasses < length; step += kLoads) {
    C logits[kLoads][kClasses];
#pragma unroll
    for (int p = 0; p < kLoads; ++p) row.load(logits[p], span.first(step + p), span.count);
#pragma unroll
    for (int p = 0; p < kLoads; ++p)
#pragma unroll
      for (int d = 0; d < kDraws; ++d) {
        const int first = span.first(step + p);
        if (noisy)
          searches[d].pack(logits[p], quotient, key, first, span.count, static_cast<std::uint32_t>(first_draw + d));
        else
          searches[d].pack_without_noise(logits[p], quotient, first, span.count);
      }
  }
#pragma unroll
  for (int d = 0; d < kDraws; ++d) best[d] = span.team.combine(searches[d].best, Better());
}

// A row in parts of one width, whole packs; the last may be shorter, or empty.
template <typename T, typename Team>
struct Parts {
  static constexpr int kClasses = kPackClasses<T>;
  std::int64_t classes, width;

  __device__ __forceinline__ Parts(std::int64_t classes, std::int64_t parts)
      : classes(classes), width((divide(classes + parts - 1, parts).quotient + kClasses - 1) / kClasses * kClasses) {
  }
  __device__ __forceinline__ int length(std::int64_t part) const {
    const std::int64_t left = classes - part * width;
    return static_cast<int>(left < 0 ? 0 : left < width ? left : width);
  }
  __device__ __forceinline__ Span<Team, kClasses> span(const Team& team, const Shape& shape, std::int64_t base,
                                                       std::int64_t part) const {
    return {team, shape, base, part * width, length(part)};
  }
};

// To `out` goes the index, or its complement, of rows without a softmax where the job marks them, and where a low
// temperature took the row's best score out of range (to two infinities that tie, say): index_again searches that row
// once more.
__device__ __forceinline__ void write_best(const IndexJob& job, std::int64_t i, const Best& best, double temperature) {
  const bool infinite = best.score == __builtin_inf() || best.score == -__builtin_inf();
  const bool again = infinite && temperature > 0 && temperature < 1;
  job.out[i] = again || (job.marks && is_undefined(best.score)) ? ~best.index : best.index;
  if (job.scores_out) job.scores_out[i] = best.score;
}

template <typename T, typename Team, int kDraws>
constexpr int index_min_blocks() {
  if (sizeof(T) == 8) return 1;
  return sizeof(T) == 4 && kDraws == 1 && std::is_same_v<Team, BlockTeam> ? 3 : 2;
}

// To `partial`, [rows][draws][parts], where that is given; else there is one part, and the job's `out` is written.
template <typename T, typename Team, int kDraws>
__global__ void __launch_bounds__(kIndexThreads, index_min_blocks<T, Team, kDraws>())
    index_rows(const __grid_constant__ IndexJob job, std::int64_t parts, Best* partial) {
  using C = Compute<T>;
  GUMBEL_EXT_SHARED(typename Team::Scratch, scratch);
  const Team team{scratch};
  const Shape& shape = job.scores.shape;
  const std::int64_t draw_groups = (job.draws + kDraws - 1) / kDraws;
  const std::int64_t tasks = (shape.rows + team.rows() - 1) / team.rows() * draw_groups * parts;
  const Parts<T, Team> row_parts(shape.classes, parts);
  for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Division by_part = divide(task, parts), by_draw = divide(by_part.quotient, draw_groups);
    const std::int64_t part = by_part.remainder, first_draw = by_draw.remainder * kDraws;
    const auto span = row_parts.span(team, shape, by_draw.quotient * team.rows(), part);
    const double temperature = temperature_of(job.temperature, span.row, /*may_be_zero=*/true);
    Winner<C> best[kDraws];
    search_span<T>(best, job.scores, span, row_parts.length(part), RowQuotient<C>(temperature), first_draw);
    if (team.rank() != 0 || by_draw.quotient * team.rows() + team.row() >= shape.rows) continue;
#pragma unroll
    for (int d = 0; d < kDraws; ++d) {
      if (first_draw + d >= job.draws) break;
      const std::int64_t i = span.row * job.draws + first_draw + d;
      const double score = static_cast<double>(best[d].score);
      if (partial)
        partial[i * parts + part] = {score, span.begin + best[d].index};
      else
        write_best(job, i, {score, best[d].index}, temperature);
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
    index_again(const __grid_constant__ IndexJob job, std::int64_t parts) {
  using C = Compute<T>;
  GUMBEL_EXT_SHARED(BlockTeam::Scratch, scratch);
  const BlockTeam team{scratch};
  const Shape& shape = job.scores.shape;
  const Parts<T, BlockTeam> row_parts(shape.classes, parts);
  const std::int64_t results = shape.rows * job.draws;
  const auto search = [&](std::int64_t row, const RowQuotient<C>& quotient, std::int64_t draw) {
    Best best{-__builtin_inf(), shape.classes};
    for (std::int64_t part = 0; part < parts; ++part) {
      const auto span = row_parts.span(team, shape, row, part);
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
