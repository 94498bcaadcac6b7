// All that a call works in, allocated at once: what runs on threads allocates nothing, and so cannot fail.
#pragma once

#include <c10/core/CPUAllocator.h>

#include "kernels.h"

namespace gumbel_ext::cpu {

// A workspace for each part of a call, and memory for each group that is at work at once. Small memory is kept by its
// thread for the next call.
class CallMemory {
 public:
  CallMemory(std::int64_t parts, std::int64_t workspace_bytes, std::int64_t groups, std::int64_t group_bytes)
      : workspace_bytes_(round_up(workspace_bytes)), group_bytes_(round_up(group_bytes)) {
    constexpr std::int64_t kMostKept = std::int64_t(4) << 20;
    groups_ = parts * workspace_bytes_;
    const std::int64_t bytes = groups_ + groups * group_bytes_;
    if (bytes > kMostKept) {
      own_ = c10::GetCPUAllocator()->allocate(bytes);
      memory_ = static_cast<char*>(own_.get());
      return;
    }
    thread_local c10::DataPtr kept;
    thread_local std::int64_t capacity = 0;
    if (bytes > capacity) {
      kept = c10::GetCPUAllocator()->allocate(bytes);
      capacity = bytes;
    }
    memory_ = static_cast<char*>(kept.get());
  }
  CallMemory(const CallMemory&) = delete;

  Workspace workspace(std::int64_t part) const {
    return memory_ + part * workspace_bytes_;
  }
  void* group(std::int64_t number) const {
    return memory_ + groups_ + number * group_bytes_;
  }

 private:
  static std::int64_t round_up(std::int64_t bytes) {
    return divide_up(bytes, 64) * 64;
  }

  std::int64_t workspace_bytes_, group_bytes_, groups_ = 0;
  c10::DataPtr own_;
  char* memory_ = nullptr;
};

}  // namespace gumbel_ext::cpu
