// The sample server's readers, held to a second reading of what frame.h says.
//
// Input: a byte, odd for text; then what the server reads.
#include <sstream>

#include "../../examples/cpp/sample_server/frame.h"
#include "input.h"

namespace {

bool is_printable(const std::string& line) {
  return std::all_of(line.begin(), line.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

void check_frame(const Frame& frame) {
  const std::string values = frame.error.empty() ? check_values(frame) : "";
  for (const std::string& error : {frame.error, values}) {
    expect(is_printable(error) && error.size() < 500, "a short printable error");
    expect(error.empty() || (error.find("expected ") < 20 && error.find(", got ") != std::string::npos),
           "an error that says what was expected and what came");
  }
  if (!frame.error.empty()) return;
  expect(frame.rows() >= 1 && frame.classes >= 1, "at least one row and one class");
  expect(std::int64_t(frame.temperatures.size()) == frame.rows(), "a temperature for each row");
  expect(std::int64_t(frame.logits.size()) == frame.rows() * frame.classes, "a logit for each row and class");
}

// The answers to binary input, one after the other: where, and the payload of a well-formed frame.
class Expected {
 public:
  explicit Expected(std::string_view input) : input_(input) {
  }

  struct Answer {
    std::size_t position;
    bool well_formed, log_probs;
    std::string_view payload;
  };

  std::optional<Answer> next() {
    const std::size_t start = position_;
    position_ = std::min({input_.find("GMBL", start), input_.find("GMBP", start), input_.size()});
    const bool told = given_up_;
    given_up_ = false;
    if (position_ > start && !told) return Answer{start, false, false, {}};
    if (position_ == input_.size()) return std::nullopt;
    const std::string_view left = input_.substr(position_);
    std::uint32_t header[4] = {};
    std::memcpy(header, left.data(), std::min(left.size(), sizeof header));
    const std::uint64_t classes = header[2], bytes = header[3];
    const bool well_formed = left.size() >= 16 && header[1] > 0 && classes > 0 && bytes <= 1u << 28 &&
                             bytes % header[1] == 0 && bytes / header[1] == 12 + 4 * classes &&
                             left.size() - 16 >= bytes;
    const Answer answer{position_, well_formed, left.starts_with("GMBP"), well_formed ? left.substr(16, bytes) : ""};
    given_up_ = !well_formed;
    position_ += well_formed ? 16 + bytes : 4;
    return answer;
  }

 private:
  std::string_view input_;
  std::size_t position_ = 0;
  bool given_up_ = false;
};

std::string payload_of(const Frame& frame) {
  std::string bytes;
  const auto append = [&](const auto& numbers) {
    bytes.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof numbers[0]);
  };
  append(frame.seeds);
  append(frame.temperatures);
  append(frame.logits);
  return bytes;
}

void check_binary(const std::string& bytes) {
  std::istringstream input(bytes);
  const auto reader = read_binary(input);
  Expected expected(bytes);
  while (const auto answer = expected.next()) {
    const auto frame = reader->next();
    expect(frame.has_value(), "another frame");
    check_frame(*frame);
    expect(frame->position == "byte " + std::to_string(answer->position), "the frame's position");
    expect(frame->error.empty() == answer->well_formed, "an error where the frame is malformed, and only there");
    expect(!answer->well_formed || payload_of(*frame) == answer->payload, "the frame's numbers");
    expect(!answer->well_formed || frame->log_probs == answer->log_probs, "log-probabilities where they are asked for");
  }
  expect(!reader->next().has_value(), "the end of the input");
}

void check_text(const std::string& bytes) {
  std::istringstream input(bytes), again(bytes);
  const auto reader = read_text(input);
  std::string line;
  for (int number = 1; std::getline(again, line); ++number) {
    const auto frame = reader->next();
    expect(frame.has_value(), "another frame");
    check_frame(*frame);
    expect(frame->position == "line " + std::to_string(number), "the line's number");
    expect(!frame->error.empty() || frame->rows() == 1, "one row in a line");
    const bool asks = line.substr(std::min(line.find_first_not_of(" \t\r"), line.size())).starts_with('P');
    expect(!frame->error.empty() || frame->log_probs == asks, "a log-probability where it is asked for");
    expect(frame->classes <= std::int64_t(line.size()), "no more numbers than characters");
  }
  expect(!reader->next().has_value(), "the end of the input");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const bool text = input.choose(2) == 1;
  (text ? check_text : check_binary)(std::string(input.rest()));
  return 0;
}
