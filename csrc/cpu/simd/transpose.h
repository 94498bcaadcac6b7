// Squares of vectors, transposed.
#pragma once

#include <utility>

#include "vec.h"

namespace gumbel_ext::cpu::GUMBEL_EXT_ISA {

// block[i][j] becomes block[j][i]: interleaving the halves as often as it takes.
template <typename V, int kCount, int... kLane>
GUMBEL_EXT_INLINE void transpose(V (&block)[kCount], std::integer_sequence<int, kLane...>) {
  for (int width = 1; width < kCount; width *= 2) {
    V next[kCount];
    for (int i = 0; i < kCount / 2; ++i) {
      const V a = block[i], b = block[i + kCount / 2];
      next[2 * i] = __builtin_shufflevector(a, b, (kLane / 2 + kLane % 2 * kCount)...);
      next[2 * i + 1] = __builtin_shufflevector(a, b, (kCount / 2 + kLane / 2 + kLane % 2 * kCount)...);
    }
    for (int i = 0; i < kCount; ++i) block[i] = next[i];
  }
}
template <typename C>
GUMBEL_EXT_INLINE void transpose(Vec<C> (&block)[kLanes<C>]) {
  constexpr int kCount = kLanes<C>;
#if defined(__AVX512F__)
  transpose(block, std::make_integer_sequence<int, kCount>());
#elif defined(__AVX2__)
  typedef C Half __attribute__((vector_size(kVecBytes / 2)));
  Half in[kCount][2], out[kCount][2];
  __builtin_memcpy(in, block, sizeof in);
  for (int row = 0; row < 2; ++row)
    for (int column = 0; column < 2; ++column) {
      Half quarter[kCount / 2];
      for (int i = 0; i < kCount / 2; ++i) quarter[i] = in[row * kCount / 2 + i][column];
      transpose(quarter, std::make_integer_sequence<int, kCount / 2>());
      for (int i = 0; i < kCount / 2; ++i) out[column * kCount / 2 + i][row] = quarter[i];
    }
  __builtin_memcpy(block, out, sizeof out);
#else
  C in[kCount][kCount], out[kCount][kCount];
  __builtin_memcpy(in, block, sizeof in);
  for (int i = 0; i < kCount; ++i)
    for (int j = 0; j < kCount; ++j) out[j][i] = in[i][j];
  __builtin_memcpy(block, out, sizeof out);
#endif
}

}  // namespace gumbel_ext::cpu::GUMBEL_EXT_ISA
