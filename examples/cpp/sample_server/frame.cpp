#include "frame.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

static_assert(std::endian::native == std::endian::little, "frames are read as they lie in memory");

namespace {

constexpr std::string_view kMagic = "GMBL", kMagicOfLogProbs = "GMBP";
constexpr std::size_t kMagicBytes = 4;
constexpr std::uint64_t kMostBytes = std::uint64_t(1) << 28;
constexpr std::size_t kLongestLine = std::size_t(1) << 24;

// The first characters of a word of the input, printable.
std::string quoted(std::string_view word) {
  constexpr std::size_t kShown = 40;
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string result = "\"";
  for (const unsigned char byte : word.substr(0, kShown)) {
    if (byte >= ' ' && byte <= '~') {
      if (byte == '"' || byte == '\\') result += '\\';
      result += char(byte);
    } else {
      result.append("\\x").append({kDigits[byte / 16], kDigits[byte % 16]});
    }
  }
  return result + (word.size() > kShown ? "\"..." : "\"");
}

std::string shortest(float number) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, number).ptr};
}

// The bytes ahead in a stream, which can be looked at before they are passed.
class Window {
 public:
  explicit Window(std::istream& input) : input_(input) {
  }

  // Whether `count` bytes lie ahead. Reads what is missing, in steps that grow with what has come.
  bool has(std::uint64_t count) {
    while (size() < count && input_) {
      bytes_.erase(0, std::exchange(begin_, 0));
      const std::size_t had = size();
      const std::size_t more = std::min<std::uint64_t>(count - had, std::max(had, kSmallestStep));
      bytes_.resize(had + more);
      input_.read(bytes_.data() + had, std::streamsize(more));
      bytes_.resize(had + std::size_t(input_.gcount()));
    }
    return size() >= count;
  }

  // Passes `count` bytes, or all there are.
  void skip(std::uint64_t count) {
    const std::uint64_t held = std::min<std::uint64_t>(count, size());
    begin_ += held;
    offset_ += held;
    if (size() > 0) return;
    std::string().swap(bytes_);
    begin_ = 0;
    if (count == held || !input_) return;
    input_.ignore(std::streamsize(count - held));
    offset_ += std::uint64_t(input_.gcount());
  }

  const char* data() const {
    return bytes_.data() + begin_;
  }
  std::size_t size() const {
    return bytes_.size() - begin_;
  }
  // Bytes passed so far.
  std::uint64_t offset() const {
    return offset_;
  }

 private:
  static constexpr std::size_t kSmallestStep = std::size_t(1) << 16;

  std::istream& input_;
  std::string bytes_;
  std::size_t begin_ = 0;
  std::uint64_t offset_ = 0;
};

class BinaryReader : public FrameReader {
 public:
  explicit BinaryReader(std::istream& input) : window_(input) {
  }

  std::optional<Frame> next() override {
    Frame frame;
    const bool told = std::exchange(given_up_, false);
    const std::uint64_t start = window_.offset();
    const bool found = find_magic();
    const std::uint64_t skipped = window_.offset() - start;
    if (skipped > 0 && !told) {
      frame.position = "byte " + std::to_string(start);
      frame.error = "expected GMBL or GMBP, got " + std::to_string(skipped) + " bytes without either";
      return frame;
    }
    if (!found) return std::nullopt;
    const std::string position = "byte " + std::to_string(window_.offset());
    frame.error = read_frame(frame);
    frame.position = position;
    return frame;
  }

 private:
  struct Header {
    char magic[4];
    std::uint32_t rows, classes, bytes;
  };

  // Skips to the next magic; false where there is none before the end of the input.
  bool find_magic() {
    for (; window_.has(kMagicBytes); window_.skip(1)) {
      const std::string_view ahead(window_.data(), kMagicBytes);
      if (ahead == kMagic || ahead == kMagicOfLogProbs) return true;
    }
    window_.skip(kMagicBytes);
    return false;
  }

