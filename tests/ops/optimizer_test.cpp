#include "ops/aten.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/rng.h"
#include "ops/adamw.h"
#include "ops/dropout.h"
#include "ops/layernorm.h"
#include "ops/sample.h"
#include "cpu.h"

namespace weft::ops {
namespace {

AdamWUpdate update_of(const at::Tensor& param, const at::Tensor& master, const at::Tensor& grad, const at::Tensor& m, const at::Tensor& v, int t) {
  return {param, master, {}, grad, m, v, {}, {}, 1e-2, 1 - std::pow(0.9, t), 1 - std::pow(0.95, t), 0.9, 0.95, 1e-8, 0.1};
}

}  // namespace

TEST(AdamW, IsAsCloseToFp64OverAHundredStepsAsTheTensorLibrarysFusedOne) {
  at::manual_seed(1);
  const at::Tensor p = at::randn({3000}), m = at::zeros({3000}), v = at::zeros({3000});
  const at::Tensor fused = p.clone(), mf = m.clone(), vf = v.clone();
  const at::Tensor p64 = p.to(at::kDouble), m64 = m.to(at::kDouble), v64 = v.to(at::kDouble);
  for (int t = 1; t <= 100; ++t) {
    const at::Tensor g = at::randn({3000});
    adamw(update_of(p, {}, g, m, v, t), cpu());
    at::_fused_adamw_({fused}, {g}, {mf}, {vf}, {}, {at::full({}, static_cast<float>(t))}, 1e-2, 0.9, 0.95, 0.1, 1e-8, false, false);
    reference::adamw(update_of(p64, {}, g.to(at::kDouble), m64, v64, t));
  }
  const auto error = [&](const at::Tensor& x) { return (x.to(at::kDouble) - p64).abs().max().item<double>(); };
  EXPECT_GT(error(fused), 0);
  EXPECT_LE(error(p), 1.5 * error(fused));
}

TEST(AdamW, ARemainderIsTheFp32MasterToTheBit) {
  at::manual_seed(2);
  const at::Tensor master = at::randn({2500}), low = master.to(at::kBFloat16), m = at::zeros({2500}), v = at::zeros({2500});
  // The same masters as a bf16 parameter, rounded half up, and the 16 bits below it.
  const at::Tensor bits = master.view(at::kInt);
  const at::Tensor param = at::bitwise_right_shift(bits + 0x8000, 16).to(at::kShort).view(at::kBFloat16).clone();
  at::Tensor remainder = bits.bitwise_and(0xffff).to(at::kUInt16);
  const at::Tensor m2 = m.clone(), v2 = v.clone();
  for (int t = 1; t <= 20; ++t) {
    const at::Tensor g = at::randn({2500});
    adamw(update_of(low, master, g, m, v, t), cpu());
    AdamWUpdate u = update_of(param, {}, g, m2, v2, t);
    u.remainder = remainder;
    adamw(u, cpu());
  }
  const at::Tensor low16 = remainder.to(at::kInt), high = at::bitwise_left_shift(param.view(at::kShort).to(at::kInt), 16);
  const at::Tensor rebuilt = high - at::bitwise_left_shift(low16.bitwise_and(0x8000), 1) + low16;
  EXPECT_TRUE(rebuilt.equal(master.view(at::kInt)));
}

TEST(AdamW, StochasticRoundingIsFairAndAFunctionOfTheIndex) {
  const int64_t n = 1 << 16;
  const float value = 1.0f + 0.25f / 128;  // a quarter of the way to the next bf16
  const auto rounded = [&](int64_t begin, int64_t count) {
    const at::Tensor p = at::full({count}, 1.0f).to(at::kBFloat16), zero = at::zeros({count});
    // With no moments the update is decay alone: p - lr * decay * p = value.
    AdamWUpdate u = update_of(p, {}, zero, zero.clone(), zero.clone(), 1);
    u.lr = 1, u.decay = 1.0 - value, u.stochastic = true, u.seed = 3, u.step = 4, u.first_index = begin;
    adamw(u, cpu());
    return p;
  };
  const at::Tensor all = rounded(0, n);
  EXPECT_NEAR(all.to(at::kDouble).mean().item<double>(), value, 5e-5);
  EXPECT_TRUE(rounded(4096, 1000).equal(all.narrow(0, 4096, 1000)));
}

TEST(GradNorm, ClipsSkipsAndNamesTheFirstBadTensor) {
  const Policy p = cpu();
  at::Tensor flat = at::full({1000}, 2.0f);
  const ClipFactor f = clip_factor(grad_norm({flat}, p), 1.0, p);
  EXPECT_NEAR(f.norm.item<float>(), 2 * std::sqrt(1000.0), 1e-3);
  EXPECT_NEAR(f.factor.item<float>() * f.norm.item<float>(), 1.0, 1e-5);
  EXPECT_EQ(f.skip.item<int32_t>(), 0);
  const std::vector<NamedSpan> spans{{"a", 0, 500}, {"b", 500, 500}};
  EXPECT_EQ(first_non_finite(flat, spans, p), "");
  flat[700] = std::numeric_limits<float>::quiet_NaN(), flat[800] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(first_non_finite(flat, spans, p), "b (2 of 500 elements)");
  EXPECT_EQ(clip_factor(grad_norm({flat}, p), 1.0, p).skip.item<int32_t>(), 1);
}

TEST(Sample, FollowsTheDistributionThatIsLeft) {
  const int64_t rows = 20000;
  const at::Tensor logits = at::tensor({2.0f, 1.0f, 0.0f, -1.0f, -8.0f}).expand({rows, 5}).contiguous();
  SampleOptions o;
  for (int64_t r = 0; r < rows; ++r) {
    o.rows.emplace_back();
    o.rows.back().top_k = 3, o.rows.back().uniform = rng::uniform(9, static_cast<uint64_t>(r));
  }
  const at::Tensor counts = at::bincount(sample(logits, o, cpu()).token, {}, 5).to(at::kDouble) / static_cast<double>(rows);
  const at::Tensor want = at::softmax(logits[0].narrow(0, 0, 3).to(at::kDouble), 0);
  EXPECT_LT((counts.narrow(0, 0, 3) - want).abs().max().item<double>(), 0.01);
  EXPECT_EQ(counts.narrow(0, 3, 2).max().item<double>(), 0);
}

TEST(Sample, TakesTheLowerIndexOnTiesAndSaysWhenThereIsNone) {
  SampleOptions o;
  o.rows.resize(3);
  for (SampleRow& r : o.rows) r.temperature = 0;
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor logits = at::tensor({1.0f, 3.0f, 3.0f, -inf, nan, -inf, nan, 2.0f, 1.0f}).view({3, 3});
  const at::Tensor token = sample(logits, o, cpu()).token;
  EXPECT_TRUE(token.equal(at::tensor({1, -1, 1}, at::kInt)));
  o.rows[0].top_p = 0;
  EXPECT_THROW(sample(logits, o, cpu()), ShapeError);
  o.rows.pop_back();
  EXPECT_THROW(sample(logits, o, cpu()), ShapeError);
}

TEST(Dropout, AnyCutDrawsTheBitsOfTheWhole) {
  const at::Tensor x = at::ones({4096});
  const at::Tensor whole = dropout(x, {}, 0.25, {7, 1}, cpu()), part = dropout(x.narrow(0, 0, 100), {}, 0.25, {7, 1, 1000}, cpu());
  EXPECT_TRUE(part.equal(whole.narrow(0, 1000, 100)));
  EXPECT_NEAR(whole.mean().item<double>(), 1.0, 0.05);
  EXPECT_THROW(dropout(x, {}, 1.0, {7, 1}, cpu()), ShapeError);
  EXPECT_THROW(dropout(x, {}, 0.5, {7, 1, 2}, cpu()), ShapeError);
}

TEST(LayerNorm, RefusesWhatBreaksTheContract) {
  Weight w{"w", at::ones({4}), at::zeros({4})}, b{"b", at::ones({3}), at::zeros({3})};
  EXPECT_THROW(layer_norm(at::ones({2, 5}), w, nullptr, 1e-5, cpu()), ShapeError);
  EXPECT_THROW(layer_norm(at::ones({2, 4}), w, &b, 1e-5, cpu()), ShapeError);
  EXPECT_THROW(add_layer_norm(at::ones({2, 4}), {}, w, nullptr, 1e-5, cpu()), ShapeError);
}

}  // namespace weft::ops
