// csrc/cpu/simd/elementary.h on NEON against the functions of csrc/core, bit for bit: noise of words of every kind,
// among them those whose noise is zero, exponentials, and which classes can win.
#include "../../csrc/cpu/simd/elementary.h"

#include <cstdio>
#include <cstring>
#include <random>

using namespace gumbel_ext;

namespace {

constexpr int kCount = 16;
std::mt19937 generator(1);
long differences = 0;

template <typename T>
void compare(const char* what, T expected, T got) {
  if (std::memcmp(&expected, &got, sizeof(T)) != 0 && ++differences < 10)
    std::printf("%s: %a and %a\n", what, static_cast<double>(expected), static_cast<double>(got));
}

float any_of(std::initializer_list<float> special, float scale) {
  if (generator() % 20 == 0) return special.begin()[generator() % special.size()];
  return scale * std::uniform_real_distribution<float>(-2, 2)(generator);
}

void compare_noise(std::uint32_t first, std::uint32_t step) {
  std::uint32_t words[kCount];
  for (int i = 0; i < kCount; ++i) words[i] = first + i * step;
  float noise[kCount];
  cpu::GUMBEL_EXT_ISA::noise_of_words(noise, words, kCount);
  for (int i = 0; i < kCount; ++i) compare("noise", gumbel_from_word<float>(words[i]), noise[i]);
}

void compare_exponentials(double tau, float size) {
  const ExponentScale<float> scale(tau);
  float scores[kCount], max = size / 2;
  for (float& score : scores) score = any_of({-__builtin_inff(), 0.f, -0.f}, size);
  for (const float score : scores) max = score > max ? score : max;
  const bool is_near = !scale.is_extreme && Exponential<float>::is_near(scale.scale, max);
  const auto exponential = Exponential<float>::of_row(scale.scale, scale.reach, max, is_near);
  if (!is_near)
    for (float& score : scores) score = scale.half_difference(score, max);
  float expected[kCount];
  for (int i = 0; i < kCount; ++i) expected[i] = exponential(scores[i]);
  cpu::GUMBEL_EXT_ISA::exponentials_of(scores, scores, kCount, exponential);
  for (int i = 0; i < kCount; ++i) compare("exponential", expected[i], scores[i]);
}

void compare_may_win() {
  std::uint32_t words[kCount];
  cpu::GUMBEL_EXT_ISA::Vec<float> logits;
  for (int i = 0; i < kCount; ++i) {
    words[i] = static_cast<std::uint32_t>(generator()) >> generator() % 18;
    logits[i] = any_of({__builtin_nanf(""), __builtin_inff(), -__builtin_inff()}, 10);
  }
  const float offset = WordLimit::offset(any_of({-__builtin_inff()}, 20));
  const auto hits = cpu::GUMBEL_EXT_ISA::may_win(logits, words, offset);
  for (int i = 0; i < kCount; ++i)
    compare("may_win", log2_of_word(words[i]) > WordLimit::limit(logits[i], offset) ? 0 : -1, hits[i]);
}

}  // namespace

int main() {
  for (std::uint64_t word = 0; word < 1ull << 32; word += 521 * kCount) compare_noise(word, 521);
  for (const std::uint32_t around : {0u, 0x55555555u, 0xa1d2a7a4u})  // the last one's noise is -0
    for (int i = -4096; i < 4096; i += kCount) compare_noise(around + i, 1);
  for (int i = 0; i < 3000; ++i)
    for (const float size : {1e-3f, 1.f, 100.f, 1e30f})
      for (const double tau : {1e-3, 0.7, 50.}) compare_exponentials(tau, size);
  for (int i = 0; i < 100000; ++i) compare_may_win();
  if (differences) std::printf("%ld differ\n", differences);
  return differences != 0;
}
