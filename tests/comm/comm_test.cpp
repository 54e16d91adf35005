#include "comm/comm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/reduce.h"
#include "comm/threads.h"

namespace weft {
namespace {

std::vector<int> all_ranks(const World& w) {
  std::vector<int> r(static_cast<size_t>(w.size()));
  std::iota(r.begin(), r.end(), 0);
  return r;
}

template <class E>
std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST(Comm, CollectivesGiveTheirDefinitionOnAnyNumberOfRanks) {
  for (int n : {1, 2, 3, 8}) {
    run_ranks(n, [n](World& world) {
      auto c = world.group(all_ranks(world), "all");
      const int r = c->rank();
      std::vector<float> in(static_cast<size_t>(2 * n)), gathered(static_cast<size_t>(2 * n * n)), sum(in.size()), part(2);
      for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(100 * r + static_cast<int>(i));
      c->all_gather(in.data(), gathered.data(), in.size(), DType::kF32, {"gather"});
      for (int k = 0; k < n; ++k)
        for (int i = 0; i < 2 * n; ++i) ASSERT_EQ(gathered[static_cast<size_t>(k * 2 * n + i)], 100 * k + i);
      c->all_reduce(in.data(), sum.data(), in.size(), DType::kF32, Reduce::kSum, {"sum"});
      c->reduce_scatter(in.data(), part.data(), 2, DType::kF32, Reduce::kMax, {"max"});
      for (int i = 0; i < 2 * n; ++i) ASSERT_EQ(sum[static_cast<size_t>(i)], 50 * n * (n - 1) + n * i);
      for (int i = 0; i < 2; ++i) ASSERT_EQ(part[static_cast<size_t>(i)], 100 * (n - 1) + 2 * r + i);
    });
  }
}

TEST(Comm, AllToAllTakesUnevenCounts) {
  run_ranks(4, [](World& world) {
    auto c = world.group(all_ranks(world), "all");
    const size_t r = static_cast<size_t>(c->rank());
    std::vector<size_t> out_counts(4), in_counts(4);  // rank a sends a + b elements of value 10 a + b to rank b
    std::vector<int32_t> in, out;
    for (size_t k = 0; k < 4; ++k) {
      in_counts[k] = r + k, out_counts[k] = r + k;
      in.insert(in.end(), r + k, static_cast<int32_t>(10 * r + k));
    }
    out.resize(std::accumulate(out_counts.begin(), out_counts.end(), size_t{0}));
    c->all_to_all(in.data(), in_counts, out.data(), out_counts, DType::kI32, {"dispatch"});
    size_t i = 0;
    for (size_t k = 0; k < 4; ++k)
      for (size_t j = 0; j < r + k; ++j) ASSERT_EQ(out[i++], static_cast<int32_t>(10 * k + r));
  });
}

TEST(Comm, ExchangeNeedsNoOrder) {
  run_ranks(3, [](World& world) {  // a ring where everyone would wait if sends came first and blocked
    auto c = world.group(all_ranks(world), "all");
    const int r = c->rank(), next = (r + 1) % 3, before = (r + 2) % 3;
    for (int round = 0; round < 50; ++round) {
      int64_t a = 10 * r + round, b = -a, x = 0, y = 0;
      const Transfer t[] = {{false, &x, 1, DType::kI64, before, 1}, {true, &a, 1, DType::kI64, next, 1},
                            {true, &b, 1, DType::kI64, before, 2}, {false, &y, 1, DType::kI64, next, 2}};
      c->exchange(t, {"edge"});
      ASSERT_EQ(x, 10 * before + round);
      ASSERT_EQ(y, -(10 * next + round));
    }
  });
}

TEST(Comm, GroupsAndLanesAreApart) {
  run_ranks(4, [](World& world) {
    const int r = world.rank();
    auto row = world.group(std::vector<int>{r / 2 * 2, r / 2 * 2 + 1}, "row");
    auto column = world.group(std::vector<int>{r % 2, r % 2 + 2}, "column");
    auto lane = row->lane("overlap");
    int32_t one = 1 << r, a = 0, b = 0, c = 0;
    row->all_reduce(&one, &a, 1, DType::kI32, Reduce::kSum, {"row"});
    column->all_reduce(&one, &b, 1, DType::kI32, Reduce::kSum, {"column"});
    lane->all_reduce(&one, &c, 1, DType::kI32, Reduce::kMax, {"lane"});
    EXPECT_EQ(a, r < 2 ? 3 : 12);
    EXPECT_EQ(b, r % 2 == 0 ? 5 : 10);
    EXPECT_EQ(c, r < 2 ? 2 : 8);
  });
}

TEST(Comm, AHangNamesTheRankThatIsBehindAndItsLastCall) {
  const std::string text = message_of<HangError>([] {
    run_ranks(3, [](World& world) {
      auto c = world.group(all_ranks(world), "dp");
      float x = 1, y = 0;
      c->all_reduce(&x, &y, 1, DType::kF32, Reduce::kSum, {"loss"});
      if (c->rank() == 1) return;
      c->all_reduce(&x, &y, 1, DType::kF32, Reduce::kSum, {"grad norm"});
    }, {std::chrono::milliseconds(100)});
  });
  EXPECT_NE(text.find("rank 1 has not come"), std::string::npos) << text;
  EXPECT_NE(text.find("'grad norm'"), std::string::npos) << text;
  EXPECT_NE(text.find("'loss'"), std::string::npos) << text;
  EXPECT_EQ(text.find("rank 2 has not come"), std::string::npos) << text;
}

TEST(Comm, DifferentCallsAreAnErrorNotAWrongResult) {
  const auto differ = [](const std::function<void(Comm&)>& call) {
    return message_of<CommError>([&] { run_ranks(2, [&](World& w) { call(*w.group(all_ranks(w), "tp")); }); });
  };
  std::vector<float> a(4), b(8);
  const auto count = [](Comm& c) {
    std::vector<float> x(4), y(4);
    c.all_reduce(x.data(), y.data(), c.rank() == 0 ? 4 : 3, DType::kF32, Reduce::kSum, {"sum"});
  };
  const auto dtype = [](Comm& c) {
    std::vector<float> x(4), y(4);
    c.all_reduce(x.data(), y.data(), 4, c.rank() == 0 ? DType::kF32 : DType::kI32, Reduce::kSum, {"sum"});
  };
  const auto order = [](Comm& c) {
    std::vector<float> x(4), y(8);
    if (c.rank() == 0) c.all_gather(x.data(), y.data(), 4, DType::kF32, {"first"});
    else c.all_gather(x.data(), y.data(), 4, DType::kF32, {"second"});
  };
  EXPECT_NE(differ(count).find("ranks differ"), std::string::npos);
  EXPECT_NE(differ(dtype).find("ranks differ"), std::string::npos);
  EXPECT_NE(differ(order).find("'second'"), std::string::npos);
}

TEST(Comm, AFailingRankFreesTheOthersAndItsErrorIsTheOneThatCounts) {
  const std::string text = message_of<InputError>([] {
    run_ranks(4, [](World& world) {
      auto c = world.group(all_ranks(world), "all");
      float x = 1, y = 0;
      if (c->rank() == 2) throw InputError("corpus: not found");
      for (int i = 0; i < 100; ++i) c->all_reduce(&x, &y, 1, DType::kF32, Reduce::kSum, {"loss"});
    });
  });
  EXPECT_EQ(text, "corpus: not found");
  const std::string aborted = message_of<CommError>([] {
    run_ranks(2, [](World& world) {
      auto c = world.group(all_ranks(world), "all");
      float x = 1, y = 0;
      if (c->rank() == 0) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); c->abort(); return; }
      c->all_reduce(&x, &y, 1, DType::kF32, Reduce::kSum, {"loss"});
    });
  });
  EXPECT_NE(aborted.find("aborted by rank 0"), std::string::npos) << aborted;
  EXPECT_NE(aborted.find("rank 0 was last in"), std::string::npos) << aborted;
}

