// From an element type and a plan to a kernel's instance, and to its launch.
#pragma once

#include "launch.h"
#include "rows.cuh"

namespace gumbel_ext::cuda {

// visit(T{}) for the element type.
template <typename Visit>
cudaError_t visit_element(Element element, Visit visit) {
  switch (element) {
    case Element::kFloat32:
      return visit(float{});
    case Element::kFloat64:
      return visit(double{});
    case Element::kFloat16:
      return visit(Float16{});
    case Element::kBFloat16:
      return visit(BFloat16{});
  }
  return cudaErrorInvalidValue;
}

// What a launch in clusters of `blocks` blocks takes; of 1, a launch without clusters.
struct LaunchConfig {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute cluster = {};

  LaunchConfig(std::int64_t grid_blocks, int threads, int blocks, cudaStream_t stream) {
    config.gridDim = dim3(static_cast<unsigned>(grid_blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream;
    if (blocks == 1) return;
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.attrs = &cluster;
    config.numAttrs = 1;
  }
  LaunchConfig(const LaunchConfig&) = delete;  // it points into itself
};

// A job's context and the plan chosen for it.
struct Launcher {
  const Context& context;
  Plan plan;

  // `kernel` on as many blocks as there are tasks; it takes further tasks itself where those are more than a grid
  // holds.
  template <typename... Parameters, typename... Arguments>
  cudaError_t operator()(void (*kernel)(Parameters...), std::int64_t tasks, int threads,
                         const Arguments&... arguments) const {
    if (context.before_launch) context.before_launch();
    constexpr std::int64_t kMaxGrid = std::int64_t(1) << 30;
    const std::int64_t most = kMaxGrid / plan.blocks;
    const LaunchConfig launch((tasks < most ? tasks : most) * plan.blocks, threads, plan.blocks, context.stream);
    return cudaLaunchKernelEx(&launch.config, kernel, static_cast<Parameters>(arguments)...);
  }
  // How many rows a block serves at once.
  std::int64_t rows_at_once() const {
    return plan.kernel == Kernel::kWarp ? plan.threads / plan.lanes : plan.kernel == Kernel::kAcross ? kWarp : 1;
  }
  // On as many blocks as all rows take.
  template <typename... Parameters, typename... Arguments>
  cudaError_t rows(void (*kernel)(Parameters...), std::int64_t rows, const Arguments&... arguments) const {
    return (*this)(kernel, divide_up(rows, rows_at_once()), plan.threads, arguments...);
  }
  template <typename V>
  V* workspace(std::int64_t count) const {
    return static_cast<V*>(context.workspace(count * std::int64_t(sizeof(V))));
  }
};

// `kernel`, of a block a row, on as many blocks as occupy the device, and have working memory of so many numbers each
// in a limit for all.
template <typename Kernel, typename Job>
cudaError_t launch_with_memory(Kernel kernel, const Job& job, const Shape& shape, std::int64_t doubles, int threads,
                               const Context& context) {
  constexpr std::int64_t kMostDoubles = std::int64_t(1) << 26;  // 512 MiB
  const std::int64_t wanted = std::int64_t(context.limits.multiprocessors) * 4, fit = kMostDoubles / doubles;
  const std::int64_t most = fit < 1 ? 1 : fit < wanted ? fit : wanted;
  const std::int64_t blocks = shape.rows < most ? shape.rows : most;
  const Launcher launch{context, {}};
  double* memory = launch.workspace<double>(blocks * doubles);
  return launch(kernel, blocks, threads, job, memory, doubles);
}

// Stands for an instance of a kernel that keeps rows in registers: kPacks packs a thread.
template <typename Team_, int kPacks_>
struct Instance {
  using Team = Team_;
  static constexpr int kPacks = kPacks_;
};

// visit(Instance<...>{}) for the plan.
template <typename T, typename Visit>
cudaError_t visit_plan(const Plan& plan, Visit visit) {
  constexpr int kPack = kPackClasses<T>, kWidest = sizeof(T) == 8 ? 16 : 40;
  cudaError_t result = cudaErrorInvalidValue;
  const auto consider = [&]<typename Team, int kItems>(Kernel kernel, int lanes) {
    if constexpr (kItems % kPack == 0 && kItems <= kWidest)
      if (plan.kernel == kernel && plan.lanes == lanes && plan.items == kItems)
        result = visit(Instance<Team, kItems / kPack>{});
  };
  consider.template operator()<WarpTeam<4>, kPack>(Kernel::kWarp, 4);
  consider.template operator()<WarpTeam<8>, kPack>(Kernel::kWarp, 8);
  consider.template operator()<WarpTeam<16>, kPack>(Kernel::kWarp, 16);
  consider.template operator()<WarpTeam<32>, 4>(Kernel::kWarp, 32);
  consider.template operator()<WarpTeam<32>, 8>(Kernel::kWarp, 32);
  consider.template operator()<WarpTeam<32>, 16>(Kernel::kWarp, 32);
  consider.template operator()<WarpTeam<32>, 32>(Kernel::kWarp, 32);
  consider.template operator()<BlockTeam, 16>(Kernel::kBlock, 0);
  consider.template operator()<BlockTeam, 32>(Kernel::kBlock, 0);
  consider.template operator()<ClusterTeam, sizeof(T) == 8 ? 16 : 32>(Kernel::kCluster, 0);
  consider.template operator()<ClusterTeam, 40>(Kernel::kCluster, 0);
  consider.template operator()<AcrossTeam, 16>(Kernel::kAcross, 0);
  consider.template operator()<AcrossTeam, 32>(Kernel::kAcross, 0);
  return result;
}

}  // namespace gumbel_ext::cuda
