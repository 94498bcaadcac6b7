// Standard Gumbel noise, -log(-log(1 - v)), from Philox words: g(seed, row, class, draw) is gumbel_from_word(w), w
// being word class % 4 of philox_words(seed, row, class / 4, draw); or, where w < kTailWords, gumbel_tail(w, w2), w2
// being the same word with draw + kTailDraw.
//
// Guarantees:
//   - a fixed sequence of operations: the same bits on every compiler, vector width and device;
//   - finite for every input; float within 2 ulp or 2^-22, double within 4 ulp or 2^-50, whichever
//     is larger (exhaustively checked for float over all 2^32 words);
//   - noise reaches 45: below kTailWords the word is continued by a second one, so that a class far
//     behind still wins as often as it should.
#pragma once

#include "elementary.h"
#include "job.h"
#include "philox.h"

namespace gumbel_ext {

// Words below this one take their noise from gumbel_tail.
constexpr std::uint32_t kTailWords = 1u << 16;
// What is added to `draw` to reach the word that continues a word below kTailWords.
constexpr std::uint32_t kTailDraw = 1u << 31;

// Which counter has a class's word, and which of its words that is.
struct ClassCounter {
  std::uint32_t quad;
  int place;

  GUMBEL_EXT_INLINE ClassCounter(const Noise& noise, std::int64_t cls)
      : quad(static_cast<std::uint32_t>((noise.numbers.first_class + cls) / kPhiloxWords)),
        place(static_cast<int>((noise.numbers.first_class + cls) % kPhiloxWords)) {
  }
};

// The noise of survival v = (word + 1/2) / 2^32. Requires: word >= kTailWords for the full precision
// of the promise (below, it is the noise of the word alone).
template <typename T>
GUMBEL_EXT_INLINE T gumbel_from_word(std::uint32_t word) {
  const bool small = word < 0x55555555u;  // v < 1/3: 1 - v = 1 + f with f = -v, no digit lost
  // Selected by arithmetic, not by branches: compilers that see branches here compute both sides.
  const std::uint32_t far = static_cast<std::uint32_t>(small) - 1u;  // all ones where not small
  const T steps = static_cast<T>((word ^ far) - far);                // word, or 2^32 - word
  const T half = bit_cast<float>((far & 0x80000000u) | bit_cast<std::uint32_t>(0.5f));
  const T v = (steps + half) * T(0x1p-32);  // v, or 1 - v
  LogArgument<T> one_minus_v = reduce_log_argument(v);
  one_minus_v.exponent = small ? T(0) : one_minus_v.exponent;
  one_minus_v.f = small ? -v : one_minus_v.f;
  return -log_positive(-log_reduced(one_minus_v));
}

// The noise of survival v = (word + (continuation + 1/2) / 2^32) / 2^32. Requires: word < kTailWords.
template <typename T>
GUMBEL_EXT_INLINE T gumbel_tail(std::uint32_t word, std::uint32_t continuation) {
  const std::uint64_t twice = ((static_cast<std::uint64_t>(word) << 32 | continuation) << 1) | 1u;
  const T v = static_cast<T>(static_cast<std::int64_t>(twice)) * T(0x1p-65);
  return -log_positive(-log_reduced(LogArgument<T>{T(0), -v}));
}

}  // namespace gumbel_ext
