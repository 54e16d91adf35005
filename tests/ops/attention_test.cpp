#include "ops/aten.h"

#include "ops/attention.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/rope.h"
#include "ops/tensors.h"
#include "cpu.h"

namespace weft::ops {
namespace {

at::Tensor run_alone(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t first, int32_t n, const AttentionOptions& o) {
  return attention(q.narrow(0, first, n), k.narrow(0, first, n), v.narrow(0, first, n), Packing::of({n}), o, cpu()).o_THV;
}

}  // namespace

TEST(Attention, PackedDocumentsAreSeparateDocuments) {
  at::manual_seed(3);
  const std::vector<int32_t> lens = {1, 127, 0, 128, 300};
  const Packing packing = Packing::of(lens);
  const at::Tensor q = at::randn({packing.tokens(), 4, 16}), k = at::randn({packing.tokens(), 2, 16}), v = at::randn({packing.tokens(), 2, 16});
  const at::Tensor whole = attention(q, k, v, packing, {}, cpu()).o_THV;
  int64_t first = 0;
  for (int32_t n : lens) {
    EXPECT_TRUE(whole.narrow(0, first, n).equal(run_alone(q, k, v, first, n, {}))) << n;
    first += n;
  }
}

TEST(Attention, PrefillThenDecodeIsTheFullRow) {
  at::manual_seed(4);
  const int64_t T = 90;
  const at::Tensor q = at::randn({T, 4, 16}), k = at::randn({T, 2, 16}), v = at::randn({T, 2, 16});
  AttentionOptions o;
  o.window_left = 40;
  const at::Tensor whole = attention(q, k, v, Packing::of({static_cast<int32_t>(T)}), o, cpu()).o_THV;
  const at::Tensor cache_k = at::zeros({200, 2, 16}), cache_v = at::zeros({200, 2, 16});  // the document's keys begin at row 37
  cache_k.narrow(0, 37, T).copy_(k), cache_v.narrow(0, 37, T).copy_(v);
  o.key_starts = at::tensor({37}, at::kInt);
  int64_t first = 0;
  for (int32_t n : {50, 1, 1, 20, 3, 15}) {
    Packing p = Packing::of({n});
    p.kv_lens = at::tensor({static_cast<int32_t>(first) + n}, at::kInt);
    p.max_kv = static_cast<int32_t>(first) + n;
    const at::Tensor part = attention(q.narrow(0, first, n), cache_k, cache_v, p, o, cpu()).o_THV;
    EXPECT_TRUE(at::allclose(part, whole.narrow(0, first, n), 1e-5, 1e-6)) << first;
    first += n;
  }
}

TEST(Attention, AFutureTokenChangesNothingAndNanInAnotherDocumentStaysThere) {
  at::manual_seed(5);
  const at::Tensor q = at::randn({80, 2, 8}), k = at::randn({80, 2, 8}), v = at::randn({80, 2, 8});
  const Packing p = Packing::of({50, 30});
  const at::Tensor before = attention(q, k, v, p, {}, cpu()).o_THV;
  at::Tensor k2 = k.clone(), v2 = v.clone();
  k2[20].fill_(3), v2[20].fill_(-7);
  k2[60].fill_(NAN), v2[60].fill_(NAN);
  const at::Tensor after = attention(q, k2, v2, p, {}, cpu()).o_THV;
  EXPECT_TRUE(after.narrow(0, 0, 20).equal(before.narrow(0, 0, 20)));
  EXPECT_FALSE(after[20].equal(before[20]));
  EXPECT_TRUE(at::isfinite(after.narrow(0, 0, 50)).all().item<bool>());
  EXPECT_TRUE(at::isnan(after.narrow(0, 60, 20)).all().item<bool>());
}

TEST(Attention, SinkIsALogitWithoutValue) {
  at::manual_seed(6);
  const at::Tensor q = at::randn({70, 2, 8}), k = at::randn({70, 2, 8}), v = at::randn({70, 2, 8});
  const Packing p = Packing::of({70});
  Weight sinks{"sinks", at::randn({2}), at::zeros({2})};
  const AttentionOut plain = attention(q, k, v, p, {}, cpu());
  AttentionOptions o;
  o.sinks = &sinks;
  const AttentionOut with = attention(q, k, v, p, o, cpu());
  const at::Tensor factor = at::sigmoid(plain.lse_TH - sinks.value).unsqueeze(2);
  EXPECT_TRUE(at::allclose(with.o_THV, plain.o_THV * factor, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(with.lse_TH, at::logaddexp(plain.lse_TH, sinks.value), 1e-5, 1e-6));
}

TEST(Attention, MaxLogitAndItsClip) {
  at::manual_seed(7);
  const at::Tensor q = at::randn({40, 2, 8}) * 8, k = at::randn({40, 1, 8}) * 8, v = at::randn({40, 1, 8});
  AttentionOptions o;
  o.max_logit = true;
  const Packing p = Packing::of({40});
  const at::Tensor got = attention(q, k, v, p, o, cpu()).max_logit_H, ref = reference::attention(q, k, v, p, o).max_logit_H;
  EXPECT_TRUE(at::allclose(got, ref, 1e-5, 1e-5));
  const at::Tensor gamma = qk_clip_gamma(got, 10);
  const at::Tensor after = attention(q * gamma.view({1, 2, 1}), k, v, p, o, cpu()).max_logit_H;
  EXPECT_LE(after.max().item<float>(), 10 * 1.001);
  EXPECT_TRUE(qk_clip_gamma(at::tensor({-3.0f, 0.0f, 5.0f}), 10).equal(at::ones({3})));
}

TEST(Attention, SameResultForAnyNumberOfThreads) {
  at::manual_seed(8);
  const at::Tensor q = at::randn({200, 4, 32}, at::kBFloat16), k = at::randn({200, 2, 32}, at::kBFloat16), v = at::randn({200, 2, 32}, at::kBFloat16), g = at::randn({200, 4, 32}, at::kBFloat16);
  const Packing p = Packing::of({70, 130});
  const AttentionOut a = attention(q, k, v, p, {}, cpu());
  const AttentionGrads two = attention_bwd(g, q, k, v, a.o_THV, a.lse_TH, p, {}, cpu());
  at::set_num_threads(1);
  const AttentionOut b = attention(q, k, v, p, {}, cpu());
  const AttentionGrads one = attention_bwd(g, q, k, v, b.o_THV, b.lse_TH, p, {}, cpu());
  at::set_num_threads(2);
  EXPECT_TRUE(a.o_THV.equal(b.o_THV) && one.dq.equal(two.dq) && one.dk.equal(two.dk) && one.dv.equal(two.dv));
}

TEST(Attention, RefusesWhatBreaksTheContract) {
  const at::Tensor q = at::zeros({4, 3, 8}), k = at::zeros({4, 2, 8});
  const Packing p = Packing::of({4});
  EXPECT_THROW(attention(q, k, k, p, {}, cpu()), ShapeError);  // 3 heads over 2
  EXPECT_THROW(attention(q, at::zeros({4, 3, 7}), k, p, {}, cpu()), ShapeError);
  EXPECT_THROW(attention(q, at::zeros({3, 3, 8}), at::zeros({3, 3, 8}), p, {}, cpu()), ShapeError);  // a key row too few
  EXPECT_THROW(attention(q, q, q.to(at::kBFloat16), p, {}, cpu()), ShapeError);
  EXPECT_THROW(attention(q, q, q, Packing::of({5}), {}, cpu()), ShapeError);
  EXPECT_THROW(attention(q.to(at::kDouble), q.to(at::kDouble), q.to(at::kDouble), p, {}, cpu()), UnsupportedError);
  try {
    attention(q, k, k, p, {}, cpu());
  } catch (const ShapeError& e) {
    EXPECT_NE(std::string(e.what()).find("got 3 over 2, want"), std::string::npos) << e.what();
  }
}

TEST(Rope, RefusesPositionsOutsideTheTable) {
  const RopeTable table = rope_table({8}, 16);
  EXPECT_THROW(rope(at::zeros({2, 1, 8}), at::tensor({0, 16}, at::kInt), table, {}, cpu()), ShapeError);
  EXPECT_THROW(rope(at::zeros({2, 1, 6}), at::tensor({0, 1}, at::kInt), table, {}, cpu()), ShapeError);
  EXPECT_THROW(rope_table({7}, 16), ShapeError);
}

TEST(Rope, DotProductsDependOnTheDistanceAlone) {
  at::manual_seed(9);
  const RopeTable table = rope_table({16, 500000}, 512);
  const at::Tensor q = at::randn({1, 1, 16}), k = at::randn({1, 1, 16});
  for (const auto pairing : {kernels::Rope::kHalf, kernels::Rope::kAdjacent, kernels::Rope::kAdjacentToHalf}) {
    RopeOptions o;
    o.pairing = pairing;
    const auto dot = [&](int a, int b) {
      return (rope(q, at::tensor({a}, at::kInt), table, o, cpu()) * rope(k, at::tensor({b}, at::kInt), table, o, cpu())).sum().item<float>();
    };
    EXPECT_NEAR(dot(3, 1), dot(402, 400), 2e-4);
    o.inverse = true;
    const at::Tensor turned = rope(q, at::tensor({77}, at::kInt), table, {pairing, 0, false}, cpu());
    EXPECT_TRUE(at::allclose(rope(turned, at::tensor({77}, at::kInt), table, o, cpu()), q, 1e-5, 1e-6));
  }
}

// Frequencies checked against hand-computed values of the definitions.
TEST(Rope, YarnAndLlama3Frequencies) {
  RopeSpec yarn{64, 10000, {RopeScaling::kYarn, 40, 4096, 32, 1, true, 1, 0}};
  const std::vector<double> f = rope_frequencies(yarn), plain = rope_frequencies({64});
  EXPECT_NEAR(rope_concentration(yarn), 1.3689, 1e-4);
  EXPECT_DOUBLE_EQ(f[0], plain[0]);             // fast dims keep their frequency (ramp starts at dim 10)
  EXPECT_DOUBLE_EQ(f[10], plain[10]);
  EXPECT_DOUBLE_EQ(f[31], plain[31] / 40);      // slow dims are divided (ramp ends at dim 23)
  EXPECT_LT(f[16], plain[16]);
  EXPECT_GT(f[16], plain[16] / 40);
  RopeSpec llama{128, 500000, {RopeScaling::kLlama3, 8, 8192}};
  const std::vector<double> g = rope_frequencies(llama), base = rope_frequencies({128, 500000});
  EXPECT_DOUBLE_EQ(g[0], base[0]);
  EXPECT_DOUBLE_EQ(g[63], base[63] / 8);
}

}  // namespace weft::ops
