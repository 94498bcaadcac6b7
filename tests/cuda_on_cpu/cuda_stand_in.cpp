#include "cuda_stand_in.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace stand_in {
namespace {

constexpr std::size_t kStack = 256 << 10, kSharedBytes = 48 << 10;

// ---- Fibers ----------------------------------------------------------------------------------------

// Stacks are kept from launch to launch; only what a kernel touches of them takes memory.
class Stacks {
 public:
  void* at(std::size_t i) {
    while (stacks_.size() <= i) {
      void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) throw std::runtime_error("no memory for a thread's stack");
      stacks_.push_back(memory);
    }
    return stacks_[i];
  }

 private:
  std::vector<void*> stacks_;
};

struct Fiber {
  Thread thread;
  jmp_buf state;
  bool started = false, done = false;
};

Stacks stacks;
std::vector<Fiber> fibers;
std::size_t running;
jmp_buf scheduler;
const std::function<void()>* body;
std::size_t idle_switches;  // since something last moved
std::string failure;

void enter() {
  try {
    (*body)();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  fibers[running].done = true;
  idle_switches = 0;
  _longjmp(scheduler, 1);
}

void resume(std::size_t i) {
  running = i;
  if (_setjmp(scheduler) != 0) return;
  if (fibers[i].started) _longjmp(fibers[i].state, 1);
  fibers[i].started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stacks.at(i);
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  setcontext(&context);
}

void run_all() {
  std::size_t left = fibers.size();
  while (left > 0 && failure.empty()) {
    for (std::size_t i = 0; i < fibers.size() && failure.empty(); ++i) {
      if (fibers[i].done) continue;
      resume(i);
      left -= fibers[i].done;
    }
    if (idle_switches > 4 * fibers.size()) failure = "threads wait for others that never come";
  }
  if (!failure.empty()) throw std::runtime_error(failure);
}

// ---- Outputs ---------------------------------------------------------------------------------------

struct Output {
  std::uintptr_t begin;
  std::vector<std::uint8_t> writes;  // of every byte
};
std::vector<Output> outputs;

}  // namespace

Thread& thread() {
  return fibers[running].thread;
}

void wait(Barrier& barrier) {
  const std::uint64_t generation = barrier.generation;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.generation;
    idle_switches = 0;
    return;
  }
  while (barrier.generation == generation) {
    ++idle_switches;
    if (_setjmp(fibers[running].state) == 0) _longjmp(scheduler, 1);
  }
}

void* shared(const void* key, std::size_t bytes) {
  Block& block = *thread().block;
  const auto [place, is_new] = block.places->try_emplace(key, 0);
  if (is_new) {
    static std::size_t used;
    if (block.places->size() == 1) used = 0;
    place->second = used;
    used += (bytes + 15) / 16 * 16;
    if (used > kSharedBytes) throw std::runtime_error("more shared memory than a block has");
  }
  return block.shared + place->second;
}

void run_grid(dim3 grid, dim3 block_size, unsigned cluster_blocks, const std::function<void()>& kernel) {
  const unsigned warps = block_size.x / kWarp;
  std::map<const void*, std::size_t> places;
  std::vector<std::vector<Warp>> warps_of(cluster_blocks, std::vector<Warp>(warps));
  std::vector<std::unique_ptr<unsigned char[]>> memory;
  for (unsigned b = 0; b < cluster_blocks; ++b) memory.emplace_back(new unsigned char[kSharedBytes]);
  body = &kernel;
  failure.clear();
  for (unsigned first = 0; first < grid.x; first += cluster_blocks) {
    Barrier cluster_barrier{cluster_blocks * block_size.x};
    std::vector<Block> blocks(cluster_blocks);
    fibers.assign(cluster_blocks * block_size.x, Fiber{});
    idle_switches = 0;
    for (unsigned b = 0; b < cluster_blocks; ++b) {
      for (Warp& warp : warps_of[b]) warp.barrier = {kWarp};
      std::fill_n(memory[b].get(), kSharedBytes, 0xff);  // what was not written reads as NaN
      blocks[b] = {dim3(first + b), {block_size.x}, warps_of[b].data(), &places, memory[b].get()};
      for (unsigned t = 0; t < block_size.x; ++t)
        fibers[b * block_size.x + t].thread = {dim3(t),       block_size,       grid, &blocks[b],
                                               blocks.data(), &cluster_barrier, b,    cluster_blocks};
    }
    run_all();
  }
}

Errors errors = Errors::kNone;

double error_share(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  switch (errors) {
    case Errors::kNone:
      return 0;
    case Errors::kMost:
      return 1;
    case Errors::kLeast:
      return -1;
    case Errors::kRandom:
      return (bits * 0x9E3779B1u >> 31) != 0 ? 1 : -1;
    case Errors::kOpposed:
      return bits % 2 != 0 ? 1 : -1;
  }
  return 0;
}

void check_aligned(const void* address, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0)
    throw std::runtime_error("an access of " + std::to_string(bytes) + " bytes that is not aligned to them");
}

void note_store(const void* address, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  for (Output& output : outputs) {
    if (at < output.begin || at + bytes > output.begin + output.writes.size()) continue;
    for (std::size_t i = 0; i < bytes; ++i) ++output.writes[at - output.begin + i];
    return;
  }
  throw std::runtime_error("a store outside the outputs");
}

void register_output(const void* address, std::size_t bytes) {
  outputs.push_back({reinterpret_cast<std::uintptr_t>(address), std::vector<std::uint8_t>(bytes)});
}

void forget_output(const void* address) {
  std::erase_if(outputs, [&](const Output& o) { return o.begin == reinterpret_cast<std::uintptr_t>(address); });
}

bool written_once() {
  bool once = true;
  for (const Output& output : outputs)
    once &= std::all_of(output.writes.begin(), output.writes.end(), [](std::uint8_t n) { return n == 1; });
  outputs.clear();
  return once;
}

}  // namespace stand_in
