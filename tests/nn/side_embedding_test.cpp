#include "ops/aten.h"

#include "nn/side_embedding.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "nn/embedding.h"
#include "nn/init.h"
#include "ops/ngram.h"

namespace weft::nn {
namespace {

constexpr int64_t kVocab = 61, kDim = 24;

// A child of a root, so that paths are those of a model.
struct Root final : Module {
  explicit Root(std::unique_ptr<Embedding> e) : embed(child("embed", std::move(e))) {}
  Flow forward(Flow f, const CtxPtr& c) override { return embed(std::move(f), c); }
  Embedding& embed;
};
std::unique_ptr<Root> make(const NgramConfig& ngram, const StructureConfig& structure, at::ScalarType dtype, std::map<std::string, Param*>& params) {
  auto root = std::make_unique<Root>(std::make_unique<Embedding>(kVocab, kDim, 0.02, ngram, structure));
  materialize(*root, {at::kCPU, dtype, 7});
  root->visit_params([&](Param& p) {
    p.weight.main_grad = at::zeros(p.weight.value.sizes(), p.weight.value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
    params[p.weight.name] = &p;
  });
  return root;
}
std::shared_ptr<Ctx> batch(const std::vector<int32_t>& lengths, bool reference = false) {
  at::manual_seed(3);
  auto ctx = std::make_shared<Ctx>();
  ctx->packing = ops::Packing::of(lengths);
  ctx->tokens_T = at::randint(1, kVocab, {ctx->packing.tokens()}, at::kLong);
  ctx->streams_ST = at::randint(-1, 70, {5, ctx->packing.tokens()}, at::kInt);
  ctx->ops.device = ops::this_cpu();
  if (reference) ctx->ops.reference_allowed = {"*"};
  return ctx;
}
NgramConfig ngram() {
  NgramConfig c;
  c.rows = 40, c.heads = 2, c.dim = 4;
  return c;
}
StructureConfig structure(int streams) {
  StructureConfig c;
  c.dim = 8, c.streams = streams;
  return c;
}

}  // namespace

TEST(SideEmbedding, TablesOfTheRecipe) {
  NgramConfig c;
  c.rows = 499800;
  const std::vector<int64_t> primes = ngram_primes(c);
  EXPECT_EQ(primes.size(), 16u);
  EXPECT_EQ(primes.front(), 499801);
  EXPECT_EQ(primes.back(), 500041);
  EXPECT_EQ(std::accumulate(primes.begin(), primes.end(), int64_t{0}), 7998862);
  StructureConfig s;
  const std::vector<int64_t> core = s.classes();
  EXPECT_EQ(std::accumulate(core.begin(), core.end(), int64_t{0}), 25);
}

TEST(SideEmbedding, NumbersOfTheHashAreOddBelowTwoTo31AndKept) {
  std::map<std::string, Param*> params;
  const auto root = make(ngram(), {}, at::kFloat, params);
  std::map<std::string, at::Tensor> buffers;
  root->visit_buffers([&](const std::string& name, at::Tensor& t) { buffers[name] = t; });
  ASSERT_EQ(buffers.size(), 4u);
  const at::Tensor mult = buffers.at("embed.ngram.mult");
  EXPECT_TRUE(mult.remainder(2).eq(1).all().item<bool>());
  EXPECT_GE(mult.min().item<int64_t>(), 1);
  EXPECT_LT(mult.max().item<int64_t>(), int64_t{1} << 31);
  EXPECT_GT(mult.max().item<int64_t>(), int64_t{1} << 29);
  EXPECT_EQ(buffers.at("embed.ngram.offset")[1].item<int64_t>(), buffers.at("embed.ngram.prime")[0].item<int64_t>());
  EXPECT_EQ(params.count("embed.ngram.table"), 1u);
  EXPECT_EQ(params.at("embed.ngram.out.weight")->weight.value.sizes(), (std::vector<int64_t>{kDim, 16}));
}

TEST(SideEmbedding, NothingAtFirstThenEveryPartLearns) {
  std::map<std::string, Param*> params;
  const auto root = make(ngram(), structure(5), at::kFloat, params);
  const auto ctx = batch({9, 14});
  const at::Tensor word = params.at("embed.word.weight")->weight.value.index_select(0, ctx->tokens_T);
  EXPECT_TRUE(at::equal((*root)(Flow{}, ctx).x_TD, word));
  std::map<std::string, at::Tensor> before;
  for (const auto& [name, p] : params) before[name] = p->weight.value.clone();
  const at::Tensor target = at::randn({23, kDim});
  double first = 0, last = 0;
  for (int step = 0; step < 10; ++step) {
    const at::Tensor loss = ((*root)(Flow{}, ctx).x_TD - target).square().mean();
    loss.backward();
    last = loss.item<double>();
    if (step == 0) first = last;
    for (const auto& [name, p] : params) p->weight.value.sub_(p->weight.main_grad.sign() * 0.02), p->weight.main_grad.zero_();
  }
  EXPECT_LT(last, first);
  for (const auto& [name, p] : params) EXPECT_GT((p->weight.value - before[name]).abs().max().item<double>(), 0) << name;
}

TEST(SideEmbedding, TextWithoutStreamsAddsNothingAndAbsentIdsAddNothing) {
  std::map<std::string, Param*> params;
  const auto root = make({}, structure(2), at::kFloat, params);
  params.at("embed.struct.up.weight")->weight.value.normal_();
  EXPECT_EQ(params.at("embed.struct.scale")->weight.value[1].item<float>(), 0.5f);
  const at::NoGradGuard no_grad;
  auto ctx = batch({6});
  ctx->streams_ST.fill_(-1);
  const at::Tensor absent = (*root)(Flow{}, ctx).x_TD;
  ctx->streams_ST = at::Tensor();
  EXPECT_TRUE(at::equal((*root)(Flow{}, ctx).x_TD, absent));
  ctx->streams_ST = at::full({5, 6}, -1, at::kInt);
  ctx->streams_ST[1][2] = 3;
  const at::Tensor one = (*root)(Flow{}, ctx).x_TD - absent;
  EXPECT_GT(one[2].abs().max().item<float>(), 0);
  EXPECT_EQ(one.slice(0, 3).abs().max().item<float>(), 0);
}

TEST(SideEmbedding, DocumentsInARowDoNotSeeEachOtherUnlessAsked) {
  for (const bool cross : {false, true}) {
    std::map<std::string, Param*> params;
    NgramConfig c = ngram();
    c.cross_documents = cross;
    const auto root = make(c, {}, at::kFloat, params);
    params.at("embed.ngram.out.weight")->weight.value.normal_();
    const at::NoGradGuard no_grad;
    const auto both = batch({7, 5});
    const auto second = batch({5});
    second->tokens_T = both->tokens_T.slice(0, 7);
    const at::Tensor together = (*root)(Flow{}, both).x_TD.slice(0, 7), alone = (*root)(Flow{}, second).x_TD;
    // Close, not equal: a product of another number of rows rounds otherwise.
    EXPECT_EQ(at::allclose(together, alone, 1e-5, 1e-5), !cross);
    EXPECT_TRUE(at::allclose(together.slice(0, 2), alone.slice(0, 2), 1e-5, 1e-5));  // from the third token on even order 3 sees its document only
  }
}

TEST(SideEmbedding, EveryGradientEqualsAFiniteDifference) {
  std::map<std::string, Param*> params;
  const auto root = make(ngram(), structure(5), at::kDouble, params);
  for (const char* name : {"embed.ngram.out.weight", "embed.struct.up.weight"}) params.at(name)->weight.value.normal_();
  const auto ctx = batch({7, 5}, true);
  const at::Tensor g = at::randn({12, kDim}, at::kDouble);
  ((*root)(Flow{}, ctx).x_TD * g).sum().backward();
  for (const auto& [name, p] : params) {
    const at::Tensor direction = at::randn(p->weight.value.sizes(), at::kDouble), kept = p->weight.value.clone();
    const auto at_step = [&](double step) {
      const at::NoGradGuard no_grad;
      p->weight.value.copy_(kept + direction * step);
      return ((*root)(Flow{}, ctx).x_TD * g).sum().item<double>();
    };
    const double h = 1e-6, numeric = (at_step(h) - at_step(-h)) / (2 * h);
    p->weight.value.copy_(kept);
    const double analytic = (p->weight.main_grad * direction).sum().item<double>();
    EXPECT_NEAR(numeric, analytic, 1e-6 * (1 + std::abs(analytic))) << name;
  }
}

}  // namespace weft::nn
