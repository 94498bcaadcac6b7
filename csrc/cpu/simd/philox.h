// Philox4x32-10 for a run of counters at once: core/philox.h with a counter in each lane.
#pragma once

#include "../../core/philox.h"
#include "isa.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// A 32-bit word in each lane. On x86, whose widening multiply reads the low halves of 64-bit lanes alone, the upper
// halves may hold anything until a word is stored: no masking inside the rounds.
#if defined(GUMBEL_EXT_NEON)
typedef uint32x4_t Words;
constexpr int kPhiloxLanes = 4;
#else
typedef std::uint64_t Words __attribute__((vector_size(kRegisterBytes)));
constexpr int kPhiloxLanes = sizeof(Words) / sizeof(std::uint64_t);
#endif
// Fillers write whole vectors: buffers need room past the last counter (tile/buffers.h).

// The low 32 bits of a number in all lanes, or of kPhiloxLanes numbers; and the upper ones.
GUMBEL_EXT_INLINE Words all_lanes(std::uint64_t number) {
#if defined(GUMBEL_EXT_NEON)
  return vdupq_n_u32(static_cast<std::uint32_t>(number));
#else
  return Words{} + number;
#endif
}
GUMBEL_EXT_INLINE Words low_words(const std::uint64_t* numbers) {
#if defined(GUMBEL_EXT_NEON)
  return vld2q_u32(reinterpret_cast<const std::uint32_t*>(numbers)).val[0];
#else
  Words v;
  __builtin_memcpy(&v, numbers, sizeof v);
  return v;
#endif
}
GUMBEL_EXT_INLINE Words high_words(const std::uint64_t* numbers) {
#if defined(GUMBEL_EXT_NEON)
  return vld2q_u32(reinterpret_cast<const std::uint32_t*>(numbers)).val[1];
#else
  return low_words(numbers) >> 32;
#endif
}

// The halves of the lanes' products. (A plain `*` would compile to a 64-bit multiply, which costs three times as much.)
struct Product {
  Words high, low;
};
GUMBEL_EXT_INLINE Product multiply(Words a, Words b) {
#if defined(GUMBEL_EXT_NEON)
  const uint32x4_t first = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a), vget_low_u32(b)));
  const uint32x4_t last = vreinterpretq_u32_u64(vmull_high_u32(a, b));
  return {vuzp2q_u32(first, last), vuzp1q_u32(first, last)};
#else
#if defined(__AVX512F__)
  const Words product = (Words)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  const Words product = (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  const Words product = (Words)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  const Words product = (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
  return {product >> 32, product};
#endif
}

// The keys of every round.
struct RoundKeys {
  Words first[kPhiloxRounds], second[kPhiloxRounds];

  GUMBEL_EXT_INLINE explicit RoundKeys(const std::uint64_t* seeds) {
    Words key0 = low_words(seeds), key1 = high_words(seeds);
    for (int round = 0; round < kPhiloxRounds; ++round, key0 += kPhiloxWeyl0, key1 += kPhiloxWeyl1) {
      first[round] = key0;
      second[round] = key1;
    }
  }
};
// Those of one seed, kept in memory: compilers that saw how they came about would make them anew for every counter.
GUMBEL_EXT_INLINE RoundKeys keep_round_keys(std::uint64_t seed) {
  std::uint64_t seeds[kPhiloxLanes];
  for (std::uint64_t& lane : seeds) lane = seed;
  RoundKeys keys(seeds);
  __asm__("" : "+m"(keys));
  return keys;
}

// kPhiloxLanes counters.
struct Counters {
  Words c0, c1, c2, c3;
};
GUMBEL_EXT_INLINE Counters philox_rounds(Counters c, const RoundKeys& keys) {
  const Words multiplier0 = all_lanes(kPhiloxMultiplier0), multiplier1 = all_lanes(kPhiloxMultiplier1);
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const Product product0 = multiply(c.c0, multiplier0), product1 = multiply(c.c2, multiplier1);
    c = {product1.high ^ c.c1 ^ keys.first[round], product1.low, product0.high ^ c.c3 ^ keys.second[round],
         product0.low};
  }
  return c;
}

