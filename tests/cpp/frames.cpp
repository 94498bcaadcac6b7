// The sample server's readers: every malformed frame is named by its position, and the next one is read. Memory is
// taken for what has come.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <sstream>

#include "../../examples/cpp/sample_server/frame.h"
#include "check.h"

namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();
std::size_t allocation_limit = kUnlimited, largest_allocation = 0;

}  // namespace

// (Not inlined, or GCC would take free() for a mismatch.)
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  largest_allocation = std::max(largest_allocation, bytes);
  void* const memory = bytes > allocation_limit ? nullptr : std::malloc(bytes);
  return memory != nullptr ? memory : throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace {

template <typename... Values>
std::string bytes(Values... values) {
  std::string result;
  const auto append = [&](auto value) {
    char raw[sizeof value];
    std::memcpy(raw, &value, sizeof value);
    result.append(raw, sizeof value);
  };
  (append(values), ...);
  return result;
}

std::string header(std::uint32_t rows, std::uint32_t classes, std::uint32_t size) {
  return "GMBL" + bytes(rows, classes, size);
}

// The same frame, with log-probabilities.
std::string with_log_probs(std::string frame) {
  return frame.replace(0, 4, "GMBP");
}

// One row of two classes: 16 + 20 bytes.
std::string good(std::int64_t seed = 7) {
  return header(1, 2, 20) + bytes(seed, 1.0f, 0.5f, -0.5f);
}

std::vector<Frame> read(const std::string& input, bool text = false, std::size_t limit = kUnlimited) {
  std::istringstream stream(input);
  allocation_limit = limit;
  const auto reader = text ? read_text(stream) : read_binary(stream);
  std::vector<Frame> frames;
  while (auto frame = reader->next()) frames.push_back(std::move(*frame));
  allocation_limit = kUnlimited;
  return frames;
}

// `bad` between two good frames: one frame with an error at byte 36 that names `reason`; the next one is read.
void spoils_itself_alone(const std::string& bad, const std::string& reason) {
  const auto frames = read(good() + bad + good(8));
  EXPECT(frames.size() == 3);
  if (frames.size() != 3) return;
  EXPECT(frames[1].position == "byte 36");
  EXPECT(frames[1].error.find(reason) != std::string::npos);
  EXPECT(frames[2].error.empty() && frames[2].seeds == std::vector<std::int64_t>{8});
  EXPECT(frames[2].position == "byte " + std::to_string(36 + bad.size()));
}

void binary() {
  EXPECT(read("").empty());
  const auto frames = read(good());
  EXPECT(frames.size() == 1 && frames[0].error.empty() && frames[0].position == "byte 0");
  EXPECT(frames[0].rows() == 1 && frames[0].classes == 2 && frames[0].logits == std::vector<float>({0.5f, -0.5f}));

  spoils_itself_alone("x", "got 1 bytes without either");
  spoils_itself_alone("GMBGMBX and more", "got 16 bytes without either");
  spoils_itself_alone("GMBL", "got 1279413575 rows");
  spoils_itself_alone(header(0, 2, 0), "got 0 rows");
  spoils_itself_alone(header(1, 0, 12), "0 classes");
  spoils_itself_alone(header(1, 2, 21) + std::string(20, 'x'), "21 bytes");
  spoils_itself_alone(header(0xffffffff, 0xffffffff, 20) + std::string(20, 'x'), "4294967295 rows");
  spoils_itself_alone(header(65536, 2048, 65536u * 8204u), "rows * (12 + 4 * classes)");

  for (std::size_t size = 1; size < good().size(); ++size) {
    const auto cut = read(good() + good().substr(0, size));
    EXPECT(cut.size() == 2 && !cut[1].error.empty() && cut[1].position == "byte 36");
  }
}

// After a frame given up, the next magic counts, wherever it lies; `g` is a good frame, `p` one that asks for
// log-probabilities, `-` a malformed one.
void resynchronisation() {
  const std::string claims_more = header(1, 100, 412);
  const struct {
    std::string input, frames;
  } cases[] = {
      {"GMBL" + good(), "-g"},
      {with_log_probs(good()) + good() + with_log_probs(good()), "pgp"},
      {"GMBP" + good() + "GMBL" + with_log_probs(good()), "-g-p"},
      {"GMBGMBP" + with_log_probs(good()).substr(4), "-p"},
      {"GMBLGMBL" + good(), "--g"},
      {"GMBGMBL" + good(), "--g"},
      {"GMBL" + good() + "x" + good(), "-g-g"},
      {header(0, 2, 0).substr(0, 9) + good() + good(), "-gg"},
      {claims_more + good() + good(), "-gg"},
      {claims_more + "GMB" + good() + claims_more + good() + "GMBL", "-g-g-"},
      {good() + "GMBL" + good().substr(0, 35), "g--"},
  };
  for (const auto& [input, expected] : cases) {
    std::string kinds;
    for (const Frame& frame : read(input)) kinds += !frame.error.empty() ? '-' : frame.log_probs ? 'p' : 'g';
    check(kinds == expected, __FILE__, __LINE__, kinds + " instead of " + expected);
  }
}

void memory() {
  const std::string claims_most = header(1, (1u << 26) - 3, 1u << 28) + std::string(100, 'x');
  largest_allocation = 0;
  const auto cut = read(claims_most);
  EXPECT(largest_allocation < 1 << 20);
  EXPECT(cut.size() == 1 && cut[0].error ==
                                "expected 268435456 bytes after the header, got 100 bytes and the end of "
                                "the input");

  const std::uint32_t classes = 1 << 20;
  const std::string large = header(1, classes, 12 + 4 * classes) + std::string(12 + 4 * classes, '\0');
  const std::string long_line = "1 1" + std::string(1 << 21, ' ') + "1\n";
  std::string numbers = "1 1";
  for (int i = 0; i < 1 << 17; ++i) numbers += " 1";
  EXPECT(read(large)[0].error.empty() && read(long_line, true)[0].error.empty());
  const auto binary = read(good() + large + good(8), false, 400000);
  const auto lines = read(long_line + numbers + "\n7 1 1", true, 400000);
  EXPECT(binary.size() == 3 && binary[1].position == "byte 36" && binary[1].logits.empty());
  EXPECT(binary[1].error == "expected memory for the 4194316 bytes after the header, got none");
  EXPECT(binary[2].error.empty() && binary[2].seeds == std::vector<std::int64_t>{8});
  EXPECT(lines.size() == 3 && lines[2].error.empty() && lines[2].seeds == std::vector<std::int64_t>{7});
  EXPECT(lines[0].error == "expected memory for the line, got none" && lines[1].error == lines[0].error);
}

void values() {
  const auto error = [](float temperature, float first, float second) {
    return check_values(read(header(1, 2, 20) + bytes(std::int64_t(1), temperature, first, second)).at(0));
  };
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT(error(0, 1, -infinity).empty());
  EXPECT(error(-1, 1, 1).find("row 0: expected a finite temperature") == 0);
  EXPECT(error(nan, 1, 1).find("row 0: expected a finite temperature") == 0);
  EXPECT(error(infinity, 1, 1).find("row 0: expected a finite temperature") == 0);
  EXPECT(error(1, 1, nan).find("class 1, got nan") != std::string::npos);
  EXPECT(error(1, infinity, 1).find("class 0, got inf") != std::string::npos);
  EXPECT(error(1, -infinity, -infinity).find("above -infinity") != std::string::npos);
}

void text() {
  const auto frames = read("7 1 0.5 -0.5\n\n1\t2 3 \r\n1 2\n1 2 x3\n99999999999999999999 1 1\n-1 0 -inf 4", true);
  EXPECT(frames.size() == 7);
  const std::vector<bool> malformed = {false, true, false, true, true, true, false};
  for (std::size_t i = 0; i < frames.size(); ++i) {
    EXPECT(frames[i].error.empty() != malformed[i]);
    EXPECT(frames[i].position == "line " + std::to_string(i + 1));
  }
  EXPECT(frames[6].seeds == std::vector<std::int64_t>{-1} && frames[6].logits.size() == 2);
  EXPECT(read("1 1 a\x1b\"\\\xff", true)[0].error == R"(expected LOGIT, a number, got "a\x1b\"\\\xff")");
  EXPECT(read(std::string(100, 'x'), true)[0].error ==
         "expected SEED, an integer of 64 bits, got \"" + std::string(40, 'x') + "\"...");
  EXPECT(read("1", true)[0].error == "expected TEMPERATURE, a number, got the end of the line");
  const auto asking = read("P 1 1 1\n\tP\t1 1 1\n1 1 1\nP1 1 1\nP\n", true);
  EXPECT(asking.size() == 5 && asking[0].log_probs && asking[1].log_probs && !asking[2].log_probs);
  EXPECT(asking[1].error.empty() && !asking[3].error.empty() && !asking[4].error.empty());
  const auto long_line = read("1 1 " + std::string(1 << 25, '1') + "\n1 1 1\n", true);
  EXPECT(long_line.size() == 2 && !long_line[0].error.empty() && long_line[1].error.empty());
}

}  // namespace

int main() {
  binary();
  resynchronisation();
  memory();
  values();
  text();
  return failures != 0;
}
