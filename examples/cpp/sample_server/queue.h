#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <optional>
#include <queue>

/// First in, first out, between threads; a full queue makes the pusher wait, so that memory stays bounded.
template <typename T>
class Queue {
 public:
  explicit Queue(std::size_t capacity) : capacity_(capacity) {
  }

  void push(T item) {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return items_.size() < capacity_; });
    items_.push(std::move(item));
    news_.notify_one();
  }

  /// The next item; nothing once the queue is closed and empty.
  std::optional<T> pop() {
    std::unique_lock lock(mutex_);
    news_.wait(lock, [&] { return closed_ || !items_.empty(); });
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop();
    room_.notify_one();
    return item;
  }

  /// No push comes after this.
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    news_.notify_all();
  }

 private:
  const std::size_t capacity_;
  std::mutex mutex_;
  std::condition_variable room_, news_;
  std::queue<T> items_;
  bool closed_ = false;
};
