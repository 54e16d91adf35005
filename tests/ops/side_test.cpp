#include "ops/aten.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/hadamard.h"
#include "ops/kl.h"
#include "ops/mhc.h"
#include "ops/ngram.h"
#include "ops/quantize.h"
#include "ops/structure.h"
#include "cpu.h"

namespace weft::ops {
namespace {

// The tables of the NAM56R recipe with the closed-form hash numbers of its golden check.
NgramTables golden_tables() {
  const std::vector<int64_t> primes{499801, 499819, 499853, 499879, 499883, 499897, 499903, 499927,
                                    499943, 499957, 499969, 499973, 499979, 500009, 500029, 500041};
  std::vector<int64_t> multipliers, biases, offsets;
  std::vector<int32_t> orders;
  int64_t offset = 0;
  for (int64_t t = 0; t < 16; ++t) {
    for (int64_t j = 0; j < 3; ++j) multipliers.push_back(((2654435761 * (3 * t + j + 1)) % (int64_t{1} << 31)) | 1);
    biases.push_back((int64_t{2246822519} * (t + 1)) % (int64_t{1} << 31));
    offsets.push_back(offset), offset += primes[static_cast<size_t>(t)];
    orders.push_back(t < 8 ? 2 : 3);
  }
  return {at::tensor(multipliers).view({16, 3}), at::tensor(biases), at::tensor(primes), at::tensor(offsets), at::tensor(orders)};
}

}  // namespace

TEST(Ngram, RowsAreTheGoldenOnes) {
  const at::Tensor ids = at::tensor({0, 1, 65535, 17, 4242}, at::kLong);
  for (const char* only : {"cpu", "reference"}) {
    Policy p = cpu();
    p.only = only;
    const at::Tensor rows = ngram_rows(ids, golden_tables(), nullptr, p);
    EXPECT_EQ(rows[0][0].item<int64_t>(), 378273);
    EXPECT_EQ(rows[0][15].item<int64_t>(), 7790459);
    EXPECT_EQ(rows[4][15].item<int64_t>(), 7777530);
    EXPECT_EQ(rows.sum().item<int64_t>(), 320076466);
  }
}

TEST(Ngram, DocumentsDoNotSeeEachOther) {
  const Policy p = cpu();
  const at::Tensor a = at::tensor({5, 6, 7}, at::kLong), b = at::tensor({8, 9}, at::kLong);
  const Packing both = Packing::of({3, 2});
  const at::Tensor rows = ngram_rows(at::cat({a, b}), golden_tables(), &both, p);
  EXPECT_TRUE(rows.narrow(0, 3, 2).equal(ngram_rows(b, golden_tables(), nullptr, p)));
  EXPECT_THROW(ngram_rows(a, golden_tables(), &both, p), ShapeError);
}

TEST(Quantize, DequantisesWithinHalfAStepAndKeepsNan) {
  at::manual_seed(4);
  const Policy p = cpu();
  at::Tensor x = at::randn({200, 300});
  for (const QuantBlock block : {QuantBlock::kTensor, QuantBlock::kRow, QuantBlock::k1x128, QuantBlock::k128x128}) {
    const Quantized q = quantize(x, block == QuantBlock::kTensor ? amax(x, p) : at::Tensor(), {block}, p);
    const at::Tensor back = reference::dequantize(q.q, q.scale, block);
    EXPECT_LT(((back - x).abs() - x.abs() / 16).max().item<double>(), 2e-4) << static_cast<int>(block);  // 3 bits of mantissa
  }
  x[3][7] = std::numeric_limits<float>::quiet_NaN();
  const Quantized q = quantize(x, {}, {QuantBlock::kRow}, p);
  EXPECT_TRUE(q.q.to(at::kFloat)[3][7].isnan().item<bool>());
  EXPECT_THROW(quantize(x, {}, {QuantBlock::kTensor}, p), ShapeError);
}

TEST(Mhc, SinkhornHoldsLargeLogits) {
  for (const double size : {1e2, 1e3, 1e4, -1e4}) {
    const at::Tensor logits = size * at::randn({50, 4, 4});
    const at::Tensor m = mhc_sinkhorn(logits, 20, 1e-6, cpu()), wide = mhc_sinkhorn(logits.to(at::kDouble), 20, 1e-6, cpu());
    EXPECT_TRUE(at::isfinite(m).all().item<bool>());
    EXPECT_LT((m - wide).abs().max().item<double>(), 1e-5) << size;
  }
}

TEST(Side, RefusesWhatBreaksTheContract) {
  const Policy p = cpu();
  EXPECT_THROW(hadamard(at::ones({2, 6}), 1, p), ShapeError);
  EXPECT_THROW(kl_divergence(at::ones({2, 6}), at::ones({2, 5}), 1, p), ShapeError);
  EXPECT_THROW(kl_divergence(at::ones({2, 6}), at::ones({2, 6}), 0, p), ShapeError);
  Weight table{"t", at::ones({3, 4}), at::zeros({3, 4})}, scale{"s", at::ones({1}), at::zeros({1})};
  EXPECT_THROW(structure_embedding({{at::zeros({5}, at::kInt), 4}}, 5, table, scale, p), ShapeError);
  EXPECT_THROW(mhc_sinkhorn(at::ones({2, 3, 4}), 20, 1e-6, p), ShapeError);
  EXPECT_THROW(mhc_aggregate(at::ones({2, 3, 4}), at::ones({2, 4}), p), ShapeError);
}

}  // namespace weft::ops
