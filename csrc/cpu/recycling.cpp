#include "recycling.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <c10/core/CPUAllocator.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace gumbel_ext::cpu {
namespace {

constexpr std::size_t kSmallest = std::size_t(1) << 20;  // below this, the usual allocator keeps memory itself
constexpr std::size_t kGranule = std::size_t(2) << 20;   // a huge page

struct Block {
  void* data;
  std::size_t bytes;
};

Block new_block(std::size_t bytes) {
  bytes = (bytes + kGranule - 1) / kGranule * kGranule;
  void* data = std::aligned_alloc(kGranule, bytes);
  TORCH_CHECK(data != nullptr, "gumbel_ext: out of memory for a tensor of ", bytes, " bytes");
#if defined(__linux__)
  madvise(data, bytes, MADV_HUGEPAGE);  // a request: where it is refused, nothing changes
#endif
  return {data, bytes};
}

// The blocks that wait to be used again, the oldest first. Whoever finds the lock taken does without: so nobody waits,
// and a process that forked while another thread held it does not hang.
class Kept {
 public:
  // A block of at least so many bytes, and not many more; {} where there is none.
  Block take(std::size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return {};
    const auto fits = [&](const Block& block) {
      return block.bytes >= bytes && block.bytes <= bytes + bytes / 4 + kGranule;
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
    if (!lock || block.bytes > limit_) {
      std::free(block.data);
      return;
    }
    blocks_.push_back(block);
    total_ += block.bytes;
    while (total_ > limit_) {
      total_ -= blocks_.front().bytes;
      std::free(blocks_.front().data);
      blocks_.erase(blocks_.begin());
    }
  }

 private:
  static std::size_t limit() {
    const char* megabytes = std::getenv("GUMBEL_EXT_CPU_KEEP_MB");
    return megabytes ? static_cast<std::size_t>(std::max(0LL, std::atoll(megabytes))) << 20 : kKeptBytes;
  }

  std::mutex mutex_;
  std::vector<Block> blocks_;
  std::size_t total_ = 0;
  const std::size_t limit_ = limit();
};

Kept& kept() {
  static Kept* const instance = new Kept();  // outlives every tensor
  return *instance;
}

class RecyclingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes < kSmallest) return c10::GetCPUAllocator()->allocate(bytes);
    Block block = kept().take(bytes);
    if (block.data == nullptr) block = new_block(bytes);
    c10::profiledCPUMemoryReporter().New(block.data, block.bytes);
    return {block.data, new Block(block), release, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static void release(void* context) {
    Block* block = static_cast<Block*>(context);
    c10::profiledCPUMemoryReporter().Delete(block->data);
    kept().give(*block);
    delete block;
  }
};

}  // namespace

at::Tensor new_like(const at::Tensor& tensor) {
  if (tensor.nbytes() < kSmallest) return at::empty_like(tensor);
  static RecyclingAllocator allocator;
  const at::Tensor shape = at::empty_like(tensor, tensor.options().device(at::kMeta));  // with empty_like's strides
  return at::detail::empty_strided_generic(shape.sizes(), shape.strides(), &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.scalar_type());
}

}  // namespace gumbel_ext::cpu
