// One table: for every layer kind there is, documents packed into one row give the losses, outputs and gradients that each gives
// alone. Layers run as the branches of a decoder; operators that no layer uses yet run by themselves. fp32.
#include "ops/aten.h"

#include <gtest/gtest.h>

#include <deque>

#include "nn/decoder.h"
#include "nn/init.h"
#include "ops/attention.h"
#include "ops/conv1d.h"
#include "ops/delta.h"
#include "ops/indexer.h"
#include "ops/m2rnn.h"
#include "ops/mamba3.h"
#include "ops/sparse_mla.h"
#include "ops/ssd.h"

namespace weft {
namespace {

const std::vector<int32_t> kLengths{1, 70, 3, 130, 17};  // below, at and above the chunks of scans; one token alone

ops::Policy policy() {
  ops::Policy p;
  p.device = ops::this_cpu();
  p.reference_allowed = {"*"};
  return p;
}

struct Run {  // of one packing
  double loss = 0, size = 0;         // sum over tokens of c . y, and of |c . y|
  at::Tensor out;                    // [T, ...]
  std::vector<at::Tensor> d_inputs;  // [T, ...] each
  std::vector<at::Tensor> d_weights;
};
using Runner = std::function<Run(const std::vector<int32_t>& lengths, int64_t first)>;  // tokens [first, first + sum) of the whole row

double relative(const at::Tensor& a, const at::Tensor& b) {
  const double largest = b.abs().max().item<double>();
  return (a - b).abs().max().item<double>() / std::max(largest, 1e-30);
}

// A row of the table, and what it asserts.
void compare(const char* kind, const Runner& run) {
  const Run packed = run(kLengths, 0);
  Run parts;
  std::vector<at::Tensor> outs;
  std::vector<std::vector<at::Tensor>> d_inputs(packed.d_inputs.size());
  int64_t first = 0;
  for (int32_t n : kLengths) {
    const Run one = run({n}, first);
    parts.loss += one.loss, parts.size += one.size;
    outs.push_back(one.out);
    for (size_t i = 0; i < one.d_inputs.size(); ++i) d_inputs[i].push_back(one.d_inputs[i]);
    for (size_t i = 0; i < one.d_weights.size(); ++i) {
      if (parts.d_weights.size() <= i) parts.d_weights.push_back(one.d_weights[i].clone());
      else parts.d_weights[i] += one.d_weights[i];
    }
    first += n;
  }
  const double loss = std::abs(packed.loss - parts.loss) / std::max(parts.size, 1e-30);
  const double out = relative(packed.out, at::cat(outs));
  double d_in = 0, d_w = 0;
  for (size_t i = 0; i < d_inputs.size(); ++i) d_in = std::max(d_in, relative(packed.d_inputs[i], at::cat(d_inputs[i])));
  for (size_t i = 0; i < parts.d_weights.size(); ++i) d_w = std::max(d_w, relative(packed.d_weights[i], parts.d_weights[i]));
  std::printf("  %-34s %9.1e %9.1e %9.1e %9.1e\n", kind, loss, out, d_in, d_w);
  EXPECT_LE(loss, 1e-6) << kind;
  EXPECT_LE(out, 1e-6) << kind;
  EXPECT_LE(d_in, 1e-6) << kind;
  EXPECT_LE(d_w, 1e-6) << kind;
}

int64_t total() {
  int64_t n = 0;
  for (int32_t l : kLengths) n += l;
  return n;
}
std::vector<int32_t> positions_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> out;
  for (int32_t n : lengths)
    for (int32_t i = 0; i < n; ++i) out.push_back(i);
  return out;
}

// A decoder of one branch: embedding, branch, head. The figures compared are those of its language model loss.
Runner layer(nn::BranchConfig branch) {
  if (auto* moe = std::get_if<nn::MoeConfig>(&branch)) moe->aux_loss = moe->z_loss = 0;  // means over the row, not sums over tokens
  if (auto* mamba = std::get_if<nn::Mamba2Config>(&branch)) mamba->head_dim = 16, mamba->state_dim = 16, mamba->num_groups = 2;
  nn::ModelConfig c;
  c.model_dim = 64, c.vocab_size = 61;
  auto model = std::make_shared<nn::Decoder>(c, std::vector<nn::BranchConfig>{branch});
  nn::materialize(*model, {at::kCPU, at::kFloat, 7});
  at::manual_seed(3);
  const at::Tensor tokens = at::randint(0, 61, {total()}, at::kLong), targets = at::randint(0, 61, {total()}, at::kLong);
  return [=](const std::vector<int32_t>& lengths, int64_t first) {
    auto ctx = std::make_shared<nn::Ctx>();
    ctx->packing = ops::Packing::of(lengths);
    const int64_t n = ctx->packing.tokens();
    ctx->tokens_T = tokens.slice(0, first, first + n), ctx->targets_T = targets.slice(0, first, first + n);
    ctx->loss_weights_T = at::ones({n});
    ctx->loss_weight_sum = static_cast<double>(n);
    ctx->positions_T = at::tensor(positions_of(lengths), at::kInt);
    ctx->loss_scale.lm = 1;
    ctx->ops = policy();
    model->visit_params([](nn::Param& p) { p.weight.main_grad = at::zeros(p.weight.value.sizes(), at::kFloat); });
    const nn::Flow flow = (*model)(nn::Flow{}, ctx);
    flow.loss.backward();
    Run r;
    r.loss = r.size = flow.loss.item<double>();
    r.out = flow.x_TD.detach();
    model->visit_params([&](nn::Param& p) { r.d_weights.push_back(p.weight.main_grad.clone()); });
    return r;
  };
}

using Op = std::function<at::Tensor(const std::vector<at::Tensor>& inputs, std::deque<ops::Weight>&, const ops::Packing&)>;

Runner op(std::vector<at::Tensor> inputs, std::vector<at::Tensor> weights, Op call) {
  auto held = std::make_shared<std::deque<ops::Weight>>();
  for (const at::Tensor& w : weights) held->emplace_back(), held->back().value = w;
  return [inputs, held, call](const std::vector<int32_t>& lengths, int64_t first) {
    const ops::Packing packing = ops::Packing::of(lengths);
    std::vector<at::Tensor> own;
    for (const at::Tensor& t : inputs) own.push_back(t.slice(0, first, first + packing.tokens()).clone().set_requires_grad(t.is_floating_point()));
    for (ops::Weight& w : *held) w.main_grad = at::zeros(w.value.sizes(), at::kFloat);
    const at::Tensor y = call(own, *held, packing);
    at::manual_seed(11);
    std::vector<int64_t> shape = y.sizes().vec();
    shape[0] = total();
    const at::Tensor c = at::randn(shape).slice(0, first, first + packing.tokens());
    (y * c).sum().backward();
    Run r;
    const at::Tensor terms = (y.detach() * c).to(at::kDouble);
    r.loss = terms.sum().item<double>(), r.size = terms.abs().sum().item<double>();
    r.out = y.detach();
    for (const at::Tensor& t : own)
      if (t.grad().defined()) r.d_inputs.push_back(t.grad());
    for (const ops::Weight& w : *held) r.d_weights.push_back(w.main_grad.clone());
    return r;
  };
}

at::Tensor rows(std::vector<int64_t> shape) {
  shape.insert(shape.begin(), total());
  return at::randn(shape);
}
at::Tensor unit(const at::Tensor& x) { return x / x.norm(2, -1, true); }

TEST(Packed, EqualsTheSumOfItsPartsForEveryLayerKind) {
  at::manual_seed(1);
  std::printf("  documents of");
  for (int32_t n : kLengths) std::printf(" %d", n);
  std::printf(" tokens; largest relative difference of\n  %-34s %9s %9s %9s %9s\n", "", "loss", "outputs", "d inputs", "d weights");

  nn::GqaConfig plain, grouped;
  plain.num_heads = 4;
  grouped.num_heads = 4, grouped.num_kv_heads = 2, grouped.window = 9, grouped.qk_norm = true;
  compare("attention", layer(plain));
  compare("attention, window 9, QK-norm, GQA", layer(grouped));
  // The kinds that a pattern can name, each with its own settings: a new one joins by itself.
  for (const auto& [letter, branch] : nn::ModelConfig::default_symbols()) {
    const std::string name = "layer '" + std::string(1, letter) + "' " + std::visit([](const auto& b) { return std::string(std::decay_t<decltype(b)>::kKind); }, branch);
    compare(name.c_str(), layer(branch));
  }
  nn::MoeConfig sigmoid;
  sigmoid.num_experts = 4, sigmoid.top_k = 2, sigmoid.ffn_dim = 32, sigmoid.shared_ffn_dim = 32;
  compare("layer moe with a shared expert", layer(sigmoid));

  const ops::Policy p = policy();
  compare("op causal conv1d + SiLU", op({rows({12})}, {at::randn({12, 4}), at::randn({12})}, [&](const auto& x, auto& w, const auto& pack) {
            return ops::causal_conv1d(x[0], w[0], &w[1], true, pack, {}, false, p).y_TC;
          }));
  compare("op SSD (Mamba-2)", op({rows({4, 8}), at::softplus(rows({4})), rows({2, 16}), rows({2, 16})}, {}, [&](const auto& x, auto&, const auto& pack) {
            return ops::ssd({x[0], x[1], -at::arange(1, 5).to(at::kFloat) / 4, x[2], x[3], at::ones({4}), {}}, pack, false, p).y_THP;
          }));
  for (int64_t rank : {1, 2}) {
    const ops::Mamba3Shape s{4, 2, 8, 16, rank, 6};
    std::vector<at::Tensor> w{at::randn({4}), at::ones({16}), at::ones({16}), at::randn({4, rank, 16}), at::randn({4, rank, 16}), at::randn({4})};
    for (int i = 0; i < 3 && rank > 1; ++i) w.push_back(at::randn({4, rank, 8}));
    compare(rank == 1 ? "op Mamba-3 SISO" : "op Mamba-3 MIMO rank 2", op({rows({s.projected()})}, w, [=](const auto& x, auto& v, const auto& pack) {
              const bool mimo = v.size() > 6;
              return ops::mamba3(x[0], s, {v[0], v[1], v[2], v[3], v[4], mimo ? &v[6] : nullptr, mimo ? &v[7] : nullptr, mimo ? &v[8] : nullptr, &v[5]}, {}, pack, nullptr, p);
            }));
  }
  const auto delta = [&](auto call) {
    return [=](const auto& x, auto&, const auto& pack) {
      ops::DeltaInputs in;
      in.q = unit(x[0]), in.k = unit(x[1]), in.v = x[2], in.g = -at::softplus(x[3]), in.beta = at::sigmoid(x[4]);
      if (x.size() > 5) in.write = at::sigmoid(x[5]);
      return call(in, pack, false, p).o;
    };
  };
  compare("op gated delta rule", op({rows({2, 16}), rows({2, 16}), rows({4, 8}), rows({4}), rows({4})}, {}, delta(ops::gated_delta)));
  compare("op gated delta rule 2", op({rows({2, 16}), rows({2, 16}), rows({2, 8}), rows({2, 16}), rows({2, 16}), rows({2, 8})}, {}, delta(ops::gated_delta2)));
  compare("op gated delta product, 2 steps", op({rows({2, 16}), rows({2, 2, 16}), rows({2, 4, 8}), rows({4}), rows({2, 4})}, {}, delta(ops::gated_delta_product)));
  compare("op M2RNN", op({rows({16}), rows({16}), rows({2, 8}), rows({2})}, {}, [&](const auto& x, auto&, const auto& pack) {
            const at::Tensor W = at::eye(8).unsqueeze(0).repeat({2, 1, 1}) * 0.5;
            return ops::m2rnn({x[0], x[1], x[2], at::sigmoid(x[3]), W, at::ones({2, 8}), {}}, pack, false, p).y_THV;
          }));
  compare("op MLA absorbed, dense indices", op({rows({4, 24}), rows({24})}, {}, [&](const auto& x, auto&, const auto& pack) {
            const int64_t n = pack.tokens();
            const at::Tensor all = at::arange(n, at::kInt).unsqueeze(0).repeat({n, 1});
            return ops::sparse_mla(x[0], {x[1], 16}, all, pack, 0.2, p).o_THV;
          }));
  compare("op DSA: indexer's choice of 12 keys", op({rows({4, 24}), rows({24}), rows({2, 8}), rows({8}), rows({2})}, {}, [&](const auto& x, auto&, const auto& pack) {
            const at::Tensor chosen = ops::indexer_topk({x[2].detach(), x[3].detach(), x[4].detach()}, pack, 12, p);
            return ops::sparse_mla(x[0], {x[1], 16}, chosen, pack, 0.2, p).o_THV;
          }));
  ops::AttentionOptions both;
  both.causal = false, both.window_left = 5, both.window_right = 3;
  compare("op attention, not causal, window", op({rows({4, 16}), rows({2, 16}), rows({2, 16})}, {}, [&](const auto& x, auto&, const auto& pack) {
            return ops::attention(x[0], x[1], x[2], pack, both, p).o_THV;
          }));
  compare("op attention with sinks", op({rows({4, 16}), rows({2, 16}), rows({2, 16})}, {at::randn({4})}, [&](const auto& x, auto& w, const auto& pack) {
            ops::AttentionOptions o;
            o.sinks = &w[0];
            return ops::attention(x[0], x[1], x[2], pack, o, p).o_THV;
          }));
}

}  // namespace
}  // namespace weft