TEST(Reduce, HalfFloatsAreSummedInFp32AndRoundedOnce) {
  const uint16_t one_bf16 = 0x3f80, small_bf16 = 0x3b00;  // 1 and 2^-9: in bf16 steps 1 + 2^-9 would round back to 1 each time
  std::vector<const void*> in{&one_bf16};
  for (int i = 0; i < 4; ++i) in.push_back(&small_bf16);
  uint16_t out = 0;
  reduce_into(in, &out, 1, DType::kBf16, Reduce::kSum, "sum");
  EXPECT_EQ(out, 0x3f81);  // 1 + 2^-7
  // Every fp16 value survives a reduction of one.
  for (uint32_t v = 0; v < 65536; ++v) {
    const uint16_t h = static_cast<uint16_t>(v);
    const void* one[] = {&h};
    reduce_into(one, &out, 1, DType::kF16, Reduce::kMax, "max");
    const bool nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0;
    ASSERT_TRUE(nan ? (out & 0x7c00) == 0x7c00 && (out & 0x3ff) != 0 : out == h) << v;
  }
  const float nan = std::numeric_limits<float>::quiet_NaN(), two = 2;
  float m = 0;
  const void* both[] = {&nan, &two};
  reduce_into(both, &m, 1, DType::kF32, Reduce::kMax, "max");
  EXPECT_TRUE(std::isnan(m)) << "a maximum must not hide a NaN";
}

}  // namespace weft
