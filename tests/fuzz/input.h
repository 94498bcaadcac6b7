// What the fuzzers share: an input taken apart byte by byte, and the expectation that aborts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string_view>

// An input's bytes from the front; after its end, zeros.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : bytes_(reinterpret_cast<const char*>(data), size) {
  }

  template <typename T>
  T take() {
    T value = {};
    const std::size_t count = std::min(sizeof value, bytes_.size());
    std::memcpy(&value, bytes_.data(), count);
    bytes_.remove_prefix(count);
    return value;
  }
  // One of 0 .. n - 1.
  int choose(int n) {
    return take<std::uint8_t>() % n;
  }
  // What is left.
  std::string_view rest() const {
    return bytes_;
  }

 private:
  std::string_view bytes_;
};

inline void expect(bool holds, std::string_view what) {
  if (holds) return;
  std::cerr << "fuzzer: expected " << what << "\n";
  std::abort();
}
