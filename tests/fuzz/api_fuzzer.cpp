// The public C++ API: any call gives what it promises, or throws a c10::Error where its arguments are bad, and leaves
// its inputs as they are. With FUZZ_VERBOSE set in the environment, each call is printed before it is made.
#include <ATen/Parallel.h>

#include "oracle.h"

namespace {

std::vector<std::string> bytes_of(const std::vector<at::Tensor>& tensors) {
  std::vector<std::string> bytes;
  for (const auto& t : tensors) bytes.emplace_back(static_cast<const char*>(t.const_data_ptr()), t.nbytes());
  return bytes;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return bytes_of({a.detach().contiguous()}) == bytes_of({b.detach().contiguous()});
}

void check_refusal(const Call& call) {
  try {
    call.run();
  } catch (const c10::Error&) {
    auto* used = at::get_generator_or_default<at::CPUGeneratorImpl>({}, at::detail::getDefaultCPUGenerator());
    expect(used->random64() ==
               at::make_generator<at::CPUGeneratorImpl>(call.default_seed).get<at::CPUGeneratorImpl>()->random64(),
           "the generator as it was before a refused call");
    return;
  }
  expect(false, "a c10::Error");
}

void check_call(const Call& call) {
  if (!call.valid) return check_refusal(call);
  const at::Tensor result = call.run();
  check_result(call, result);

  Call elsewhere = call;
  elsewhere.logits = call.logits.detach().contiguous();
  elsewhere.threads = call.threads % 3 + 1;
  expect(same_bits(result, call.run()), "the same bits once more");
  expect(same_bits(result, elsewhere.run()), "the same bits in another layout, by other threads");
  if (call.upstream.defined()) check_gradients(call, result);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const bool verbose = std::getenv("FUZZ_VERBOSE") != nullptr;
  const Call call = make_call(data, size);
  if (verbose) std::cerr << call << std::endl;
  const auto before = bytes_of(call.memory);
  check_call(call);
  expect(bytes_of(call.memory) == before, "inputs as they were before the call");
  return 0;
}
