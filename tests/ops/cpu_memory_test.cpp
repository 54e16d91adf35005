#include "ops/aten.h"

#include "ops/cpu_memory.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace weft::ops {

TEST(CpuMemory, BlocksHoldWhatIsAskedAndAtMostAnEighthMore) {
  for (size_t n : {size_t{1}, size_t{32 << 10}}) EXPECT_EQ(block_size(n), n);
  for (size_t n = 33000; n < (size_t{1} << 33); n += n / 7 + 1) {
    EXPECT_GE(block_size(n), n);
    EXPECT_LE(block_size(n), n + n / 8 + 1);
    EXPECT_EQ(block_size(block_size(n)), block_size(n));
  }
}

TEST(CpuMemory, WhatIsFreedIsUsedAgainAndWhatIsKeptHasALimit) {
  keep_cpu_tensors();
  const int64_t before = cpu_memory().used;
  const auto bytes = [](int64_t n) { return at::empty({n}, at::kByte); };
  const void* first = nullptr;
  {
    const at::Tensor t = bytes(1 << 20);
    first = t.data_ptr();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
    EXPECT_EQ(cpu_memory().used, before + (1 << 20));
  }
  EXPECT_EQ(bytes((1 << 20) - 5).data_ptr(), first);
  EXPECT_NE(bytes(3 << 20).data_ptr(), first) << "a far larger block is not given away";
  std::mt19937 random(3);
  std::vector<at::Tensor> live(40);
  int64_t most = 0;
  for (int round = 0; round < 4000; ++round) {  // sizes that depend on the data
    at::Tensor& slot = live[random() % live.size()];
    slot = at::Tensor();
    slot = bytes(40000 + static_cast<int64_t>(random() % (1 << 22)));
    const CpuMemory m = cpu_memory();
    most = std::max(most, m.used);
    ASSERT_LE(m.used + m.kept, most + std::max<int64_t>(64 << 20, most / 4));
  }
  live.clear();
  EXPECT_EQ(cpu_memory().used, before);
}

TEST(CpuMemory, AStepTakesTheBlocksOfTheStepBefore) {
  keep_cpu_tensors();
  const auto step = [] {  // activations pile up and go, 300 MB at the most
    std::set<const void*> seen;
    std::vector<at::Tensor> saved;
    for (int layer = 0; layer < 100; ++layer) {
      saved.push_back(at::empty({(3 << 20) - layer * 1000}, at::kByte));
      const at::Tensor passing = at::empty({6 << 20}, at::kByte);
      seen.insert({saved.back().data_ptr(), passing.data_ptr()});
    }
    return seen;
  };
  const auto first = step();
  const int64_t all = cpu_memory().used + cpu_memory().kept;
  EXPECT_EQ(step(), first);
  EXPECT_EQ(cpu_memory().used + cpu_memory().kept, all);
}

TEST(CpuMemory, WhatALargePhaseLeftGoesBackInASmallOne) {
  keep_cpu_tensors();
  { const at::Tensor large = at::empty({512 << 20}, at::kByte); }
  EXPECT_GE(cpu_memory().kept, 512 << 20);
  for (int i = 0; i < 3 << 16; ++i) const at::Tensor small = at::empty({64 << 10}, at::kByte);
  EXPECT_LE(cpu_memory().kept, cpu_memory().used / 4 + (65 << 20));
}

}  // namespace weft::ops