// The counters' words in order of class: four of the first counter, then those of the next.
GUMBEL_EXT_INLINE void store_counters(std::uint32_t* out, const Counters& c) {
#if defined(GUMBEL_EXT_NEON)
  const uint32x4x4_t words = {{c.c0, c.c1, c.c2, c.c3}};
  vst4q_u32(out, words);
#else
  const Words low_half = all_lanes(0xffffffffu);
  const Words a = (c.c0 & low_half) | (c.c1 << 32), b = (c.c2 & low_half) | (c.c3 << 32);
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
#endif
}
// One word of each counter.
GUMBEL_EXT_INLINE void store_words(std::uint32_t* out, Words words) {
#if defined(GUMBEL_EXT_NEON)
  vst1q_u32(out, words);
#else
  typedef std::uint32_t Low __attribute__((vector_size(kRegisterBytes / 2)));
  const Low low = __builtin_convertvector(words, Low);
  __builtin_memcpy(out, &low, sizeof low);
#endif
}

// Words of `quads` consecutive counters, from `quad` on, of each of `rows` consecutive rows; meanwhile() once for
// kPhiloxLanes of them. Requires: one row, or whole kPhiloxLanes.
template <typename Meanwhile>
GUMBEL_EXT_INLINE void philox_fill_rows(std::uint32_t* out, std::int64_t rows, std::int64_t quads, std::uint64_t quad,
                                        std::uint32_t draw, std::uint64_t row, std::uint64_t seed,
                                        Meanwhile& meanwhile) {
  std::uint64_t iota[kPhiloxLanes];
  for (int lane = 0; lane < kPhiloxLanes; ++lane) iota[lane] = lane;
  const Words first = low_words(iota) + all_lanes(quad), c1 = all_lanes(draw);
  const RoundKeys keys = keep_round_keys(seed);
  for (std::int64_t r = 0; r < rows; ++r, ++row, out += kPhiloxWords * quads) {
    const Words c2 = all_lanes(row), c3 = all_lanes(row >> 32);
    Words c0 = first;
    for (std::int64_t i = 0; i < quads; i += kPhiloxLanes, c0 += kPhiloxLanes) {
      meanwhile();
      store_counters(out + kPhiloxWords * i, philox_rounds({c0, c1, c2, c3}, keys));
    }
  }
}

// Words of `quads` counters, each with a quad and a row of its own; keys_at(i) are the keys of the counters
// [i, i + kPhiloxLanes).
template <typename Keys, typename Meanwhile>
GUMBEL_EXT_INLINE void philox_fill_each(std::uint32_t* out, std::int64_t quads, const std::uint64_t* quad,
                                        std::uint32_t draw, const std::uint64_t* row, Keys keys_at,
                                        Meanwhile& meanwhile) {
  const Words c1 = all_lanes(draw);
  for (std::int64_t i = 0; i < quads; i += kPhiloxLanes) {
    meanwhile();
    const Counters counters = {low_words(quad + i), c1, low_words(row + i), high_words(row + i)};
    store_counters(out + kPhiloxWords * i, philox_rounds(counters, keys_at(i)));
  }
}

// Words of `quads` consecutive counters, from `quad` on, of each of kRows rows, whole kPhiloxLanes: [class][row].
// keys_at(j) are the keys of rows [j, j + kPhiloxLanes).
template <int kRows, typename Keys, typename Meanwhile>
GUMBEL_EXT_INLINE void philox_fill_block(std::uint32_t* out, std::int64_t quads, std::uint64_t quad, std::uint32_t draw,
                                         const std::uint64_t* row, Keys keys_at, Meanwhile& meanwhile) {
  const Words c1 = all_lanes(draw);
  for (std::int64_t i = 0; i < quads; ++i, out += kPhiloxWords * kRows)
    for (int j = 0; j < kRows; j += kPhiloxLanes) {
      meanwhile();
      const Counters counters = {all_lanes(quad + i), c1, low_words(row + j), high_words(row + j)};
      const Counters words = philox_rounds(counters, keys_at(j));
      const Words outputs[kPhiloxWords] = {words.c0, words.c1, words.c2, words.c3};
      for (int word = 0; word < kPhiloxWords; ++word) store_words(out + word * kRows + j, outputs[word]);
    }
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
