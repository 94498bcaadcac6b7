#include "candidates.h"

#include <algorithm>
#include <utility>

namespace gumbel_ext::cpu {
namespace {

// Sorts by descending keys, what is equal staying in order; without memory of its own, which std::stable_sort takes.
void sort_few(Candidate* classes, std::int64_t count) {
  for (std::int64_t i = 1; i < count; ++i) {
    const Candidate candidate = classes[i];
    std::int64_t at = i;
    for (; at > 0 && classes[at - 1].key < candidate.key; --at) classes[at] = classes[at - 1];
    classes[at] = candidate;
  }
}

// The same byte by byte of the keys, from the lowest, but for those that all have in common.
void sort_many(Candidate* classes, Candidate* spare, std::int64_t count) {
  constexpr int kValues = 256;
  constexpr std::uint64_t kSign = std::uint64_t(1) << 63;
  const auto bits = [](const Candidate& c) { return ~(static_cast<std::uint64_t>(c.key) ^ kSign); };
  std::uint64_t differing = 0;
  for (std::int64_t i = 1; i < count; ++i) differing |= bits(classes[i]) ^ bits(classes[0]);
  Candidate* from = classes;
  Candidate* to = spare;
  for (int shift = 0; shift < 64; shift += 8) {
    if ((differing >> shift) % kValues == 0) continue;
    std::int64_t place[kValues] = {};
    for (std::int64_t i = 0; i < count; ++i) ++place[(bits(from[i]) >> shift) % kValues];
    for (std::int64_t value = 0, before = 0; value < kValues; ++value) before += std::exchange(place[value], before);
    for (std::int64_t i = 0; i < count; ++i) to[place[(bits(from[i]) >> shift) % kValues]++] = from[i];
    std::swap(from, to);
  }
  if (from != classes) std::copy(from, from + count, classes);
}

}  // namespace

void Candidates::take_all(const Candidates& others) {
  for (std::int64_t i = 0; i < others.count; ++i) {
    classes[count++] = others.classes[i];
    make_room();
  }
}

void Candidates::finish() {
  constexpr std::int64_t kFew = 48;
  if (count <= kFew)
    sort_few(classes, count);
  else
    sort_many(classes, spare, count);
  if (count < k) return;
  count = k;
  score = score_of_key(classes[k - 1].key);
  takes_all = false;
}

}  // namespace gumbel_ext::cpu
