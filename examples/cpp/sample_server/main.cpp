// Draws indices for rows of logits, as a service: frames on standard input, one line for each on standard
// output, in the order of arrival.
//
//   sample_server [--text] [--threads N] < frames > answers
//
// frame.h says what a frame is. Its answer is the index drawn for each row, with a space between, or, where
// log-probabilities are asked for, index:log-probability; or "error at byte 128: ..." for a malformed one. A row's
// index is drawn from softmax(logits / temperature) and depends on its logits, seed and temperature alone: not on the
// rows beside it, the frame or the thread.
//
//   main thread: read frames -> queue of tasks -> workers: sample
//                     \-> queue of their answers, in order -> writer
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gumbel_ext/gumbel_ext.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <future>
#include <iostream>
#include <new>
#include <string_view>
#include <thread>

#include "frame.h"
#include "queue.h"

namespace {

struct Options {
  bool text = false;
  int threads = std::max(1, int(std::thread::hardware_concurrency()));
};

struct Answer {
  std::string line;
  std::int64_t rows = 0;
};

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--text") {
      options.text = true;
    } else if (argument == "--threads" && i + 1 < argc) {
      const std::string_view number = argv[++i];
      const char* end = number.data() + number.size();
      const auto parsed = std::from_chars(number.data(), end, options.threads);
      if (parsed.ec != std::errc() || parsed.ptr != end || options.threads < 1 || options.threads > 1024)
        return std::nullopt;
    } else {
      return std::nullopt;
    }
  }
  return options;
}

// The draws of a frame; with log-probabilities where it asks for them.
gumbel_ext::Sample sample(Frame& frame) {
  const std::int64_t rows = frame.rows();
  const auto logits = at::from_blob(frame.logits.data(), {rows, frame.classes}, at::kFloat);
  const auto temperatures = at::from_blob(frame.temperatures.data(), {rows, 1}, at::kFloat);
  const auto seeds = at::from_blob(frame.seeds.data(), {rows}, at::kLong);
  constexpr std::int64_t kDim = -1;
  if (frame.log_probs) return gumbel_ext::sample(logits, temperatures, kDim, /*num_samples=*/{}, /*mask=*/{}, seeds);
  return {gumbel_ext::gumbel_max(logits, temperatures, kDim, /*num_samples=*/{}, /*mask=*/{}, seeds), {}, {}};
}

std::string shortest(float number) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, number).ptr};
}

Answer answer(Frame frame) {
  try {
    if (frame.error.empty()) frame.error = check_values(frame);
    if (!frame.error.empty()) return {"error at " + frame.position + ": " + frame.error, 0};
    const gumbel_ext::Sample drawn = sample(frame);
    Answer result{{}, frame.rows()};
    for (std::int64_t row = 0; row < result.rows; ++row) {
      if (row > 0) result.line += ' ';
      result.line += std::to_string(drawn.index.const_data_ptr<std::int64_t>()[row]);
      if (frame.log_probs) result.line += ':' + shortest(drawn.log_prob.const_data_ptr<float>()[row]);
    }
    return result;
  } catch (const std::bad_alloc&) {  // the next frame may fit
    return {"error at " + frame.position + ": expected memory for the answer, got none", 0};
  } catch (const std::exception& error) {
    const std::string what = error.what();
    return {"error at " + frame.position + ": " + what.substr(0, what.find('\n')), 0};
  }
}

struct Totals {
  std::int64_t frames = 0, malformed = 0, rows = 0;
  bool complete = true;  // all of the input was read and answered
};

// Writes the answer once it is there; where memory lacked even for an error's words, these.
void write_answer(std::future<Answer>& next, Totals& totals) {
  ++totals.frames;
  try {
    const Answer given = next.get();
    std::cout << given.line << "\n" << std::flush;
    totals.malformed += given.rows == 0;
    totals.rows += given.rows;
  } catch (const std::exception&) {
    std::cout << "error: expected memory for the answer, got none\n" << std::flush;
    ++totals.malformed;
  }
}

Totals serve(FrameReader& reader, int threads) {
  Queue<std::packaged_task<Answer()>> tasks(threads);
  Queue<std::future<Answer>> answers(2 * threads);
  Totals totals;

  std::vector<std::jthread> workers;
  for (int i = 0; i < threads; ++i)
    workers.emplace_back([&] {
      while (auto task = tasks.pop()) (*task)();
    });
  std::jthread writer([&] {
    while (auto next = answers.pop()) write_answer(*next, totals);
  });

  try {
    while (auto frame = reader.next()) {
      std::packaged_task<Answer()> task([frame = std::move(*frame)]() mutable { return answer(std::move(frame)); });
      answers.push(task.get_future());
      tasks.push(std::move(task));
    }
  } catch (const std::bad_alloc&) {  // not even a few bytes are left: what was read is answered
    totals.complete = false;
  }
  tasks.close();
  answers.close();
  writer.join();
  return totals;
}

}  // namespace

int main(int argc, char** argv) {
  const auto options = parse(argc, argv);
  if (!options) {
    std::cerr << "usage: sample_server [--text] [--threads N] < frames > answers     (1 <= N <= 1024)\n";
    return 2;
  }
  std::ios::sync_with_stdio(false);
  std::cin.tie(nullptr);   // or reading would flush std::cout, which is the writer's
  at::set_num_threads(1);  // a frame stays on its worker's thread; the workers share the processor

  const auto reader = options->text ? read_text(std::cin) : read_binary(std::cin);
  const auto start = std::chrono::steady_clock::now();
  const Totals totals = serve(*reader, options->threads);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;

  std::cerr << totals.rows << " rows in " << totals.frames << " frames (" << totals.malformed << " malformed), "
            << seconds.count() << " s with " << options->threads
            << " threads: " << std::int64_t(double(totals.rows) / seconds.count()) << " rows a second\n";
  if (!totals.complete) std::cerr << "error: expected memory to read on, got none\n";
  return std::cout && totals.complete ? 0 : 1;
}