  // The frame whose magic lies ahead; returns what is malformed.
  std::string read_frame(Frame& frame) {
    Header header;
    if (!window_.has(sizeof header))
      return give_up("expected a header of 16 bytes, got " + std::to_string(window_.size()) +
                     " bytes and the end of the input");
    std::memcpy(&header, window_.data(), sizeof header);
    const auto expected = static_cast<__uint128_t>(header.rows) * (12 + std::uint64_t(4) * header.classes);
    if (header.rows == 0 || header.classes == 0 || header.bytes != expected || header.bytes > kMostBytes)
      return give_up("expected rows >= 1, classes >= 1 and rows * (12 + 4 * classes) <= 2^28 bytes to follow, got " +
                     std::to_string(header.rows) + " rows, " + std::to_string(header.classes) + " classes, " +
                     std::to_string(header.bytes) + " bytes");
    try {
      if (!window_.has(sizeof header + header.bytes))
        return give_up("expected " + std::to_string(header.bytes) + " bytes after the header, got " +
                       std::to_string(window_.size() - sizeof header) + " bytes and the end of the input");
      take_numbers(header, frame);
    } catch (const std::bad_alloc&) {
      frame = Frame();
      window_.skip(sizeof header + header.bytes);
      return "expected memory for the " + std::to_string(header.bytes) + " bytes after the header, got none";
    }
    return {};
  }

  std::string give_up(std::string error) {
    window_.skip(kMagicBytes);
    given_up_ = true;
    return error;
  }

  void take_numbers(const Header& header, Frame& frame) {
    frame.seeds.resize(header.rows);
    frame.temperatures.resize(header.rows);
    frame.logits.resize(std::size_t(header.rows) * header.classes);
    frame.classes = header.classes;
    frame.log_probs = std::string_view(header.magic, kMagicBytes) == kMagicOfLogProbs;
    window_.skip(sizeof header);
    const auto take = [&](auto& numbers) {
      const std::size_t bytes = numbers.size() * sizeof numbers[0];
      std::memcpy(numbers.data(), window_.data(), bytes);
      window_.skip(bytes);
    };
    take(frame.seeds);
    take(frame.temperatures);
    take(frame.logits);
  }

  Window window_;
  bool given_up_ = false;  // the bytes ahead, up to the next magic, are of a frame given up
};

class TextReader : public FrameReader {
 public:
  explicit TextReader(std::istream& input) : input_(input) {
  }

  std::optional<Frame> next() override {
    if (input_.peek() == std::istream::traits_type::eof()) return std::nullopt;
    Frame frame;
    bool ended = false;  // the line was read to its end
    try {
      std::string line;
      const bool fits = read_line(line);
      ended = true;
      if (fits)
        parse(line, frame);
      else
        frame.error = "expected at most 2^24 characters in a line, got more";
    } catch (const std::bad_alloc&) {
      frame = Frame();
      if (!ended) input_.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
      frame.error = "expected memory for the line, got none";
    }
    frame.position = "line " + std::to_string(++number_);
    return frame;
  }

 private:
  // Reads to the end of the line; false where that is too far.
  bool read_line(std::string& line) {
    bool fits = true;
    for (char byte; input_.get(byte) && byte != '\n';) {
      fits = line.size() < kLongestLine;
      if (fits) line += byte;
    }
    return fits;
  }

  static void parse(std::string_view line, Frame& frame) {
    std::int64_t seed = 0;
    float temperature = 0;
    if (blank(line); line.size() > 1 && line[0] == 'P' && (line[1] == ' ' || line[1] == '\t')) {
      frame.log_probs = true;
      line.remove_prefix(1);
    }
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
      frame.error += word.empty() ? "the end of the line" : quoted(word);
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
      return where + "expected a finite temperature that is not negative, got " + shortest(temperature);
    bool possible = false;
    const float* logits = frame.logits.data() + row * frame.classes;
    for (std::int64_t i = 0; i < frame.classes; ++i) {
      if (!(logits[i] < kInfinity))
        return where + "expected a logit below +infinity for class " + std::to_string(i) + ", got " +
               shortest(logits[i]);
      possible |= logits[i] > -kInfinity;
    }
    if (!possible) return where + "expected a logit above -infinity for one class at least, got -infinity for all";
  }
  return {};
}
