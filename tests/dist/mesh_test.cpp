#include "dist/mesh.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "base/error.h"
#include "comm/threads.h"

namespace weft {

TEST(Mesh, TheFirstAxisOfTheOrderVariesFastest) {
  run_ranks(8, [](World& world) {
    const Mesh m = Mesh::build({.pp = 2, .dp = 2, .tp = 2}, world);
    const int r = world.rank();
    EXPECT_EQ(m.coord(Axis::kTp), r % 2);
    EXPECT_EQ(m.coord(Axis::kDp), r / 2 % 2);
    EXPECT_EQ(m.coord(Axis::kPp), r / 4);
    EXPECT_EQ(m.ranks({Axis::kTp}), (std::vector<int>{r / 2 * 2, r / 2 * 2 + 1}));
    EXPECT_EQ(m.ranks({Axis::kTp, Axis::kPp}), (std::vector<int>{r / 2 % 2 * 2, r / 2 % 2 * 2 + 1, r / 2 % 2 * 2 + 4, r / 2 % 2 * 2 + 5}));
    int32_t one = 1, sum = 0;
    m.comm({Axis::kDp, Axis::kTp}).all_reduce(&one, &sum, 1, DType::kI32, Reduce::kSum, {"test"});
    EXPECT_EQ(sum, 4);
    EXPECT_EQ(&m.comm({Axis::kDp, Axis::kTp}), &m.comm({Axis::kTp, Axis::kDp}));
  });
}

TEST(Mesh, BothViewsHaveTheSamePipelineGroupsAndEveryAxisPartitionsTheWorld) {
  for (const MeshConfig& c : {MeshConfig{.pp = 2, .dp = 2, .cp = 2, .tp = 1, .ep = 4}, MeshConfig{.dp = 4, .tp = 2, .ep = 2, .etp = 2},
                              MeshConfig{.pp = 4, .dp = 1, .tp = 2, .ep = 2}, MeshConfig{.pp = 2, .dp = 2, .tp = 2, .ep = 2, .order = "tp-cp-ep-pp-dp"}}) {
    std::mutex mutex;
    std::map<std::string, std::set<std::vector<int>>> groups;
    run_ranks(8, [&](World& world) {
      const Mesh m = Mesh::build(c, world);
      EXPECT_EQ(m.size(Axis::kEdp) * m.size(Axis::kEp) * m.size(Axis::kEtp) * m.size(Axis::kPp), 8);
      std::lock_guard lock(mutex);
      for (int a = 0; a < static_cast<int>(Axis::kCount); ++a) groups[name(static_cast<Axis>(a))].insert(m.ranks({static_cast<Axis>(a)}));
      EXPECT_NE(m.overview().find("edp = "), std::string::npos);
    });
    for (const auto& [axis, parts] : groups) {
      std::set<int> seen;
      size_t total = 0;
      for (const auto& p : parts) seen.insert(p.begin(), p.end()), total += p.size();
      EXPECT_EQ(seen.size(), 8u) << axis;
      EXPECT_EQ(total, 8u) << axis;
    }
  }
}

TEST(Mesh, RefusesDegreesThatDoNotFit) {
  auto world = self_world();
  EXPECT_THROW(Mesh::build({.dp = 2}, *world), ConfigError);
  EXPECT_THROW(Mesh::build({.tp = 0}, *world), ConfigError);
  EXPECT_THROW(Mesh::build({.ep = 2}, *world), ConfigError);
  EXPECT_THROW(Mesh::build({.order = "dp-tp"}, *world), ConfigError);
  EXPECT_EQ(Mesh::single().size(Axis::kDp), 1);
}

}  // namespace weft
