// Philox4x32-10 for a run of counters at once: core/philox.h in 64-bit lanes.
//
// A 32-bit word sits in the low half of a 64-bit lane. The widening multiply reads low halves alone,
// so the upper halves may hold anything until a word is stored: no masking inside the rounds.
#pragma once

#include "../../core/philox.h"
#include "isa.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

typedef std::uint64_t Words __attribute__((vector_size(kRegisterBytes)));
constexpr int kPhiloxLanes = sizeof(Words) / sizeof(std::uint64_t);
// Fillers write whole vectors: buffers need room past the last counter (tile/buffers.h).

// The 64-bit products of the lanes' low halves. (A plain `*` would compile to a 64-bit multiply, which
// costs three times as much.)
GUMBEL_EXT_INLINE Words multiply_low_halves(Words a, Words b) {
#if defined(__AVX512F__)
  return (Words)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (Words)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

GUMBEL_EXT_INLINE Words load_words(const std::uint64_t* p) {
  Words v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// a0 b0 a1 b1 ... : lane by lane, so that a counter's four words become adjacent.
GUMBEL_EXT_INLINE void store_interleaved(std::uint32_t* out, Words a, Words b) {
#if defined(__AVX512F__)
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
  const __m512i high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi64((__m512i)a, low, (__m512i)b));
  _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi64((__m512i)a, high, (__m512i)b));
#elif defined(__AVX2__)
  const __m256i even = _mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
  const __m256i odd = _mm256_unpackhi_epi64((__m256i)a, (__m256i)b);
  _mm256_storeu_si256((__m256i*)out, _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256((__m256i*)(out + 8), _mm256_permute2x128_si256(even, odd, 0x31));
#else
  std::uint64_t pairs[2 * kPhiloxLanes];
  for (int lane = 0; lane < kPhiloxLanes; ++lane) {
    pairs[2 * lane] = a[lane];
    pairs[2 * lane + 1] = b[lane];
  }
  __builtin_memcpy(out, pairs, sizeof pairs);
#endif
}

// The keys of every round.
struct RoundKeys {
  Words first[kPhiloxRounds], second[kPhiloxRounds];

  GUMBEL_EXT_INLINE explicit RoundKeys(Words seeds) {
    Words key0 = seeds, key1 = seeds >> 32;
    for (int round = 0; round < kPhiloxRounds; ++round, key0 += kPhiloxWeyl0, key1 += kPhiloxWeyl1) {
      first[round] = key0;
      second[round] = key1;
    }
  }
};
// Those of one seed, kept in memory: compilers that saw how they came about would make them anew for every counter.
GUMBEL_EXT_INLINE RoundKeys keep_round_keys(std::uint64_t seed) {
  RoundKeys keys(Words{} + seed);
  __asm__("" : "+m"(keys));
  return keys;
}

// Ten rounds on kPhiloxLanes counters; their words stand in the lanes' low halves.
struct Counters {
  Words c0, c1, c2, c3;
};
GUMBEL_EXT_INLINE Counters philox_rounds(Words c0, Words c1, Words c2, Words c3, const RoundKeys& keys) {
  const Words multiplier0 = Words{} + kPhiloxMultiplier0;
  const Words multiplier1 = Words{} + kPhiloxMultiplier1;
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const Words product0 = multiply_low_halves(c0, multiplier0);
    const Words product1 = multiply_low_halves(c2, multiplier1);
    c0 = (product1 >> 32) ^ c1 ^ keys.first[round];
    c1 = product1;
    c2 = (product0 >> 32) ^ c3 ^ keys.second[round];
    c3 = product0;
  }
  return {c0, c1, c2, c3};
}

// Writes the 4 * kPhiloxLanes words of kPhiloxLanes counters in order of class.
GUMBEL_EXT_INLINE void philox_store(std::uint32_t* out, Words c0, Words c1, Words c2, Words c3, const RoundKeys& keys) {
  const Counters words = philox_rounds(c0, c1, c2, c3, keys);
  const Words low_half = Words{} + 0xffffffffu;
  const Words first_pair = (words.c0 & low_half) | (words.c1 << 32);
  const Words second_pair = (words.c2 & low_half) | (words.c3 << 32);
  store_interleaved(out, first_pair, second_pair);
}

// Words of `quads` consecutive counters, from `quad` on, of each of `rows` consecutive rows; meanwhile() once for
// kPhiloxLanes of them. Requires: one row, or whole kPhiloxLanes.
template <typename Meanwhile>
GUMBEL_EXT_INLINE void philox_fill_rows(std::uint32_t* out, std::int64_t rows, std::int64_t quads, std::uint64_t quad,
                                        std::uint32_t draw, std::uint64_t row, std::uint64_t seed,
                                        Meanwhile& meanwhile) {
  std::uint64_t iota[kPhiloxLanes];
  for (int lane = 0; lane < kPhiloxLanes; ++lane) iota[lane] = lane;
  const Words first = load_words(iota) + quad, c1 = Words{} + draw;
  const RoundKeys keys = keep_round_keys(seed);
  for (std::int64_t r = 0; r < rows; ++r, ++row, out += kPhiloxWords * quads) {
    const Words c2 = Words{} + row, c3 = Words{} + (row >> 32);
    Words c0 = first;
    for (std::int64_t i = 0; i < quads; i += kPhiloxLanes, c0 += kPhiloxLanes) {
      meanwhile();
      philox_store(out + kPhiloxWords * i, c0, c1, c2, c3, keys);
    }
  }
}

// Words of `quads` counters, each with a quad and a row of its own; keys_at(i) are the keys of the counters
// [i, i + kPhiloxLanes).
template <typename Keys, typename Meanwhile>
GUMBEL_EXT_INLINE void philox_fill_each(std::uint32_t* out, std::int64_t quads, const std::uint64_t* quad,
                                        std::uint32_t draw, const std::uint64_t* row, Keys keys_at,
                                        Meanwhile& meanwhile) {
  const Words c1 = Words{} + draw;
  for (std::int64_t i = 0; i < quads; i += kPhiloxLanes) {
    meanwhile();
    const Words rows = load_words(row + i);
    philox_store(out + kPhiloxWords * i, load_words(quad + i), c1, rows, rows >> 32, keys_at(i));
  }
}

// Words of `quads` consecutive counters, from `quad` on, of each of kRows rows, whole kPhiloxLanes: [class][row].
// keys_at(j) are the keys of rows [j, j + kPhiloxLanes).
template <int kRows, typename Keys, typename Meanwhile>
GUMBEL_EXT_INLINE void philox_fill_block(std::uint32_t* out, std::int64_t quads, std::uint64_t quad, std::uint32_t draw,
                                         const std::uint64_t* row, Keys keys_at, Meanwhile& meanwhile) {
  typedef std::uint32_t Low __attribute__((vector_size(kRegisterBytes / 2)));
  const Words c1 = Words{} + draw;
  for (std::int64_t i = 0; i < quads; ++i, out += kPhiloxWords * kRows)
    for (int j = 0; j < kRows; j += kPhiloxLanes) {
      meanwhile();
      const Words c2 = load_words(row + j);
      const Counters words = philox_rounds(Words{} + (quad + i), c1, c2, c2 >> 32, keys_at(j));
      const Words outputs[kPhiloxWords] = {words.c0, words.c1, words.c2, words.c3};
      for (int word = 0; word < kPhiloxWords; ++word) {
        const Low low = __builtin_convertvector(outputs[word], Low);
        __builtin_memcpy(out + word * kRows + j, &low, sizeof low);
      }
    }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
