// The best classes of a row so far.
#pragma once

#include "../core/order.h"

namespace gumbel_ext::cpu {

struct Candidate {
  std::int64_t key;  // order_key of its score
  std::int64_t index;
};

// Takes classes in ascending order, in memory for some more than the k that are looked for: when it is full it keeps
// the best of them, and then knows what further ones have to beat.
struct Candidates {
  static constexpr std::int64_t kMostAtOnce = 16;  // classes that are taken before there is room again

  Candidate* classes;
  Candidate* spare;  // as much memory
  std::int64_t k, capacity, count = 0;
  double floor = -__builtin_inf();  // where it is finite, classes that do not beat it are not looked for
  double score = floor;             // what a class has to beat
  bool takes_all = true;            // also what does not beat -infinity

  Candidates(Candidate* classes, Candidate* spare, std::int64_t k, std::int64_t capacity)
      : classes(classes), spare(spare), k(k), capacity(capacity) {
  }
  static std::int64_t capacity_for(std::int64_t k, std::int64_t all) {
    constexpr std::int64_t kSpare = 128;
    const std::int64_t some = 2 * k + kSpare;
    return (some < all ? some : all) + kMostAtOnce;
  }
  void look_for(std::int64_t k, double floor = -__builtin_inf()) {
    this->k = k;
    this->floor = floor;
    clear();
  }

  GUMBEL_EXT_INLINE void clear() {
    count = 0;
    score = floor;
    takes_all = !(floor > -__builtin_inf());
  }
  GUMBEL_EXT_INLINE void take(double class_score, std::int64_t index) {
    classes[count++] = {order_key(class_score), index};
  }
  // After at most kMostAtOnce have been taken.
  GUMBEL_EXT_INLINE void make_room() {
    if (count + kMostAtOnce > capacity) finish();
  }
  // Those of another that has looked at later classes.
  void take_all(const Candidates& others);
  // Leaves the k best, or all where they are fewer, the best first, ties in ascending order.
  void finish();
};

}  // namespace gumbel_ext::cpu
