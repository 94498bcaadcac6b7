#include "frame.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>
#include <system_error>

static_assert(std::endian::native == std::endian::little, "frames are read as they lie in memory");

namespace {

constexpr std::string_view kMagic = "GMBL";
constexpr std::uint64_t kMostBytes = std::uint64_t(1) << 28;
constexpr std::size_t kLongestLine = std::size_t(1) << 24;

class BinaryReader : public FrameReader {
 public:
  explicit BinaryReader(std::istream& input) : input_(input) {
  }

  std::optional<Frame> next() override {
    Frame frame;
    if (!found_magic_) {
      const std::uint64_t start = offset_;
      frame.position = "byte " + std::to_string(start);
      find_magic();
      if (offset_ == start) return std::nullopt;
      if (offset_ != start + kMagic.size() || !found_magic_) {
        frame.error = "expected GMBL, skipped " + std::to_string(begin_of_frame() - start) + " bytes";
        return frame;
      }
    }
    frame.position = "byte " + std::to_string(begin_of_frame());
    found_magic_ = false;
    read_after_magic(frame);
    return frame;
  }

 private:
  // Reads up to and with the next magic, or to the end of input.
  void find_magic() {
    std::string window;
    for (char byte; !found_magic_ && input_.get(byte); ++offset_) {
      if (window.size() == kMagic.size()) window.erase(0, 1);
      window += byte;
      found_magic_ = window == kMagic;
    }
  }

  // Where the magic just read began; at the end of input, there.
  std::uint64_t begin_of_frame() const {
    return found_magic_ ? offset_ - kMagic.size() : offset_;
  }

  void read_after_magic(Frame& frame) {
    std::uint32_t header[3];
    if (!read(header, sizeof header)) {
      frame.error = "the input ends within the header";
      return;
    }
    const std::uint64_t rows = header[0], classes = header[1], bytes = header[2];
    const auto expected = static_cast<__uint128_t>(rows) * (12 + 4 * classes);
    if (rows == 0 || classes == 0 || bytes != expected || bytes > kMostBytes) {
      frame.error = "expected rows >= 1, classes >= 1 and rows * (12 + 4 * classes) <= 2^28 bytes to follow, got " +
                    std::to_string(rows) + " rows, " + std::to_string(classes) + " classes, " + std::to_string(bytes) +
                    " bytes";
      find_magic();
      return;
    }
    const std::uint64_t payload = offset_;
    frame.classes = std::int64_t(classes);
    frame.seeds.resize(rows);
    frame.temperatures.resize(rows);
    frame.logits.resize(rows * classes);
    if (!read(frame.seeds.data(), 8 * rows) || !read(frame.temperatures.data(), 4 * rows) ||
        !read(frame.logits.data(), 4 * rows * classes))
      frame.error = "the input ends after " + std::to_string(offset_ - payload) + " of the " + std::to_string(bytes) +
                    " bytes that follow the header";
  }

  bool read(void* to, std::size_t bytes) {
    input_.read(static_cast<char*>(to), std::streamsize(bytes));
    offset_ += std::uint64_t(input_.gcount());
    return std::size_t(input_.gcount()) == bytes;
  }

  std::istream& input_;
  std::uint64_t offset_ = 0;  // bytes read so far
  bool found_magic_ = false;  // the last bytes read are those of a magic
};

class TextReader : public FrameReader {
 public:
  explicit TextReader(std::istream& input) : input_(input) {
  }

  std::optional<Frame> next() override {
    std::string line;
    bool too_long = false, any = false;
    for (char byte; input_.get(byte);) {
      any = true;
      if (byte == '\n') break;
      too_long = line.size() == kLongestLine;
      if (!too_long) line += byte;
    }
    if (!any) return std::nullopt;
    Frame frame;
    frame.position = "line " + std::to_string(++number_);
    if (too_long)
      frame.error = "expected at most 2^24 characters";
    else
      parse(line, frame);
    return frame;
  }

 private:
  static void parse(std::string_view line, Frame& frame) {
    std::int64_t seed = 0;
    float temperature = 0;
    if (!take(line, "SEED, an integer of 64 bits", seed, frame)) return;
    if (!take(line, "TEMPERATURE, a number", temperature, frame)) return;
    for (float logit = 0; frame.logits.empty() || !blank(line);) {
      if (!take(line, "LOGIT, a number", logit, frame)) return;
      frame.logits.push_back(logit);
    }
    frame.classes = std::int64_t(frame.logits.size());
    frame.seeds = {seed};
    frame.temperatures = {temperature};
  }

  static bool blank(std::string_view& line) {
    line.remove_prefix(std::min(line.find_first_not_of(" \t\r"), line.size()));
    return line.empty();
  }

  // Takes one number off the front of the line.
  template <typename Number>
  static bool take(std::string_view& line, const char* what, Number& value, Frame& frame) {
    blank(line);
    const auto word = line.substr(0, line.find_first_of(" \t\r"));
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (word.empty() || error != std::errc() || end != word.data() + word.size()) {
      frame.error = std::string("expected ").append(what).append(", got ");
      frame.error.append(word.empty() ? "the end of the line" : word.substr(0, 40));
      return false;
    }
    line.remove_prefix(word.size());
    return true;
  }

  std::istream& input_;
  std::uint64_t number_ = 0;
};

}  // namespace

std::unique_ptr<FrameReader> read_binary(std::istream& input) {
  return std::make_unique<BinaryReader>(input);
}

std::unique_ptr<FrameReader> read_text(std::istream& input) {
  return std::make_unique<TextReader>(input);
}

std::string check_values(const Frame& frame) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (std::int64_t row = 0; row < frame.rows(); ++row) {
    const std::string where = "row " + std::to_string(row) + ": ";
    const float temperature = frame.temperatures[row];
    if (!(temperature >= 0 && temperature < kInfinity))
      return where + "expected a finite temperature that is not negative, got " + std::to_string(temperature);
    bool possible = false;
    const float* logits = frame.logits.data() + row * frame.classes;
    for (std::int64_t i = 0; i < frame.classes; ++i) {
      if (!(logits[i] < kInfinity))
        return where + "expected a logit below +infinity for class " + std::to_string(i) + ", got " +
               std::to_string(logits[i]);
      possible |= logits[i] > -kInfinity;
    }
    if (!possible) return where + "expected a logit above -infinity for one class at least";
  }
  return {};
}
