// Philox4x32-10, the counter-based generator behind every sample.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
// section 3.3 and table 2.
//
// Guarantees:
//   - a pure function of (counter, key): no state, the same words on every device;
//   - known answer: counter {243f6a88, 85a308d3, 13198a2e, 03707344}, key {a4093822, 299f31d0}
//     gives {d16cfe09, 94fdcceb, 5001e420, 24126ea1}.
#pragma once

#include "portability.h"

namespace gumbel_ext {

constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr std::uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr std::uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;
constexpr int kPhiloxWords = 4;

struct PhiloxWords {
  std::uint32_t word[kPhiloxWords];
};

GUMBEL_EXT_INLINE PhiloxWords philox_round(const PhiloxWords& c, std::uint32_t key0, std::uint32_t key1) {
  const std::uint64_t product0 = multiply_wide(kPhiloxMultiplier0, c.word[0]);
  const std::uint64_t product1 = multiply_wide(kPhiloxMultiplier1, c.word[2]);
  return {{static_cast<std::uint32_t>(product1 >> 32) ^ c.word[1] ^ key0, static_cast<std::uint32_t>(product1),
           static_cast<std::uint32_t>(product0 >> 32) ^ c.word[3] ^ key1, static_cast<std::uint32_t>(product0)}};
}

// Counters become words. Several at a time share the keys of their rounds.
template <int kCounters>
GUMBEL_EXT_INLINE void philox4x32_10(PhiloxWords (&counters)[kCounters], std::uint64_t key) {
  std::uint32_t key0 = static_cast<std::uint32_t>(key), key1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round, key0 += kPhiloxWeyl0, key1 += kPhiloxWeyl1)
    for (PhiloxWords& counter : counters) counter = philox_round(counter, key0, key1);
}
GUMBEL_EXT_INLINE PhiloxWords philox4x32_10(PhiloxWords counter, std::uint64_t key) {
  PhiloxWords counters[] = {counter};
  philox4x32_10(counters, key);
  return counters[0];
}

// The same in little code, for where it is rarely asked for.
GUMBEL_EXT_INLINE PhiloxWords philox4x32_10_rolled(PhiloxWords counter, std::uint64_t key) {
  std::uint32_t key0 = static_cast<std::uint32_t>(key), key1 = static_cast<std::uint32_t>(key >> 32);
  GUMBEL_EXT_ROLLED for (int round = 0; round < kPhiloxRounds; ++round, key0 += kPhiloxWeyl0, key1 += kPhiloxWeyl1)
      counter = philox_round(counter, key0, key1);
  return counter;
}

// The four words of classes 4 * quad .. 4 * quad + 3 of `row`, for sample number `draw`.
// The counter layout is part of the promise: (quad, draw, row's low half, row's high half).
GUMBEL_EXT_INLINE PhiloxWords philox_counter(std::uint64_t row, std::uint32_t quad, std::uint32_t draw) {
  return {{quad, draw, static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32)}};
}
GUMBEL_EXT_INLINE PhiloxWords philox_words(std::uint64_t seed, std::uint64_t row, std::uint32_t quad,
                                           std::uint32_t draw) {
  return philox4x32_10(philox_counter(row, quad, draw), seed);
}

// The seed of a call that takes its noise from a counter-based generator, such as torch's on CUDA, whose state is
// (seed, offset). The counter's upper half is a subsequence that torch's own kernels, which number theirs by
// thread, do not reach.
GUMBEL_EXT_INLINE std::uint64_t generator_seed(std::uint64_t seed, std::uint64_t offset) {
  const PhiloxWords words = philox4x32_10(
      PhiloxWords{{static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(offset >> 32), ~0u, ~0u}}, seed);
  return static_cast<std::uint64_t>(words.word[1]) << 32 | words.word[0];
}

}  // namespace gumbel_ext
