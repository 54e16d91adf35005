// The CPU's own product against sums in fp64, over shapes that leave every kind of edge.
#include "kernels/gemm/gemm.h"

#include <gtest/gtest.h>

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

TEST(Gemm, OwnProductRefusesWhatItDoesNotDo) {
  Device cpu;
  cpu.isa = kAvx512Bf16;
  Gemm g{};
  g.dtype = DType::kBf16, g.out_dtype = DType::kF32;
  EXPECT_TRUE(supports_gemm_cpu(g, cpu));
  g.epilogue = GemmEpilogue::kBiasGrad;
  EXPECT_FALSE(supports_gemm_cpu(g, cpu));
  g.epilogue = GemmEpilogue::kNone, g.out_dtype = DType::kBf16;
  EXPECT_FALSE(supports_gemm_cpu(g, cpu));
  g.out_dtype = DType::kF32, cpu.isa = 0;
  EXPECT_FALSE(supports_gemm_cpu(g, cpu));
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
