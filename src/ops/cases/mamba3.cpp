#include "ops/aten.h"

#include "ops/mamba3.h"

#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

struct Row {
  const char* name;
  std::vector<int32_t> lengths;
  Mamba3Shape s;
  bool mimo, heavy_tail, large;
};

Case mamba3_row(const Row& r) {
  Case c{"mamba3", r.name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const Packing packing = Packing::of(r.lengths, b.device);
           const Mamba3Shape& s = r.s;
           const auto options = at::TensorOptions().dtype(b.dtype).device(b.device), f32 = options.dtype(b.dtype == at::kDouble ? at::kDouble : at::kFloat);
           const auto near = [&](double middle, std::vector<int64_t> shape) { return at::randn(shape, f32) * 0.3 + middle; };
           Instance i;
           i.inputs = {at::randn({packing.tokens(), s.projected()}, options)};
           i.weights.push_back({"dt_bias", near(-2, {s.heads}), {}});
           i.weights.push_back({"B_norm", near(1, {s.state_dim}), {}}), i.weights.push_back({"C_norm", near(1, {s.state_dim}), {}});
           i.weights.push_back({"B_bias", near(1, {s.heads, s.rank, s.state_dim}), {}}), i.weights.push_back({"C_bias", near(1, {s.heads, s.rank, s.state_dim}), {}});
           i.weights.push_back({"D", near(1, {s.heads}), {}});
           if (r.mimo)
             for (const char* name : {"mimo_x", "mimo_z", "mimo_o"}) i.weights.push_back({name, near(0.5, {s.heads, s.rank, s.head_dim}), {}});
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             const auto at_or_null = [&](size_t k) { return r.mimo ? &w[k] : nullptr; };
             Mamba3Options o;
             o.heavy_tail = r.heavy_tail;
             return std::vector<at::Tensor>{mamba3(x[0], s, {w[0], w[1], w[2], w[3], w[4], at_or_null(6), at_or_null(7), at_or_null(8), &w[5]}, o, packing, nullptr, p)};
           };
           const double T = static_cast<double>(packing.tokens()), pn = static_cast<double>(s.head_dim * s.state_dim), m = 64;  // rows of a chunk
           const double flops = T * static_cast<double>(s.heads * s.rank) * (4 * pn + m * static_cast<double>(2 * s.state_dim + 2 * s.head_dim));
           const double moved = T * static_cast<double>(s.projected() + s.inner()) * static_cast<double>(i.inputs[0].element_size());
           i.cost = {flops, moved, 2.5 * flops, 2 * moved};
           return i;
         }};
  c.grad = !r.large, c.perf = r.large, c.check = !r.large;
  if (c.grad && r.s.state_dim >= 64) c.grad = false, c.grad_why_not = "the smaller rows differentiate the same node";  // this one is for the kernels' shape
  return c;
}

// A decode step: `rows` documents of one token, each with a state that goes in and comes out.
Case step_row(const char* name, int64_t rows, const Mamba3Shape& s, bool large) {
  Case c{"mamba3", name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const Packing packing = Packing::of(std::vector<int32_t>(static_cast<size_t>(rows), 1), b.device);
           const auto options = at::TensorOptions().dtype(b.dtype).device(b.device), f32 = options.dtype(b.dtype == at::kDouble ? at::kDouble : at::kFloat);
           Instance i;
           i.inputs = {at::randn({rows, s.projected()}, options), at::randn({rows, s.heads, s.head_dim, s.state_dim}, f32) * 0.3, at::rand({rows, s.heads, s.angles}, f32) * 6,
                       at::randn({rows, s.heads, s.rank, s.state_dim}, f32), at::randn({rows, s.heads, s.head_dim}, f32)};
           const auto small = [&](const char* name, double middle, std::vector<int64_t> shape) {
             i.weights.push_back({name, at::randn(shape, f32) * 0.3 + middle, {}});
             i.weights.back().trainable = false;
           };
           small("dt_bias", -2, {s.heads}), small("B_norm", 1, {s.state_dim}), small("C_norm", 1, {s.state_dim}), small("B_bias", 1, {s.heads, s.rank, s.state_dim}), small("C_bias", 1, {s.heads, s.rank, s.state_dim});
           small("D", 1, {s.heads}), small("mimo_x", 0.5, {s.heads, s.rank, s.head_dim}), small("mimo_z", 0.5, {s.heads, s.rank, s.head_dim}), small("mimo_o", 0.5, {s.heads, s.rank, s.head_dim});
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             Mamba3State state{x[1].detach(), x[2].detach(), x[3].detach(), x[4].detach()};
             const at::Tensor o = mamba3(x[0].detach(), s, {w[0], w[1], w[2], w[3], w[4], &w[6], &w[7], &w[8], &w[5]}, {}, packing, &state, p);
             return std::vector<at::Tensor>{o, state.h_nHPN, state.k_nHRN, state.x_nHP};
           };
           i.cost = {0, 8.0 * static_cast<double>(rows * s.heads * s.head_dim * s.state_dim), 0, 0};
           return i;
         }};
  c.grad = false, c.grad_why_not = "a decode step keeps no graph", c.perf = large, c.check = !large;
  return c;
}

}  // namespace

std::vector<Case> mamba3_cases() {
  const std::vector<Case> rows = {
      mamba3_row({"siso packed 1+7+0+3", {1, 7, 0, 3}, {2, 1, 3, 6, 1, 2}, false, false, false}),
      mamba3_row({"siso mimo weights 18 heavy tail", {18}, {2, 2, 2, 4, 1, 1}, true, true, false}),
      mamba3_row({"rank 2 packed 5+19", {5, 19}, {4, 2, 2, 4, 2, 1}, true, false, false}),
      mamba3_row({"rank 4 all turn", {6}, {2, 1, 3, 4, 4, 2}, true, false, false}),
      mamba3_row({"one token", {1}, {1, 1, 2, 2, 2, 1}, true, false, false}),
      mamba3_row({"no token", {0}, {2, 1, 2, 4, 2, 1}, true, false, false}),
      step_row("decode 3 h2 rank 2", 3, {2, 1, 3, 4, 2, 1}, false),
      step_row("decode 2 h4 p64 n128 rank 4", 2, {4, 2, 64, 128, 4, 32}, false),
      step_row("decode 256 h128 p64 n128 rank 4", 256, {128, 8, 64, 128, 4, 32}, true),
      mamba3_row({"70+9 h2 p64 n128 rank 4", {70, 9}, {2, 1, 64, 128, 4, 32}, true, false, false}),
      mamba3_row({"8x4096 h128 p64 n128 g8 rank 4", std::vector<int32_t>(8, 4096), {128, 8, 64, 128, 4, 32}, true, false, true}),
      mamba3_row({"8x4096 h128 p64 n128 g8 siso", std::vector<int32_t>(8, 4096), {128, 8, 64, 128, 1, 32}, false, false, true}),
  };
  return by_dtype(rows, 1e-2);
}

}  // namespace weft::ops::cases
