// The least that a test program needs: EXPECT and EXPECT_THROWS say where they fail, and go on.
#pragma once

#include <exception>
#include <iostream>
#include <string>

inline int failures = 0;

inline void check(bool holds, const char* file, int line, const std::string& what) {
  if (holds) return;
  ++failures;
  std::cerr << file << ":" << line << ": " << what << "\n";
}

#define EXPECT(condition) check((condition), __FILE__, __LINE__, #condition)

// `expression` throws an `Error` whose message contains `text`.
#define EXPECT_THROWS(Error, text, expression)                                                          \
  try {                                                                                                 \
    expression;                                                                                         \
    check(false, __FILE__, __LINE__, #expression " throws nothing");                                    \
  } catch (const Error& error) {                                                                        \
    const std::string what = error.what();                                                              \
    check(what.find(text) != std::string::npos, __FILE__, __LINE__, #expression ": " + what);           \
  } catch (const std::exception& error) {                                                               \
    check(false, __FILE__, __LINE__, #expression " throws another type: " + std::string(error.what())); \
  }
