#include "dist/layout.h"

#include <gtest/gtest.h>

#include <mutex>

#include "base/error.h"
#include "comm/threads.h"

namespace weft {
namespace {

using enum Axis;

Place shard(int dim, int replicas = 1, bool zigzag = false) { return {Place::kShard, static_cast<int8_t>(dim), static_cast<int16_t>(replicas), zigzag}; }

// How many ranks hold each element of `shape`.
std::vector<int> cover(const MeshConfig& mesh, int ranks, const Layout& layout, const std::vector<int64_t>& shape) {
  std::vector<int> count(static_cast<size_t>(numel(shape)));
  std::mutex mutex;
  run_ranks(ranks, [&](World& w) {
    const Mesh m = Mesh::build(mesh, w);
    std::lock_guard lock(mutex);
    int64_t held = 0;
    for (const Box& b : local_boxes(layout, shape, m)) {
      held += numel(b.shape);
      for (int64_t i = 0; i < numel(b.shape); ++i) {
        int64_t rest = i, at = 0, stride = 1;
        for (size_t d = shape.size(); d-- > 0;) {
          at += (b.offset[d] + rest % b.shape[d]) * stride;
          rest /= b.shape[d], stride *= shape[d];
        }
        ++count[static_cast<size_t>(at)];
      }
    }
    EXPECT_EQ(held, numel(local_shape(layout, shape, m)));
  });
  return count;
}

}  // namespace

TEST(Layout, EveryElementIsHeldByAsManyRanksAsItHasReplicas) {
  const MeshConfig mesh{.dp = 2, .tp = 4};
  const std::vector<int64_t> shape{16, 24};
  const std::pair<Layout, int> cases[] = {
      {{}, 8},
      {{{{kTp, shard(0)}}, {}}, 2},
      {{{{kTp, shard(1)}, {kDp, shard(1)}}, {}}, 1},
      {{{{kTp, shard(0, 2)}}, {}}, 4},
      {{{{kTp, shard(1)}}, {8, 12, 4}}, 2},
      {{{{kTp, shard(1, 1, true)}, {kDp, shard(0)}}, {}}, 1},
      {{{{kTp, Place{Place::kPartial}}, {kDp, shard(0)}}, {}}, 4}};
  for (const auto& [layout, want] : cases)
    for (int n : cover(mesh, 8, layout, shape)) ASSERT_EQ(n, want);
}

TEST(Layout, SegmentsAreEachCutOnTheirOwn) {
  run_ranks(2, [](World& w) {
    const Mesh m = Mesh::build({.tp = 2}, w);
    const std::vector<int64_t> shape{6, 3};
    const int64_t r = m.coord(kTp);
    EXPECT_EQ(local_boxes({{{kTp, shard(0)}}, {4, 2}}, shape, m), (std::vector<Box>{{{2 * r, 0}, {2, 3}}, {{4 + r, 0}, {1, 3}}}));
    EXPECT_EQ(local_boxes({{{kTp, shard(0, 2)}}, {4, 2}}, shape, m), (std::vector<Box>{{{0, 0}, {6, 3}}})) << "neighbours merge";
  });
}

TEST(Layout, RefusesUnevenCuts) {
  run_ranks(2, [](World& w) {
    const Mesh m = Mesh::build({.tp = 2}, w);
    EXPECT_THROW(local_boxes({{{kTp, shard(0)}}, {}}, std::vector<int64_t>{5}, m), ShapeError);
    EXPECT_THROW(local_boxes({{{kTp, shard(0)}}, {2, 2}}, std::vector<int64_t>{6}, m), ShapeError);
    EXPECT_THROW(local_boxes({{{kTp, shard(1)}}, {}}, std::vector<int64_t>{6}, m), ShapeError);
    EXPECT_THROW(local_boxes({{{kTp, shard(0, 3)}}, {}}, std::vector<int64_t>{6}, m), ShapeError);
    EXPECT_EQ(local_boxes({}, std::vector<int64_t>{}, m).size(), 1u) << "a scalar is one box";
  });
}

}  // namespace weft
