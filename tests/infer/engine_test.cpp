#include "ops/aten.h"

#include "infer/engine.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "models/build.h"
#include "nn/init.h"

namespace weft::infer {
namespace {

std::unique_ptr<nn::Decoder> model(const std::string& pattern) {
  nn::ModelConfig c = models::preset("demo");
  c.pattern = pattern, c.model_dim = 64, c.vocab_size = 97;
  if (pattern == "M-") c.ngram.rows = 50, c.ngram.heads = 2;  // one model whose embedding looks back
  auto m = models::build(c);
  nn::materialize(*m, {at::kCPU, at::kFloat, 3});
  m->visit_params([](nn::Param& p) {
    if (p.weight.name == "embed.ngram.out.weight") p.weight.value.normal_(0, 0.1);  // zero at first
  });
  return m;
}

ops::Policy cpu() {
  ops::Policy p;
  p.device = ops::this_cpu();
  return p;
}

std::map<int64_t, std::vector<Emission>> run(Engine& engine) {
  std::map<int64_t, std::vector<Emission>> out;
  while (!engine.idle())
    for (const Emission& e : engine.step()) out[e.id].push_back(e);
  return out;
}

}  // namespace

TEST(Engine, DecodingGivesTheLogProbabilitiesOfOneLongForward) {
  for (const char* pattern : {"*-", "M-", "*E", "M-M*-ME*-"}) {
    auto m = model(pattern);
    Engine engine(*m, cpu(), at::kCPU, {});
    const std::vector<int32_t> prompt{5, 17, 3, 88, 2};
    Sampling s;
    s.max_tokens = 20, s.seed = 4;
    engine.submit({1, prompt, s});
    const std::vector<Emission> emitted = run(engine).at(1);
    ASSERT_EQ(emitted.size(), 20u);

    std::vector<int64_t> tokens(prompt.begin(), prompt.end());
    for (const Emission& e : emitted) tokens.push_back(e.token);
    auto ctx = std::make_shared<nn::Ctx>();
    const auto n = static_cast<int32_t>(tokens.size()) - 1;
    ctx->mode = nn::Ctx::kLogprob;
    ctx->tokens_T = at::tensor(tokens, at::kLong).narrow(0, 0, n), ctx->targets_T = at::tensor(tokens, at::kLong).narrow(0, 1, n);
    ctx->loss_weights_T = at::ones({n}), ctx->positions_T = at::arange(n, at::kInt);
    ctx->packing = ops::Packing::of({n}), ctx->ops = cpu();
    const at::NoGradGuard no_grad;
    const at::Tensor want = (*m)(nn::Flow{}, ctx).x_TD;
    for (size_t i = 0; i < emitted.size(); ++i)
      EXPECT_NEAR(emitted[i].logprob, want[static_cast<int64_t>(prompt.size() - 1 + i)].item<float>(), 1e-4) << pattern << " token " << i;
  }
}

TEST(Engine, ARequestGetsTheSameTokensAloneAndInCompany) {
  auto m = model("M-*E");
  Sampling s;
  s.max_tokens = 12;
  std::map<int64_t, std::vector<int32_t>> prompts{{1, {1, 2, 3}}, {2, {9}}, {3, {4, 4, 4, 4, 4, 4, 4}}, {4, {60, 61}}};
  Engine company(*m, cpu(), at::kCPU, {4096, 2, 16});  // two at a time: the others wait
  for (const auto& [id, prompt] : prompts) company.submit({id, prompt, s});
  const auto together = run(company);
  for (const auto& [id, prompt] : prompts) {
    Engine engine(*m, cpu(), at::kCPU, {});
    engine.submit({id, prompt, s});
    const auto alone = run(engine).at(id);
    ASSERT_EQ(together.at(id).size(), alone.size());
    for (size_t i = 0; i < alone.size(); ++i) EXPECT_EQ(together.at(id)[i].token, alone[i].token) << id << " " << i;
  }
}

TEST(Engine, StopsAtStopTokensAndRefusesWhatCannotFit) {
  auto m = model("*-");
  Engine engine(*m, cpu(), at::kCPU, {64, 1, 16});
  Sampling s;
  s.max_tokens = 30, s.temperature = 0;
  engine.submit({1, {3}, s});
  const auto all = run(engine).at(1);
  s.stop_tokens = {all[2].token};
  engine.submit({2, {3}, s});
  const auto stopped = run(engine).at(2);
  EXPECT_LE(stopped.size(), 3u);
  EXPECT_TRUE(stopped.back().last);
  s.max_tokens = 1000;
  EXPECT_THROW(engine.submit({3, {3}, s}), InputError);
  EXPECT_THROW(engine.submit({4, {}, s}), InputError);
}

}  // namespace weft::infer
