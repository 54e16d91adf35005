#include "ops/aten.h"

#include "nn/decoder.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/function.h>

#include <unordered_set>

#include "nn/init.h"

namespace weft::nn {
namespace {

ModelConfig tiny() {
  ModelConfig c;
  c.model_dim = 32, c.vocab_size = 61;
  GqaConfig attention;
  attention.num_heads = 4, attention.num_kv_heads = 2, attention.qk_norm = true;
  Mamba2Config mamba;
  mamba.state_dim = 8, mamba.head_dim = 8, mamba.num_groups = 2;
  MoeConfig moe;
  moe.num_experts = 4, moe.top_k = 2, moe.ffn_dim = 16, moe.shared_ffn_dim = 16;
  c.symbols = {{'*', attention}, {'M', mamba}, {'-', MlpConfig{}}, {'E', moe}};
  return c;
}

std::unique_ptr<Decoder> build(const ModelConfig& c, const std::string& letters, at::ScalarType dtype) {
  std::vector<BranchConfig> branches;
  for (char letter : letters) branches.push_back(c.symbols.at(letter));
  auto model = std::make_unique<Decoder>(c, branches);
  materialize(*model, {at::kCPU, dtype, 7});
  model->visit_params([](Param& p) {
    p.weight.main_grad = at::zeros(p.weight.value.sizes(), p.weight.value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  });
  return model;
}

std::shared_ptr<Ctx> batch(const std::vector<int32_t>& lengths, uint64_t seed, bool reference) {
  at::manual_seed(seed);
  auto ctx = std::make_shared<Ctx>();
  ctx->packing = ops::Packing::of(lengths);
  const int64_t tokens = ctx->packing.tokens();
  std::vector<int32_t> positions;
  for (int32_t n : lengths)
    for (int32_t i = 0; i < n; ++i) positions.push_back(i);
  ctx->tokens_T = at::randint(0, 61, {tokens}, at::kLong);
  ctx->targets_T = at::randint(0, 61, {tokens}, at::kLong);
  ctx->loss_weights_T = at::ones({tokens});
  ctx->loss_weight_sum = static_cast<double>(tokens);
  ctx->positions_T = at::tensor(positions, at::kInt);
  ctx->loss_scale.lm = 1.0 / static_cast<double>(tokens);
  ctx->ops.device = ops::this_cpu();
  if (reference) ctx->ops.reference_allowed = {"*"};
  return ctx;
}

int64_t count_nodes(const at::Tensor& from, const at::Tensor& until) {
  std::unordered_set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> open{from.grad_fn().get()};
  int64_t n = 0;
  while (!open.empty()) {
    torch::autograd::Node* node = open.back();
    open.pop_back();
    if (node == nullptr || node == until.grad_fn().get() || !seen.insert(node).second) continue;
    if (node->name() != "torch::autograd::AccumulateGrad") ++n;
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return n;
}

}  // namespace

TEST(Decoder, TrainsToALowerLossOnOneBatch) {
  for (const char* letters : {"*-", "M-", "*E", "M*-E"}) {
    auto model = build(tiny(), letters, at::kFloat);
    const auto ctx = batch({17, 15}, 3, false);
    double first = 0, last = 0;
    for (int step = 0; step < 12; ++step) {
      const Flow out = (*model)(Flow{}, ctx);
      out.loss.backward();
      last = out.loss.item<double>();
      if (step == 0) first = last;
      model->visit_params([](Param& p) {
        p.weight.value.sub_(p.weight.main_grad.sign() * 0.01);
        p.weight.main_grad.zero_();
      });
    }
    EXPECT_NEAR(first, std::log(61.0), 0.5) << letters;
    EXPECT_LT(last, first - 0.7) << letters;
  }
}

TEST(Decoder, EveryGradientEqualsAFiniteDifference) {
  for (const char* letters : {"*-", "M-", "*E", "MM"}) {
    auto model = build(tiny(), letters, at::kDouble);
    auto ctx = batch({7, 5}, 5, true);
    (*model)(Flow{}, ctx).loss.backward();
    model->visit_params([&](Param& p) {
      const at::Tensor direction = at::randn(p.weight.value.sizes(), at::kDouble), kept = p.weight.value.clone();
      const auto loss_at = [&](double step) {
        const at::NoGradGuard no_grad;
        p.weight.value.copy_(kept + direction * step);
        return (*model)(Flow{}, ctx).loss.item<double>();
      };
      const double h = 1e-6, numeric = (loss_at(h) - loss_at(-h)) / (2 * h);
      p.weight.value.copy_(kept);
      const double analytic = (p.weight.main_grad * direction).sum().item<double>();
      EXPECT_NEAR(numeric, analytic, 1e-6 * (1 + std::abs(analytic))) << letters << " " << p.weight.name;
    });
  }
}

TEST(Decoder, LogitsMadeOnceOrAgainGiveTheSameGradients) {
  auto once = build(tiny(), "*-", at::kFloat), again = build(tiny(), "*-", at::kFloat);
  auto ctx = batch({7, 5}, 5, true), other = batch({7, 5}, 5, true);
  ctx->loss_weights_T = at::arange(12, at::kFloat).remainder(4);  // some give nothing
  other->loss_weights_T = ctx->loss_weights_T, other->logits_again = true;
  (*once)(Flow{}, ctx).loss.backward();
  (*again)(Flow{}, other).loss.backward();
  std::vector<at::Tensor> made;
  once->visit_params([&](Param& p) { made.push_back(p.weight.main_grad); });
  size_t k = 0;
  again->visit_params([&](Param& p) {
    EXPECT_LT((p.weight.main_grad - made[k]).norm().item<double>(), 1e-5 * (1e-3 + made[k].norm().item<double>())) << p.weight.name;
    ++k;
  });
}

TEST(Decoder, DocumentsInARowNeverSeeEachOther) {
  for (const char* letters : {"*-", "M-", "*E", "M*-E"}) {
    auto model = build(tiny(), letters, at::kFloat);
    auto together = batch({9, 1, 14}, 11, false);
    together->mode = Ctx::kLogprob;
    const at::NoGradGuard no_grad;
    const at::Tensor all = (*model)(Flow{}, together).x_TD;
    int32_t start = 0;
    for (int32_t n : {9, 1, 14}) {
      auto alone = batch({n}, 1, false);
      alone->mode = Ctx::kLogprob;
      alone->tokens_T = together->tokens_T.narrow(0, start, n), alone->targets_T = together->targets_T.narrow(0, start, n);
      EXPECT_TRUE(at::allclose(all.narrow(0, start, n), (*model)(Flow{}, alone).x_TD, 1e-5, 1e-5)) << letters << " document of " << n;
      start += n;
    }
  }
}

TEST(Decoder, ADocumentMayBeLongerThanTheFirstRotaryTable) {
  auto model = build(tiny(), "*", at::kFloat);
  const at::NoGradGuard no_grad;
  auto ctx = batch({700}, 4, false);
  EXPECT_TRUE(std::isfinite((*model)(Flow{}, ctx).loss.item<double>()));
}

TEST(Decoder, ABranchHasAtMostTwelveNodes) {
  for (char letter : {'*', 'M', '-', 'E'}) {
    const ModelConfig c = tiny();
    Residual residual(c.symbols.at(letter), LayerInfo{0, 1, c.model_dim, c.norm_eps, c.init_std});
    materialize(residual, {at::kCPU, at::kFloat, 1});
    residual.visit_params([](Param& p) { p.weight.main_grad = at::zeros(p.weight.value.sizes()); });
    Flow in;
    in.x_TD = at::randn({16, c.model_dim}).requires_grad_(true) * 1, in.pending_TD = at::randn({16, c.model_dim}).requires_grad_(true) * 1;
    const Flow out = residual(in, batch({16}, 2, false));
    const int64_t nodes = count_nodes(out.pending_TD, in.x_TD) - 1;  // less the second input's own
    EXPECT_LE(nodes, 12) << letter;
    EXPECT_GE(nodes, 3) << letter;
  }
}

TEST(Decoder, StartsWithTheSameNumbersWhateverIsBuiltAround) {
  auto one = build(tiny(), "M*", at::kFloat), two = build(tiny(), "M*-E", at::kFloat);
  std::map<std::string, at::Tensor> first;
  one->visit_params([&](Param& p) { first[p.weight.name] = p.weight.value; });
  int compared = 0;
  two->visit_params([&](Param& p) {
    if (!first.contains(p.weight.name) || p.weight.name.ends_with(".out") || p.weight.name.ends_with(".out_proj")) return;
    EXPECT_TRUE(at::equal(first[p.weight.name], p.weight.value)) << p.weight.name;
    ++compared;
  });
  EXPECT_GT(compared, 8);
}

}  // namespace weft::nn
