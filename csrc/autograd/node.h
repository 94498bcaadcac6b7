// Autograd nodes across torch versions: shared pointers at first, intrusive ones since.
#pragma once

#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>

#include <memory>
#include <type_traits>

namespace gumbel_ext {

using NodePointer = decltype(torch::autograd::Edge::function);
constexpr bool kNodesAreShared = std::is_same_v<NodePointer, std::shared_ptr<torch::autograd::Node>>;

// Only the installed torch's branch is instantiated: its names depend on the template's arguments.
template <typename T>
auto make_node() {
  if constexpr (kNodesAreShared)
    return std::shared_ptr<T>(new T(), [](auto* node) { deleteNode(node); });
  else
    return c10::make_intrusive<T>();
}

template <typename T, typename Pointer = NodePointer>
Pointer pointer_to(T* node) {
  if constexpr (kNodesAreShared)
    return node->shared_from_this();
  else
    return Pointer::reclaim_copy(node);
}

}  // namespace gumbel_ext
