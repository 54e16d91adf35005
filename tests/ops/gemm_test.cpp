// The CPU's own product against sums in fp64, over shapes that leave every kind of edge.
#include "kernels/gemm/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/cpu.h"
#include "ops/policy.h"

namespace weft::kernels {
namespace {

struct Matrix {
  int64_t rows, cols, ld;
  std::vector<bf16> v;
  Matrix(int64_t r, int64_t c, int64_t pad, std::mt19937& random) : rows(r), cols(c), ld(c + pad), v(static_cast<size_t>(r * ld)) {
    std::normal_distribution<float> normal;
    for (bf16& x : v) x = from_f32<bf16>(normal(random));
  }
  double at(int64_t r, int64_t c) const { return to_f32(v[static_cast<size_t>(r * ld + c)]); }
};

}  // namespace

TEST(Gemm, OwnProductIsTheSumInFp32WhateverTheShapeAndWritesNowhereElse) {
  const Device cpu = ops::this_cpu();
  std::mt19937 random(1);
  for (int64_t m : {1, 8, 9, 33, 70})
    for (int64_t n : {1, 16, 31, 33, 65})
      for (int64_t k : {1, 2, 31, 33, 257, 300})
        for (int bits = 0; bits < 8; ++bits) {
          const bool a_t = bits & 1, b_t = bits & 2, accumulate = bits & 4;
          const Matrix a(a_t ? k : m, a_t ? m : k, 3, random), b(b_t ? n : k, b_t ? k : n, 5, random);
          const int64_t ldc = n + 2;
          std::vector<float> c(static_cast<size_t>(m * ldc), 0.25f);
          const Gemm g{a.v.data(), b.v.data(), c.data(), m, n, k, a.ld, b.ld, ldc, a_t, b_t, accumulate, DType::kBf16, DType::kF32};
          if (const Support s = supports_gemm_cpu(g, cpu); !s) GTEST_SKIP() << s.refusal;
          gemm_cpu(g, {});
          for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < ldc; ++j) {
              double want = j < n && !accumulate ? 0 : 0.25, scale = 0.25;
              for (int64_t p = 0; j < n && p < k; ++p) {
                const double product = (a_t ? a.at(p, i) : a.at(i, p)) * (b_t ? b.at(j, p) : b.at(p, j));
                want += product, scale += std::fabs(product);
              }
              ASSERT_NEAR(c[static_cast<size_t>(i * ldc + j)], want, 1e-6 * scale) << m << " " << n << " " << k << " case " << bits << " at " << i << ", " << j;
            }
        }
}

TEST(Gemm, OwnProductRoundsOnceAfterItsBiasAndWritesNowhereElse) {
  const Device cpu = ops::this_cpu();
  Gemm probe{};
  probe.m = probe.n = probe.k = 64, probe.dtype = probe.out_dtype = DType::kBf16;
  if (const Support s = supports_gemm_cpu(probe, cpu); !s) GTEST_SKIP() << s.refusal;
  std::mt19937 random(3);
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 2}, {33, 65, 300}, {70, 31, 33}, {8, 32, 0}, {300, 420, 40}})
    for (int bits = 0; bits < 4; ++bits) {
      const bool b_t = bits & 1, with_bias = bits & 2;
      const int64_t depth = std::max<int64_t>(k, 1);
      const Matrix a(m, depth, 0, random), b(b_t ? n : depth, b_t ? depth : n, 1, random), bias(1, n, 0, random);
      const int64_t ldc = n + 3;
      const bf16 untouched = from_f32<bf16>(0.25f);
      std::vector<bf16> c(static_cast<size_t>(m * ldc), untouched);
      Gemm g{a.v.data(), b.v.data(), c.data(), m, n, k, a.ld, b.ld, ldc, false, b_t, false, DType::kBf16, DType::kBf16};
      if (with_bias) g.epilogue = GemmEpilogue::kBias, g.bias = bias.v.data();
      gemm_cpu(g, {});  // of any size, though the rule leaves many to the library
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < ldc; ++j) {
          const bf16 got = c[static_cast<size_t>(i * ldc + j)];
          if (j >= n) {
            ASSERT_EQ(got.bits, untouched.bits);
            continue;
          }
          double want = with_bias ? bias.at(0, j) : 0, scale = 1;
          for (int64_t p = 0; p < k; ++p) want += a.at(i, p) * (b_t ? b.at(j, p) : b.at(p, j)), scale += std::fabs(a.at(i, p));
          ASSERT_NEAR(to_f32(got), want, std::fabs(want) / 256 + 2e-6 * scale) << m << " " << n << " " << k << " case " << bits << " at " << i << ", " << j;
        }
    }
}

