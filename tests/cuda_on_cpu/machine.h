// A machine with CUDA devices that are none: their memory is the host's, and their work is done at once, by the CPU.
// What matters of them is what they are asked, and in which order: they keep a list of it.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "torch_stand_in.h"

namespace stand_in {

struct Device {
  int multiprocessors, capability, ptx_version, largest_cluster;  // 0: none
};
constexpr Device kDevices[] = {{108, 8, 80, 0}, {132, 9, 90, 4}, {132, 9, 80, 8}};
constexpr c10::DeviceIndex kDeviceCount = 3;

// Something that the machine was asked: on which device, and on which stream of it.
struct Event {
  std::string what;
  c10::DeviceIndex device;
  c10::StreamId stream;
};

// What was captured: work, the memory it was given, and for each generator its state as the next replay has it and by
// how much that moves it.
struct Graph {
  struct Draws {
    std::int64_t seed = -1, offset = -1;
    std::uint64_t increment = 0;
  };
  std::vector<std::function<void()>> work;
  std::vector<std::shared_ptr<void>> memory;
  std::map<at::CUDAGeneratorImpl*, Draws> draws;
};

// A stream is captured where `graph` is given.
struct Capture {
  c10::DeviceIndex device = 0;
  c10::StreamId stream = 0;
  std::shared_ptr<Graph> graph;
};

struct Machine {
  std::recursive_mutex mutex;
  std::vector<Event> events;
  Capture capture;
  // How many are asked for until one fails; 0: none does.
  std::int64_t launches_left = 0, allocations_left = 0, queries_left = 0;
  cudaError_t last_error = cudaSuccess;
};
Machine& machine();

// Of this thread.
c10::DeviceIndex current_device();
void set_device(c10::DeviceIndex device);
c10::StreamId& current_stream(c10::DeviceIndex device);
// Streams other than the default one, 0, are numbered from 100 times their device's number.
constexpr c10::DeviceIndex device_of(c10::StreamId stream) {
  return static_cast<c10::DeviceIndex>(stream / 100);
}

// Notes an event on the current device and its current stream.
void note(const std::string& what);
// Does `work` there: at once, or, where the stream is captured, whenever the graph is replayed.
void enqueue(const std::function<void()>& work);
// The graph that the current stream is captured into, or none.
Graph* captured_graph();
void replay(Graph& graph);
// Whether the request that `left` counts is the one to fail.
bool fails(std::int64_t& left);

}  // namespace stand_in
