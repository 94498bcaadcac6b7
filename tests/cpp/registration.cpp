// A program that names nothing of ours, as one that loads TorchScript: the linker must keep the library.
#include <ATen/core/dispatch/Dispatcher.h>

#include "check.h"

int main() {
  for (const char* name : {"softmax", "straight_through", "gumbel_softmax", "gumbel_max", "sample", "gumbel_top_k",
                           "gumbel_noise", "relaxed_top_k", "one_hot_sample", "straight_through_embedding"}) {
    const auto op = c10::Dispatcher::singleton().findSchema({"gumbel_ext::" + std::string(name), ""});
    EXPECT(op.has_value());
  }
  return failures != 0;
}