TEST(Gemm, OwnProductSumsTheTransposedFactorForABiasGradient) {
  const Device cpu = ops::this_cpu();
  std::mt19937 random(4);
  const Matrix dy(300, 70, 2, random), x(300, 40, 0, random);
  std::vector<float> dw(70 * 40), db(72, 0.25f);
  Gemm g{dy.v.data(), x.v.data(), dw.data(), 70, 40, 300, dy.ld, x.ld, 40, true, false, true, DType::kBf16, DType::kF32};
  g.epilogue = GemmEpilogue::kBiasGrad, g.bias_grad = db.data();
  if (const Support s = supports_gemm_cpu(g, cpu); !s) GTEST_SKIP() << s.refusal;
  gemm_cpu(g, {});
  for (int64_t i = 0; i < 70; ++i) {
    double want = 0;
    for (int64_t t = 0; t < 300; ++t) want += dy.at(t, i);
    ASSERT_NEAR(db[static_cast<size_t>(i)], want, 1e-4);
  }
  EXPECT_EQ(db[70], 0.25f);
}

TEST(Gemm, OwnProductRefusesWhatItDoesNotDoOrDoesSlower) {
  Device cpu;
  cpu.isa = kAvx512Bf16;
  const auto takes = [&](auto change) {
    Gemm g{};
    g.m = g.n = g.k = 128, g.dtype = g.out_dtype = DType::kBf16;
    change(g);
    return static_cast<bool>(supports_gemm_cpu(g, cpu));
  };
  EXPECT_TRUE(takes([](Gemm&) {}));
  EXPECT_TRUE(takes([](Gemm& g) { g.epilogue = GemmEpilogue::kBias; }));
  EXPECT_FALSE(takes([](Gemm& g) { g.epilogue = GemmEpilogue::kDgelu; }));
  EXPECT_FALSE(takes([](Gemm& g) { g.accumulate = true; }));
  EXPECT_FALSE(takes([](Gemm& g) { g.m = 7; }));
  EXPECT_FALSE(takes([](Gemm& g) { g.m = 2048, g.n = 512; }));
  EXPECT_TRUE(takes([](Gemm& g) { g.m = 2048, g.n = 512, g.varying = true; }));
  EXPECT_FALSE(takes([](Gemm& g) { g.dtype = DType::kF32; }));
  const auto f32 = [](Gemm& g) { g.out_dtype = DType::kF32, g.m = 4096, g.accumulate = true; };
  EXPECT_TRUE(takes(f32));
  EXPECT_FALSE(takes([&](Gemm& g) { f32(g), g.epilogue = GemmEpilogue::kBias; }));
  EXPECT_FALSE(takes([&](Gemm& g) { f32(g), g.epilogue = GemmEpilogue::kBiasGrad; }));
  EXPECT_TRUE(takes([&](Gemm& g) { f32(g), g.epilogue = GemmEpilogue::kBiasGrad, g.a_transposed = true; }));
  cpu.isa = 0;
  EXPECT_FALSE(takes([](Gemm&) {}));
  cpu.isa = kAvx512Bf16 | kAmxBf16;
  EXPECT_FALSE(takes(f32));
}

TEST(Gemm, EveryBitIsTheSameForAnyNumberOfThreads) {
  const Device cpu = ops::this_cpu();
  std::mt19937 random(2);
  const Matrix a(520, 300, 0, random), b(520, 420, 0, random);
  std::vector<float> one(300 * 420), many(one);
  const auto run = [&](std::vector<float>& c, ParallelFor loop) {
    const Gemm g{a.v.data(), b.v.data(), c.data(), 300, 420, 520, a.ld, b.ld, 420, true, false, true, DType::kBf16, DType::kF32};
    if (!supports_gemm_cpu(g, cpu)) return false;
    Launch launch;
    launch.parallel = loop;
    gemm_cpu(g, launch);
    return true;
  };
  if (!run(one, nullptr)) GTEST_SKIP();
  run(many, [](int64_t count, int64_t, RangeBody body) {
    for (int64_t i = count; i-- > 0;) body.call(body.object, i, i + 1);
  });
  EXPECT_EQ(one, many);
}

}  // namespace weft::kernels
