// Torch's functorch headers include nlohmann's JSON library, which torch's wheels do not bring. These declarations, of
// what they name and nobody calls, stand in for it where it is not to be had.
#pragma once

#include <string>

namespace nlohmann {

struct json {
  json();
  template <typename T>
  explicit json(const T&);
  static json parse(const std::string&);
  std::string dump() const;
  template <typename T>
  T get() const;
};

}  // namespace nlohmann
