#include "caching_allocator.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <c10/core/CPUAllocator.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__APPLE__)
#include <malloc/malloc.h>
#else
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <vector>

namespace gumbel_ext::cpu {
namespace {

constexpr std::size_t kMegabyte = std::size_t(1) << 20;
// Below this, the C library keeps memory itself, and torch's own allocator is as fast.
constexpr std::size_t kSmallest = 4 * kMegabyte;
// From here on what is kept is the system's to take. To offer a smaller block costs more than it may spare: of those,
// few are kept.
constexpr std::size_t kLarge = 32 * kMegabyte;
constexpr std::size_t kMostSmallBytes = 64 * kMegabyte;
constexpr std::size_t kHugePage = 2 * kMegabyte;
constexpr std::size_t kMostBlocks = 1024;

std::size_t whole_pages(std::size_t bytes) {
  return (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

// Memory for a tensor. Its size follows from its address, so that a DataPtr's context is the data itself, as torch's
// copy-on-write requires.
struct Block {
  void* data = nullptr;
  std::size_t bytes = 0;

  Block() = default;
  explicit Block(void* data) : data(data), bytes(usable_size(data)) {
  }
  // Of whole pages; {} where memory is short.
  static Block allocate(std::size_t bytes) {
    void* data = nullptr;
    if (posix_memalign(&data, kHugePage, bytes) != 0) return {};
#if defined(__linux__)
    madvise(data, bytes, MADV_HUGEPAGE);  // a request: where it is refused, nothing changes
#endif
    return Block(data);
  }
  // Lets the system take the pages when memory is short, until they are written again. Whether it agrees.
  bool offer() const {
#if defined(MADV_FREE)
    return madvise(data, bytes / kHugePage * kHugePage, MADV_FREE) == 0;
#else
    return false;
#endif
  }

 private:
  static std::size_t usable_size(void* data) {
#if defined(__APPLE__)
    return malloc_size(data);
#else
    return malloc_usable_size(data);
#endif
  }
};

// The blocks that wait to be used again, the oldest first. Whoever finds the lock taken does without: so nobody waits,
// and a process that forked while another thread held it does not hang.
class Kept {
 public:
  Kept(std::size_t limit, bool offers) : limit_(limit), offers_(offers) {
    blocks_.reserve(kMostBlocks);
  }
  bool is_on() const {
    return limit_ > 0;
  }
  std::size_t bytes() const {
    return total_;
  }
  // A block of at least so many bytes, and not many more; {} where there is none.
  Block take(std::size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return {};
    const auto fits = [&](const Block& block) {
      return block.bytes >= bytes && block.bytes <= bytes + bytes / 4 + kHugePage;
    };
    const auto found = std::find_if(blocks_.rbegin(), blocks_.rend(), fits);
    if (found == blocks_.rend()) return {};
    const Block block = *found;
    blocks_.erase(std::next(found).base());
    total_ -= block.bytes;
    return block;
  }
  void give(Block block) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || block.bytes > limit_ || (offers_ && !block.offer())) {
      std::free(block.data);
      return;
    }
    while (total_ + block.bytes > limit_ || blocks_.size() == kMostBlocks) release_oldest();
    blocks_.push_back(block);  // there is room: it allocates nothing, and cannot fail
    total_ += block.bytes;
  }
  void release() {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    while (lock && !blocks_.empty()) release_oldest();
  }

 private:
  void release_oldest() {
    total_ -= blocks_.front().bytes;
    std::free(blocks_.front().data);
    blocks_.erase(blocks_.begin());
  }
  std::mutex mutex_;
  std::vector<Block> blocks_;
  std::atomic<std::size_t> total_ = 0;
  const std::size_t limit_;
  const bool offers_;
};

std::size_t limit() {
  const char* text = std::getenv("GUMBEL_EXT_CPU_KEEP_MB");
  if (text == nullptr || *text == '\0') return kKeptBytes;
  const std::string_view digits = text;
  const bool is_number = digits.find_first_not_of("0123456789") == digits.npos && digits.size() <= 13;
  TORCH_CHECK_VALUE(is_number, "GUMBEL_EXT_CPU_KEEP_MB: expected a whole number of megabytes below 10^13, got ", text);
  return static_cast<std::size_t>(std::atoll(text)) * kMegabyte;
}

// Small blocks have at most a quarter of the limit.
struct Cache {
  const std::size_t for_small = std::min(limit() / 4, kMostSmallBytes);
  Kept small{for_small, /*offers=*/false};
  Kept large{limit() - for_small, /*offers=*/true};

  Kept& of(std::size_t bytes) {
    return bytes < kLarge ? small : large;
  }
  void release() {
    small.release();
    large.release();
  }
};

Cache& cache() {
  static Cache* const instance = new Cache();  // outlives every tensor
  return *instance;
}

class CachingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes < kSmallest) return c10::GetCPUAllocator()->allocate(bytes);
    bytes = whole_pages(bytes);
    Block block = cache().of(bytes).take(bytes);
    if (block.data == nullptr) block = Block::allocate(bytes);
    if (block.data == nullptr) {
      cache().release();
      block = Block::allocate(bytes);
    }
    TORCH_CHECK(block.data != nullptr, "gumbel_ext: out of memory for a tensor of ", bytes, " bytes");
    c10::profiledCPUMemoryReporter().New(block.data, block.bytes);
    return {block.data, block.data, release, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  static void release(void* data) {
    c10::profiledCPUMemoryReporter().Delete(data);
    const Block block(data);
    cache().of(block.bytes).give(block);
  }
};

}  // namespace

at::Tensor new_like(const at::Tensor& tensor) {
  const bool keeps = cache().large.is_on();  // first: a wrong limit in the environment is an error whatever the size
  if (!keeps || tensor.nbytes() < kSmallest) return at::empty(tensor.sizes(), tensor.options());
  static CachingAllocator allocator;
  return at::detail::empty_generic(tensor.sizes(), &allocator, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   tensor.scalar_type(), /*memory_format_opt=*/std::nullopt);
}

bool is_private(const at::Tensor& tensor) {
  const c10::DeleterFnPtr deleter = tensor.storage().data_ptr().get_deleter();
  return deleter == &CachingAllocator::release || deleter == c10::GetCPUAllocator()->raw_deleter();
}

std::int64_t kept_bytes() {
  return static_cast<std::int64_t>(cache().small.bytes() + cache().large.bytes());
}

void release_kept() {
  cache().release();
}

}  // namespace gumbel_ext::cpu
