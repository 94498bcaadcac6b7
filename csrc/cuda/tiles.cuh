// Rows in tiles: those too long for a team's registers, or too few for the device. Every block takes a tile at a time.
#pragma once

#include "rows.cuh"

namespace gumbel_ext::cuda {

template <typename T>
constexpr int kTilePacks = kTileClasses / kTileThreads / kPackClasses<T>;

// visit(task, span) for the tiles of all rows that this block takes; tasks number them, row by row.
template <typename T, typename Visit>
__device__ __forceinline__ void for_each_tile(const BlockTeam& team, const Shape& shape, Visit visit) {
  for (std::int64_t task = team.first(); task < shape.rows * shape.tiles(); task += team.step()) {
    const Division at = divide(task, shape.tiles());
    const std::int64_t begin = at.remainder * kTileClasses, left = shape.classes - begin;
    const int count = static_cast<int>(left < kTileClasses ? left : kTileClasses);
    visit(task, Span<BlockTeam, kPackClasses<T>>(team, shape, at.quotient, begin, count));
  }
}

}  // namespace gumbel_ext::cuda
