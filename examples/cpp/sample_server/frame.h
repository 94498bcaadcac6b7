/// \file
/// What the server reads.
///
/// A binary frame holds rows of logits over the same classes. Numbers are little-endian, nothing is padded:
///
///   offset        type          what
///   0             4 bytes       the magic: "GMBL", or "GMBP" where the answer is to have log-probabilities
///   4             uint32        R, rows, at least 1
///   8             uint32        C, classes, at least 1
///   12            uint32        bytes that follow this header: R * (12 + 4 * C), at most 2^28
///   16            int64[R]      seeds
///   16 + 8 R      float32[R]    temperatures, finite and not negative; 0 is greedy
///   16 + 12 R     float32[R*C]  logits, row by row: below +infinity, not NaN, one of a row above -infinity
///
/// A text frame is a line of at most 2^24 characters with one row: SEED TEMPERATURE LOGIT LOGIT ..., or, for a
/// log-probability too, P SEED TEMPERATURE LOGIT LOGIT ...
///
/// Resynchronisation. Bytes outside a frame are skipped up to the next magic. A frame with a malformed header, or that
/// the input ends within, is given up after its magic: the reader goes on at the next one, even if that lies within
/// what the frame claimed. After a malformed line it goes on at the next line. A frame of the right size with
/// wrong values, or too large for the memory there is, spoils itself alone.
///
/// Memory: a small multiple of the frame's bytes that have come, whatever its header claims.
#pragma once

#include <cstdint>
#include <istream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

struct Frame {
  std::string position;    ///< "byte 128" or "line 3", counted from 0 and from 1
  std::string error;       ///< what was expected and what came, printable; empty if the frame is well-formed
  bool log_probs = false;  ///< whether the answer is to have them
  std::int64_t classes = 0;
  std::vector<std::int64_t> seeds;
  std::vector<float> temperatures;
  std::vector<float> logits;

  std::int64_t rows() const {
    return std::int64_t(seeds.size());
  }
};

class FrameReader {
 public:
  virtual ~FrameReader() = default;
  /// The next frame, malformed or not; nothing at the end of input.
  virtual std::optional<Frame> next() = 0;
};

std::unique_ptr<FrameReader> read_binary(std::istream& input);
std::unique_ptr<FrameReader> read_text(std::istream& input);

/// What is wrong with the numbers of a well-formed frame; empty if nothing is.
std::string check_values(const Frame& frame);
