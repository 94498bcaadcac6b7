// An allocator that fails when it is told to; loaded before all others (LD_PRELOAD). Only for the GNU C library, whose
// own functions do the work.
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

extern "C" {

void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

}  // extern "C"

namespace {

std::atomic<std::size_t> least_bytes = SIZE_MAX;  // of the requests that count
std::atomic<std::int64_t> left = 0;               // such requests until one fails

bool fails(std::size_t bytes) {
  if (bytes < least_bytes.load(std::memory_order_relaxed) || left.fetch_sub(1) != 1) return false;
  errno = ENOMEM;
  return true;
}

}  // namespace

extern "C" {

// From now on, and on whatever thread, the n-th request for `bytes` or more fails, and no other.
void failing_memory_arm(std::int64_t n, std::size_t bytes) {
  left = n;
  least_bytes = bytes;
}

// No request fails any longer. Returns how many were still to come before the one that was to fail; at most 0 if it
// has come.
std::int64_t failing_memory_disarm() {
  least_bytes = SIZE_MAX;
  return left;
}

void* malloc(std::size_t bytes) {
  return fails(bytes) ? nullptr : __libc_malloc(bytes);
}

void* calloc(std::size_t count, std::size_t bytes) {
  return count != 0 && fails(count * bytes) ? nullptr : __libc_calloc(count, bytes);
}

void* realloc(void* memory, std::size_t bytes) {
  return fails(bytes) ? nullptr : __libc_realloc(memory, bytes);
}

void* memalign(std::size_t alignment, std::size_t bytes) {
  return fails(bytes) ? nullptr : __libc_memalign(alignment, bytes);
}

void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  return memalign(alignment, bytes);
}

int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) {
  void* const found = memalign(alignment, bytes);
  if (found == nullptr) return ENOMEM;
  *memory = found;
  return 0;
}

}  // extern "C"
