#include "ops/aten.h"

#include <cmath>

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"
#include "ops/delta.h"
#include "ops/m2rnn.h"

namespace weft::ops::cases {
namespace {

at::TensorOptions f32(const Build& b) { return at::TensorOptions().dtype(b.dtype == at::kDouble ? at::kDouble : at::kFloat).device(b.device); }
at::TensorOptions data(const Build& b) { return at::TensorOptions().dtype(b.dtype).device(b.device); }
at::Tensor unit(const at::Tensor& x) { return (x.to(at::kDouble) / x.to(at::kDouble).norm(2, {-1}, true)).to(x.scalar_type()); }

struct Row {
  const char* name;
  std::vector<int32_t> lengths;
  int64_t key_heads, heads, key_dim, dim;
  bool states, large;
};

enum class Rule { kGated, kGated2, kProduct };

Case delta_row(Rule rule, const Row& r) {
  const char* name = rule == Rule::kGated ? "gated_delta" : rule == Rule::kGated2 ? "gated_delta2" : "gated_delta_product";
  Case c{name, r.name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const Packing packing = Packing::of(r.lengths, b.device);
           const int64_t T = packing.tokens(), steps = 3;
           const bool two = rule == Rule::kGated2, product = rule == Rule::kProduct;
           const auto stepped = [&](std::vector<int64_t> shape) {
             if (product) shape.insert(shape.begin() + 1, steps);
             return shape;
           };
           const std::vector<int64_t> gate = two ? std::vector<int64_t>{T, r.heads, r.key_dim} : std::vector<int64_t>{T, r.heads};
           Instance i;
           i.inputs = {unit(at::randn({T, r.key_heads, r.key_dim}, data(b))), unit(at::randn(stepped({T, r.key_heads, r.key_dim}), data(b))), at::randn(stepped({T, r.heads, r.dim}), data(b)),
                       -at::rand(gate, f32(b)) * 0.5, at::rand(two ? gate : stepped(gate), f32(b))};
           if (two) i.inputs.push_back(at::rand({T, r.heads, r.dim}, f32(b)));
           if (r.states) i.inputs.push_back(at::randn({packing.documents(), r.heads, r.key_dim, r.dim}, f32(b)) * 0.3);
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             DeltaInputs in{x[0], x[1], x[2], x[3], x[4], {}, {}, 1 / std::sqrt(static_cast<double>(r.key_dim))};
             if (two) in.write = x[5];
             if (r.states) in.initial_state = x.back();
             const DeltaOut out = rule == Rule::kGated ? gated_delta(in, packing, r.states, p) : two ? gated_delta2(in, packing, r.states, p) : gated_delta_product(in, packing, r.states, p);
             return r.states ? std::vector<at::Tensor>{out.o, out.final_state} : std::vector<at::Tensor>{out.o};
           };
           const double flops = static_cast<double>(T * r.heads) * (6.0 * r.key_dim * r.dim + 64.0 * (2 * r.key_dim + 2 * r.dim));
           const double moved = static_cast<double>(T * (2 * r.key_heads * r.key_dim + 2 * r.heads * r.dim)) * static_cast<double>(i.inputs[0].element_size());
           i.cost = {flops, moved, 2.5 * flops, 2 * moved};
           return i;
         }};
  c.grad = !r.large, c.perf = r.large, c.check = !r.large;
  if (c.grad && r.key_dim >= 64) c.grad = false, c.grad_why_not = "the smaller rows differentiate the same node";  // this one is for the kernels' shape
  return c;
}

Case m2rnn_row(const Row& r) {
  Case c{"m2rnn", r.name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const Packing packing = Packing::of(r.lengths, b.device);
           const int64_t T = packing.tokens(), H = r.heads, K = r.key_dim, V = r.dim;
           Instance i;
           i.inputs = {at::randn({T, K}, data(b)), at::randn({T, K}, data(b)), at::randn({T, H, V}, data(b)), at::rand({T, H}, f32(b)) * 0.9 + 0.05, at::randn({H, V, V}, f32(b)) * 0.3, at::randn({H, V}, f32(b))};
           if (r.states) i.inputs.push_back(at::randn({packing.documents(), H, K, V}, f32(b)) * 0.3);
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             const M2rnnOut out = m2rnn({x[0], x[1], x[2], x[3], x[4], x[5], r.states ? x[6] : at::Tensor()}, packing, r.states, p);
             return r.states ? std::vector<at::Tensor>{out.y_THV, out.final_nHKV} : std::vector<at::Tensor>{out.y_THV};
           };
           const double flops = static_cast<double>(T * H) * (2.0 * K * V * V + 4.0 * K * V), moved = static_cast<double>(T * (2 * K + 2 * H * V)) * static_cast<double>(i.inputs[0].element_size());
           i.cost = {flops, moved, 3 * flops, 2 * moved};
           return i;
         }};
  c.grad = !r.large, c.perf = r.large, c.check = !r.large;
  if (c.grad && r.key_dim >= 64) c.grad = false, c.grad_why_not = "the smaller rows differentiate the same node";  // this one is for the kernels' shape
  return c;
}

