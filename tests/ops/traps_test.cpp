// Bugs of the field planted in an op (reliability.md 8.1), each told apart by the comparison of `bench ops --check`; and what holds for
// every row of the case table: a NaN that is read shows, a saved tensor that was changed is noticed, a second run gives the same bits.
//
// Seeded bugs and the tests that catch them:
//   10 attention across documents   SeededBugs, Attention.PackedDocumentsAreSeparateDocuments
//   11 mask off by one              SeededBugs, Attention.AFutureTokenChangesNothingAndNanInAnotherDocumentStaysThere
//   14 saved tensor changed         EveryRow.ASavedTensorChangedInPlaceIsNoticed
//   21 ties of the router           SeededBugs, Route.TiesGoToTheLowerExpertOnEveryCandidate, Indexer.ChoosesTheHighestAndBreaksTiesDownward
//   24 dropped tokens' gradient     SeededBugs
//   26 loss reads one gradient      SeededBugs, LinearCrossEntropy.AnyGradientOfEachTokenAgreesWithFp64
//   27 loss forgets ignore_index    SeededBugs, Poison.NanInPaddingChangesNothing (dw too)
//   28 softmax without its maximum  SeededBugs, LargeLogits, Mhc.SinkhornHoldsLargeLogits, LinearCrossEntropy.LargeLogitsAndNanAreHeld
//   29 eps 100 times too large      SeededBugs, Defaults.EpsIsWhatThePaperSays
//   30 sums in bf16                 SeededBugs, Dense.GradientsOfManyMicroBatchesAddUpInFp32, Gemm.OwnProductIsTheSumInFp32...
//   31 FP8 scale one step old       SeededBugs
//   33 accumulator not promoted     SeededBugs with a 14-bit accumulator; the library's on a GPU: weft_tensor_check gemm, the sweep over k
// Numeric traps (reliability.md 2.2) besides: bf16 D and A of a scan: Scan.RoundedDecaysAreToldApartOverTenThousandTokens. Odd lengths:
// *.ChunkedFormIsTheRecurrence, Mamba3.LongRowsAgreeOverChunks, and the kernels' own checks. Recompute: EveryRow.ASecondRunGivesTheSameBits
// compares a forward that keeps nothing as well. Poison: NanInPaddingChangesNothing, EveryRow.ANanThatIsReadShows.
#include "ops/aten.h"

#include <gtest/gtest.h>

#include <map>

#include "ops/attention.h"
#include "ops/cases/modes.h"
#include "ops/grouped_linear.h"
#include "ops/indexer.h"
#include "ops/kl.h"
#include "ops/layernorm.h"
#include "ops/linear.h"
#include "ops/linear_cross_entropy.h"
#include "ops/mhc.h"
#include "ops/mhc_layers.h"
#include "ops/node.h"
#include "ops/permute.h"
#include "ops/quantize.h"
#include "ops/rmsnorm.h"
#include "ops/route.h"
#include "ops/sparse_mla.h"
#include "ops/ssd.h"