Case mixer_row(const char* name, std::vector<int32_t> lengths, M2rnnShape s, bool large = false) {
  const Case c{"m2rnn_mixer", name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
            at::manual_seed(b.seed);
            const Packing packing = Packing::of(lengths, b.device);
            Instance i;
            i.inputs = {at::randn({packing.tokens(), s.projected()}, data(b))};
            i.weights.push_back({"conv_w", at::randn({s.channels(), 4}, data(b)) * 0.5, {}});
            i.weights.push_back({"conv_b", at::randn({s.channels()}, data(b)) * 0.5, {}});
            i.weights.push_back({"A_log", at::randn({s.heads}, f32(b)) - 1, {}});
            i.weights.push_back({"dt_bias", at::randn({s.heads}, f32(b)), {}});
            i.weights.push_back({"W", at::randn({s.heads, s.value_dim, s.value_dim}, f32(b)) * 0.4, {}});
            i.weights.push_back({"D", at::randn({s.heads, s.value_dim}, f32(b)), {}});
            i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
              const M2rnnMixed out = m2rnn_mixer(x[0], s, {w[0], &w[1], w[2], w[3], w[4], &w[5]}, packing, nullptr, p);
              return std::vector<at::Tensor>{out.y_TI, out.gate_TI};
            };
            const double moved = static_cast<double>(packing.tokens()) * static_cast<double>(s.projected() + s.heads * s.value_dim) * static_cast<double>(i.inputs[0].element_size());
            i.cost = {0, moved, 0, 2 * moved};
            return i;
          }};
  return large ? timed(c) : c;
}

}  // namespace

std::vector<Case> recurrent_cases() {
  const std::vector<Case> rows = {
      delta_row(Rule::kGated, {"packed 1+5+0+3 states", {1, 5, 0, 3}, 2, 4, 4, 3, true, false}),
      delta_row(Rule::kGated, {"67", {67}, 1, 2, 3, 4, false, false}),
      delta_row(Rule::kGated, {"one token", {1}, 1, 1, 2, 2, true, false}),
      delta_row(Rule::kGated, {"no token", {0}, 1, 2, 2, 2, false, false}),
      delta_row(Rule::kGated, {"70+9 h2 d128 states", {70, 9}, 1, 2, 128, 128, true, false}),
      delta_row(Rule::kGated, {"decode 3 h2 d128", {1, 1, 1}, 1, 2, 128, 128, true, false}),
      delta_row(Rule::kGated, {"8x4096 h32 d128", std::vector<int32_t>(8, 4096), 16, 32, 128, 128, false, true}),
      delta_row(Rule::kGated2, {"packed 1+4+0+3 states", {1, 4, 0, 3}, 2, 2, 4, 3, true, false}),
      delta_row(Rule::kGated2, {"9", {9}, 3, 3, 3, 4, false, false}),
      delta_row(Rule::kGated2, {"8x4096 h32 d128", std::vector<int32_t>(8, 4096), 32, 32, 128, 128, false, true}),
      delta_row(Rule::kProduct, {"packed 2+3 states", {2, 3}, 1, 2, 3, 4, true, false}),
      m2rnn_row({"packed 1+5+0+3 states", {1, 5, 0, 3}, 1, 3, 4, 3, true, false}),
      m2rnn_row({"66", {66}, 1, 2, 3, 2, false, false}),
      m2rnn_row({"no token", {0}, 1, 2, 3, 2, false, false}),
      m2rnn_row({"70+9 h2 k64 v16 states", {70, 9}, 1, 2, 64, 16, true, false}),
      m2rnn_row({"decode 3 h2 k64 v16", {1, 1, 1}, 1, 2, 64, 16, true, false}),
      m2rnn_row({"8x4096 h51 k64 v16", std::vector<int32_t>(8, 4096), 1, 51, 64, 16, false, true}),
      mixer_row("packed 3+6", {3, 6}, {2, 4, 3}),
      mixer_row("8x4096 h51 k64 v16", std::vector<int32_t>(8, 4096), {51, 64, 16}, true),
  };
  return by_dtype(rows, 1e-2);
}

}  // namespace weft::ops::cases