namespace weft::ops::cases {
namespace {

using Inputs = std::vector<at::Tensor>;
using Op = std::function<Inputs(const Inputs&, std::deque<Weight>&, const Policy&)>;

// Identity whose backward is `wrong`: a fault of an op's backward.
struct WrongNode final : Node {
  std::function<at::Tensor(const at::Tensor&)> wrong;
  variable_list apply(variable_list&& grads) override { return {wrong(grads[0])}; }
};
at::Tensor with_gradient(const at::Tensor& t, std::function<at::Tensor(const at::Tensor&)> wrong) {
  auto node = make_node<WrongNode>(policy_on(at::kCPU), {t}, false);
  if (node) node->wrong = std::move(wrong);
  return attach(node, t.detach().clone());
}

Policy with_references() {
  Policy p = policy_on(at::kCPU);
  p.reference_allowed = {"*"};
  return p;
}

// True when the comparison lets `right` pass and not `planted`, on the same numbers.
bool caught(Inputs inputs, std::deque<Weight> weights, const Op& right, const Op& planted, double atol = 1e-5) {
  Instance i;
  i.inputs = std::move(inputs), i.weights = std::move(weights), i.op = right;
  Policy p = policy_on(at::kCPU);
  p.only = "reference";
  const auto cotangent = cotangents(i, run_row(i, p, false, {}).outputs, 1);
  const Values f64 = run_row(i, p, true, cotangent), plain = run_row(i, p, false, cotangent);
  const bool passes = compare(plain, f64, plain, atol).ok;
  i.op = planted;
  return passes && !compare(run_row(i, p, false, cotangent), f64, plain, atol).ok;
}

Inputs draw(std::initializer_list<std::vector<int64_t>> shapes, uint64_t seed = 1) {
  at::manual_seed(seed);
  Inputs all;
  for (const auto& shape : shapes) all.push_back(at::randn(shape));
  return all;
}
Weight weight(const char* name, std::vector<int64_t> shape) { return {name, at::randn(shape), {}}; }

bool caught_in_attention(const Packing& seen, const AttentionOptions& options) {
  const Packing packing = Packing::of({5, 8});
  const auto op = [](const Packing& p, const AttentionOptions& o) -> Op {
    return [p, o](const Inputs& x, std::deque<Weight>&, const Policy& policy) { return Inputs{attention(x[0], x[1], x[2], p, o, policy).o_THV}; };
  };
  return caught(draw({{13, 2, 4}, {13, 1, 4}, {13, 1, 4}}), {}, op(packing, {}), op(seen, options));
}

const at::Tensor kTargets = at::tensor({3, -1, 0, 6, -1, 2}, at::kLong);
Op loss(std::function<at::Tensor(const at::Tensor&)> after, at::Tensor targets = kTargets) {
  return [=](const Inputs& x, std::deque<Weight>& w, const Policy& p) { return Inputs{after(linear_cross_entropy(x[0], w[0], targets, {}, {}, p).loss_T)}; };
}
bool caught_in_loss(const Op& planted) { return caught(draw({{6, 5}}), {weight("w", {7, 5})}, loss([](const at::Tensor& t) { return t; }), planted); }

template <class Right, class Planted>
bool caught_in_norm(Right right, Planted planted) {
  return caught(draw({{7, 32}}), {weight("w", {32}), weight("b", {32})}, right, planted);
}

}  // namespace

TEST(SeededBugs, EachIsToldApart) {
  std::map<std::string, bool> seen;
  seen["10 packed sequences attend across the boundary"] = caught_in_attention(Packing::of({13}), {});
  AttentionOptions late;  // the query's own key and one more
  late.causal = false, late.window_right = 1;
  seen["11 causal mask off by one, a key too many"] = caught_in_attention(Packing::of({5, 8}), late);
  seen["24 gradient of dropped tokens kept"] = [] {
    const at::Tensor indices = at::tensor({0, -1, 1, 0, -1, 1}, at::kInt).view({6, 1});
    const auto op = [=](bool keep) -> Op {
      return [=](const Inputs& x, std::deque<Weight>&, const Policy& p) {
        const ExpertPlan plan = plan_experts(indices, 2, 1, p);
        return Inputs{permute(keep ? with_gradient(x[0], [](const at::Tensor& g) { return at::where(g == 0, at::ones_like(g), g); }) : x[0], plan, p)};
      };
    };
    return caught(draw({{6, 4}}), {}, op(false), op(true));
  }();
  seen["26 the loss reads only the first token's gradient"] =
      caught_in_loss(loss([](const at::Tensor& t) { return with_gradient(t, [](const at::Tensor& g) { return g[0].expand_as(g).contiguous(); }); }));
  seen["27 the loss forgets ignore_index in its backward"] = caught_in_loss(loss(
      [](const at::Tensor& t) {
        const at::Tensor ignored = kTargets < 0, forward = with_gradient(t, [](const at::Tensor& g) { return g; });
        return forward - (forward * ignored).detach();
      },
      kTargets.clamp_min(0)));
  seen["28 softmax without its maximum"] = [] {
    const auto op = [](bool naive) -> Op {
      return [=](const Inputs& x, std::deque<Weight>&, const Policy& p) {
        if (!naive) return Inputs{mhc_sinkhorn(x[0], 3, 1e-6, p)};
        at::Tensor m = x[0].exp();
        m = m / m.sum(-1, true) + 1e-6;
        for (int i = 0; i < 3; ++i) m = i == 0 ? m / (m.sum(-2, true) + 1e-6) : (m / (m.sum(-1, true) + 1e-6)) / ((m / (m.sum(-1, true) + 1e-6)).sum(-2, true) + 1e-6);
        return Inputs{m};
      };
    };
    Inputs x = draw({{5, 4, 4}});
    x[0] = x[0] * 100;
    return caught(x, {}, op(false), op(true));
  }();
  const auto rms = [](double eps) -> Op { return [=](const Inputs& x, std::deque<Weight>& w, const Policy& p) { return Inputs{rms_norm(x[0] * 0.1, w[0], eps, p)}; }; };
  const auto layer = [](double eps) -> Op { return [=](const Inputs& x, std::deque<Weight>& w, const Policy& p) { return Inputs{layer_norm(x[0] * 0.1, w[0], &w[1], eps, p)}; }; };
  seen["29 eps of RMSNorm 100 times too large"] = caught_in_norm(rms(1e-6), rms(1e-4));
  seen["29 eps of LayerNorm 100 times too large"] = caught_in_norm(layer(1e-6), layer(1e-4));
  seen["29 eps of Sinkhorn 100 times too large"] = [] {
    const auto op = [](double eps) -> Op { return [=](const Inputs& x, std::deque<Weight>&, const Policy& p) { return Inputs{mhc_sinkhorn(x[0], 20, eps, p)}; }; };
    return caught(draw({{5, 4, 4}}), {}, op(1e-6), op(1e-4));
  }();
  const auto product = [](int64_t step, bool rounded) -> Op {  // x w^T with sums kept in bf16, or with 14 bits as FP8 tensor cores do, promoted every `step`
    return [=](const Inputs& x, std::deque<Weight>& w, const Policy& p) {
      if (step == 0) return Inputs{linear(x[0], w[0], {}, nullptr, p)};
      at::Tensor sum = at::zeros({x[0].size(0), w[0].value.size(0)}, x[0].options()), part = sum;
      for (int64_t k = 0; k < x[0].size(1); k += 32) {
        part = part + at::mm(x[0].narrow(1, k, 32), w[0].value.narrow(1, k, 32).t());
        if (rounded && x[0].scalar_type() != at::kDouble) {
          const at::Tensor unit = at::exp2(at::floor(at::log2(part.detach().abs() + 1e-30)) - 13);
          part = part + ((part.detach() / unit).trunc() * unit - part.detach());
        } else if (x[0].scalar_type() != at::kDouble) {
          part = part.to(at::kBFloat16).to(part.scalar_type());
        }
        if ((k + 32) % step == 0) sum = sum + part, part = at::zeros_like(sum);
      }
      return Inputs{sum + part};
    };
  };
  Weight long_row = weight("w", {8, 4096});
  long_row.trainable = false;
  seen["30 products summed in bf16"] = caught(draw({{6, 4096}}), {long_row}, product(0, false), product(1 << 20, false));
  seen["33 the accumulator of a long product is never promoted"] = caught(draw({{6, 4096}}), {long_row}, product(0, true), product(1 << 20, true));
  seen["31 an FP8 scale that is one step old"] = [] {
    const auto op = [](bool stale) -> Op {
      return [=](const Inputs& x, std::deque<Weight>&, const Policy& p) {
        const at::Tensor v = x[0].detach().to(at::kFloat), scale_of = stale ? x[1].detach().to(at::kFloat) : v;
        const Quantized q = quantize(v, amax(scale_of, p), {}, p);
        return Inputs{q.q.view(at::kByte), q.scale.view(at::kInt)};
      };
    };
    return caught(draw({{4, 16}, {4, 16}}), {}, op(false), op(true));
  }();
  seen["21 ties of the router broken upwards"] = [] {
    const auto op = [](bool upward) -> Op {
      return [=](const Inputs& x, std::deque<Weight>& w, const Policy& p) {
        RouteOptions o;
        o.k = 2;
        const at::Tensor indices = route(x[0], w[0], o, p).indices_Tk;
        return Inputs{upward ? 3 - indices : indices};  // all four logits are equal
      };
    };
    Weight w = weight("w", {4, 3});
    w.value.zero_();
    return caught(draw({{5, 3}}), {w}, op(false), op(true));
  }();
  for (const auto& [bug, was_caught] : seen) EXPECT_TRUE(was_caught) << bug;
  EXPECT_EQ(seen.size(), 13u);
}

TEST(Route, TiesGoToTheLowerExpertOnEveryCandidate) {
  Weight w = weight("w", {6, 3});
  w.value.zero_();
  for (const RouterScore score : {RouterScore::kSoftmaxPre, RouterScore::kSoftmaxPost, RouterScore::kSigmoid, RouterScore::kSqrtSoftplus})
    for (const char* only : {"", "reference"}) {
      RouteOptions o;
      o.score = score, o.k = 3;
      Policy p = policy_on(at::kCPU);
      p.only = only;
      EXPECT_TRUE(route(at::ones({4, 3}), w, o, p).indices_Tk.equal(at::tensor({0, 1, 2}, at::kInt).expand({4, 3}))) << only;
    }
}

// Each float input in turn is NaN throughout: some float output must be NaN.
TEST(EveryRow, ANanThatIsReadShows) {
  for (const Case& c : table()) {
    if (!c.check || c.perf || c.dtypes.front() != at::kFloat || c.op == "indexer_topk" || c.op == "sample" || c.row.find("no index") != std::string::npos) continue;  // the first two count it as +infinity
    const Instance built = c.build({at::kFloat, at::kCPU, 1});
    for (size_t k = 0; k < built.inputs.size(); ++k) {
      if (!built.inputs[k].is_floating_point() || built.inputs[k].numel() == 0) continue;
      if (c.op == "grouped_linear" && c.row.rfind("0+0", 0) == 0) continue;  // no group has a row
      Instance i = built;
      i.inputs[k] = at::full_like(i.inputs[k], std::numeric_limits<double>::quiet_NaN());
      bool any = false, floats = false;
      for (const at::Tensor& t : run_row(i, with_references(), false, {}).outputs)
        if (t.defined() && t.is_floating_point() && t.numel() > 0) floats = true, any = any || t.isnan().any().item<bool>();
      EXPECT_TRUE(any || !floats) << c.op << "/" << c.row << ", input " << k;
    }
  }
}

TEST(EveryRow, ASecondRunGivesTheSameBits) {
  for (const Case& c : table()) {
    if (!c.check || c.perf || c.dtypes.front() != at::kFloat) continue;
    const Instance i = c.build({at::kFloat, at::kCPU, 2});
    const Policy p = with_references();
    const Inputs kept_nothing = run_row(i, p, false, {}).outputs;  // as the first pass of a recomputed layer
    const auto cotangent = cotangents(i, kept_nothing, 3);
    const Values a = run_row(i, p, false, cotangent), b = run_row(i, p, false, cotangent);
    const auto same = [](const Inputs& x, const Inputs& y) {
      for (size_t k = 0; k < x.size(); ++k)
        if (x[k].defined() != y[k].defined() || (x[k].defined() && !at::equal(x[k].nan_to_num(), y[k].nan_to_num()))) return false;
      return x.size() == y.size();
    };
    EXPECT_TRUE(same(kept_nothing, a.outputs)) << c.op << "/" << c.row << " without a graph";
    EXPECT_TRUE(same(a.outputs, b.outputs) && same(a.input_grads, b.input_grads) && same(a.weight_grads, b.weight_grads)) << c.op << "/" << c.row;
  }
}

// An input overwritten between forward and backward: the backward throws, or never needed it and gives the same gradients.
TEST(EveryRow, ASavedTensorChangedInPlaceIsNoticed) {
  int noticed = 0;
  for (const Case& c : table()) {
    if (!c.grad || c.perf || c.dtypes.front() != at::kFloat) continue;
    Instance i = c.build({at::kFloat, at::kCPU, 1});
    const Policy p = with_references();
    const auto cotangent = cotangents(i, run_row(i, p, false, {}).outputs, 1);
    const Values right = run_row(i, p, false, cotangent);
    for (size_t k = 0; k < i.inputs.size(); ++k) {
      if (!i.inputs[k].is_floating_point() || i.inputs[k].numel() == 0) continue;
      Instance changed = i;
      changed.op = [&, k](const Inputs& x, std::deque<Weight>& w, const Policy& policy) {
        Inputs out = i.op(x, w, policy);
        const at::NoGradGuard no_grad;
        const_cast<at::Tensor&>(x[k]).mul_(3);
        for (at::Tensor& t : out)  // an output that is a view of the input changes with it: its value is not the question
          if (t.defined() && t.is_alias_of(x[k])) return Inputs{};
        return out;
      };
      try {
        const Values got = run_row(changed, p, false, cotangent);
        for (size_t g = 0; g < got.input_grads.size() && !got.outputs.empty(); ++g)
          if (got.input_grads[g].defined() && right.input_grads[g].defined()) {
            EXPECT_TRUE(at::allclose(got.input_grads[g], right.input_grads[g], 1e-5, 1e-6, true)) << c.op << "/" << c.row << ": gradient " << g << " changed with input " << k;
          }
      } catch (const c10::Error&) {
        ++noticed;
      }
    }
  }
  EXPECT_GT(noticed, 30);
}

// NaN where nothing may be read: rows that the loss ignores, keys that no query chose, padding of experts.
TEST(Poison, NanInPaddingChangesNothing) {
  const Policy p = policy_on(at::kCPU);
  at::manual_seed(5);
  for (const char* only : {"", "reference"})
    for (const bool at_once : {false, true}) {
      Policy chosen = p;
      chosen.only = only;
      LossOptions options;
      options.weights_are_cotangents = at_once;
      const at::Tensor ones = at::ones({6}), clean = at::randn({6, 5});
      const Weight start = weight("w", {7, 5});
      std::vector<at::Tensor> dx, dw;
      for (const bool poisoned : {false, true}) {
        Weight w = start;
        w.main_grad = at::zeros({7, 5});
        at::Tensor x = clean.clone();
        if (poisoned) x.masked_fill_((kTargets < 0).unsqueeze(1), std::numeric_limits<double>::quiet_NaN());
        x.requires_grad_();
        const at::Tensor l = linear_cross_entropy(x, w, kTargets, ones, options, chosen).loss_T;
        EXPECT_TRUE(l.isfinite().all().item<bool>());
        l.sum().backward();
        dx.push_back(x.grad()), dw.push_back(w.main_grad);
      }
      EXPECT_TRUE(dx[0].equal(dx[1])) << only << at_once;
      EXPECT_TRUE(dw[0].equal(dw[1])) << only << at_once;
    }
  {  // rows of k and v between two documents' keys
    const at::Tensor q = at::randn({5, 2, 4}), k = at::randn({9, 1, 4}), v = at::randn({9, 1, 4});
    AttentionOptions o;
    o.key_starts = at::tensor({0, 5}, at::kInt);
    std::vector<at::Tensor> outputs;
    for (const bool poisoned : {false, true}) {
      const at::Tensor keys = k.clone(), values = v.clone();
      if (poisoned)
        for (const int64_t row : {2, 3, 4, 8}) keys[row].fill_(std::numeric_limits<double>::quiet_NaN()), values[row].fill_(std::numeric_limits<double>::quiet_NaN());
      const at::Tensor x = q.clone().requires_grad_();
      const AttentionOut out = attention(x, keys, values, Packing::of({2, 3}), o, p);
      out.o_THV.sum().backward();
      outputs.push_back(out.o_THV.detach()), outputs.push_back(x.grad());
    }
    EXPECT_TRUE(outputs[0].equal(outputs[2]) && outputs[1].equal(outputs[3]));
  }
  {  // rows of no group, forward and backward
    Weight w = weight("experts", {2, 3, 4});
    w.main_grad = at::zeros({2, 3, 4});
    at::Tensor x = at::randn({7, 4});
    x.narrow(0, 5, 2).fill_(std::numeric_limits<double>::quiet_NaN());
    x.requires_grad_();
    const at::Tensor y = grouped_linear(x, w, at::tensor({2, 5}, at::kInt), {}, nullptr, p);
    EXPECT_EQ(y.narrow(0, 5, 2).abs().sum().item<double>(), 0);
    at::Tensor dy = at::ones_like(y);
    dy.narrow(0, 5, 2).fill_(std::numeric_limits<double>::quiet_NaN());
    y.backward(dy);
    EXPECT_TRUE(w.main_grad.isfinite().all().item<bool>() && x.grad().isfinite().all().item<bool>());
  }
  {  // rows that pad an expert's share
    const ExpertPlan plan = plan_experts(at::tensor({0, 1, 0}, at::kInt).view({3, 1}), 2, 4, p);
    at::Tensor rows = at::full({plan.rows, 2}, std::numeric_limits<double>::quiet_NaN(), at::kFloat);
    for (int64_t t = 0; t < 3; ++t) rows[plan.row_of_slot_Tk[t][0].item<int32_t>()].fill_(static_cast<double>(t));
    EXPECT_TRUE(unpermute(rows, at::ones({3, 1}), plan, p).equal(at::arange(3, at::kFloat).view({3, 1}).expand({3, 2})));
  }
  {
    at::Tensor kv = at::randn({6, 4});
    kv[2].fill_(std::numeric_limits<double>::quiet_NaN());
    const at::Tensor indices = at::tensor({0, -1, 1, 0, 1, -1, 3, 0, 4, 1, 5, 3}, at::kInt).view({6, 2});
    EXPECT_TRUE(sparse_mla(at::randn({6, 2, 4}), {kv, 3}, indices, Packing::of({6}), 0.5, p).o_THV.isfinite().all().item<bool>());
  }
  {
    Weight w = weight("w", {4, 3});
    at::Tensor x = at::randn({5, 3});
    x[3].fill_(std::numeric_limits<double>::quiet_NaN());
    RouteOptions o;
    o.aux_loss = 0.1, o.z_loss = 0.1, o.valid_T = at::tensor({1, 1, 1, 0, 1}, at::kByte).to(at::kBool);
    const Routing r = route(x, w, o, p);
    EXPECT_TRUE(r.aux_loss.isfinite().all().item<bool>());
    EXPECT_TRUE(r.indices_Tk[3].equal(at::tensor({-1, -1}, at::kInt)));
    EXPECT_EQ(r.counts_E.sum().item<int64_t>(), 8);
  }
}

// 10,000 tokens: decays and skips that were rounded to bf16 on the way give other gradients.
TEST(Scan, RoundedDecaysAreToldApartOverTenThousandTokens) {
  const int64_t T = 10000;
  const auto op = [](bool rounded) -> Op {
    return [=](const Inputs& x, std::deque<Weight>&, const Policy& p) {
      const auto stored = [&](const at::Tensor& t) { return rounded ? t + (t.detach().to(at::kBFloat16).to(t.scalar_type()) - t.detach()) : t; };
      SsdInputs in;
      in.x_THP = x[0], in.dt_TH = at::sigmoid(x[1]) * 0.01, in.A_H = stored(-(x[2].exp())), in.B_TGN = x[3], in.C_TGN = x[4], in.D_H = stored(x[5]);
      return Inputs{ssd(in, Packing::of({static_cast<int32_t>(x[0].size(0))}), false, p).y_THP};
    };
  };
  Inputs x = draw({{T, 1, 2}, {T, 1}, {1}, {T, 1, 2}, {T, 1, 2}, {1}});
  EXPECT_TRUE(caught(x, {}, op(false), op(true), 1e-4));
}

TEST(Defaults, EpsIsWhatThePaperSays) {
  const MhcMapping mapping{};
  EXPECT_EQ(mapping.norm_eps, 1e-6);
  EXPECT_EQ(mapping.pre_eps, 1e-6);
  EXPECT_EQ(mapping.sinkhorn_eps, 1e-6);
  EXPECT_EQ(mapping.iterations, 20);
}

TEST(LargeLogits, AreHeldByEverySoftmax) {
  const Policy p = policy_on(at::kCPU);
  for (const double size : {1e2, 1e3, 1e4, -1e4}) {
    at::manual_seed(6);
    const at::Tensor x = at::randn({4, 6}) * size, y = at::randn({4, 6}) * size;
    EXPECT_TRUE(kl_divergence(x, y, 1, p).isfinite().all().item<bool>()) << size;
    EXPECT_TRUE(mhc_sinkhorn(at::randn({3, 4, 4}) * size, 20, 1e-6, p).isfinite().all().item<bool>()) << size;
    Weight w = weight("w", {6, 6});
    EXPECT_TRUE(route(x, w, {}, p).weights_Tk.isfinite().all().item<bool>()) << size;
    EXPECT_TRUE(attention(x.view({4, 1, 6}), y.view({4, 1, 6}), at::randn({4, 1, 6}), Packing::of({4}), {}, p).o_THV.isfinite().all().item<bool>()) << size;
  }
}

}  // namespace weft::ops::cases
