#include "ops/aten.h"

#include "ops/ssd.h"

#include "ops/cases/rows.h"
#include "ops/mamba2.h"
#include "ops/tensors.h"

namespace weft::ops::cases {
namespace {

struct Row {
  const char* name;
  std::vector<int32_t> lengths;
  int64_t heads, groups, head_dim, state_dim;
  bool states, large;
};

// The dual, quadratic form, document by document, matmuls in x's dtype: (y, final states). in: x, dt, A, B, C, D, initial states or undefined.
std::vector<at::Tensor> plain_ssd(const std::vector<at::Tensor>& in, const Packing& packing) {
  const int64_t H = in[0].size(1), share = H / in[3].size(1);
  const auto type = in[0].scalar_type();
  std::vector<at::Tensor> y, last;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t first = packing.host_cu_q[d], n = packing.host_cu_q[d + 1] - first;
    const auto rows = [&](const at::Tensor& t) { return t.narrow(0, first, n).transpose(0, 1); };  // [H, n, ...]
    const at::Tensor x = rows(in[0]), dt = rows(in[1]), B = rows(in[3]).repeat_interleave(share, 0), C = rows(in[4]).repeat_interleave(share, 0);
    const at::Tensor cs = at::cumsum(dt * in[2].unsqueeze(1), 1), seen = at::ones({n, n}, dt.options().dtype(at::kBool).requires_grad(false)).tril();
    const at::Tensor decay = (cs.unsqueeze(2) - cs.unsqueeze(1)).masked_fill(seen.logical_not(), -1e30).exp();
    const at::Tensor m = at::matmul(C, B.transpose(1, 2)) * (decay * dt.unsqueeze(1)).to(type);
    at::Tensor out = at::matmul(m, x);
    const at::Tensor end = n > 0 ? cs.narrow(1, n - 1, 1) : at::zeros({H, 1}, cs.options());
    at::Tensor S = at::matmul((x * (dt * (end - cs).exp()).to(type).unsqueeze(2)).transpose(1, 2), B).to(dt.scalar_type());
    if (in.size() > 6 && in[6].defined()) {
      out = out + at::matmul(C * cs.exp().to(type).unsqueeze(2), in[6][d].to(type).transpose(1, 2));
      S = S + end.exp().unsqueeze(2) * in[6][d];
    }
    y.push_back((out + x * in[5].to(type).view({H, 1, 1})).transpose(0, 1));
    last.push_back(S);
  }
  return {at::cat(y, 0), at::stack(last)};
}

std::vector<at::Tensor> plain_mamba2(const at::Tensor& in, const std::vector<at::Tensor>& w, const Mamba2Shape& s, const Packing& packing) {
  const at::Tensor raw = in.narrow(1, s.inner(), s.channels());
  std::vector<at::Tensor> conv;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t first = packing.host_cu_q[d], n = packing.host_cu_q[d + 1] - first, W = w[0].size(1);
    const at::Tensor x = at::cat({at::zeros({W - 1, s.channels()}, in.options().requires_grad(false)), raw.narrow(0, first, n)}, 0);
    at::Tensor a = w[1].expand({n, s.channels()});
    for (int64_t j = 0; j < W; ++j) a = a + x.narrow(0, j, n) * w[0].select(1, j);
    conv.push_back(at::silu(a));
  }
  const at::Tensor c = at::cat(conv, 0);
  const int64_t T = in.size(0), bc = s.groups * s.state_dim;
  const auto wider = w[2].scalar_type();
  return {plain_ssd({c.narrow(1, 0, s.inner()).view({T, s.heads, s.head_dim}), at::softplus(in.narrow(1, s.inner() + s.channels(), s.heads).to(wider) + w[3]), -w[2].exp(),
                     c.narrow(1, s.inner(), bc).view({T, s.groups, s.state_dim}), c.narrow(1, s.inner() + bc, bc).view({T, s.groups, s.state_dim}), w[4]}, packing)[0].flatten(1),
          in.narrow(1, 0, s.inner())};
}

Case ssd_row(const Row& r) {
  Case c{"ssd", r.name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const Packing packing = Packing::of(r.lengths, b.device);
           const int64_t T = packing.tokens(), H = r.heads;
           const auto options = at::TensorOptions().dtype(b.dtype).device(b.device), f32 = options.dtype(b.dtype == at::kDouble ? at::kDouble : at::kFloat);
           Instance i;
           i.inputs = {at::randn({T, H, r.head_dim}, options), at::rand({T, H}, f32) * 0.2 + 0.01, -(at::rand({H}, f32) * 4 + 0.5),
                       at::randn({T, r.groups, r.state_dim}, options), at::randn({T, r.groups, r.state_dim}, options), at::randn({H}, f32)};
           if (r.states) i.inputs.push_back(at::randn({packing.documents(), H, r.head_dim, r.state_dim}, f32));
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             const SsdOut out = ssd({x[0], x[1], x[2], x[3], x[4], x[5], r.states ? x[6] : at::Tensor()}, packing, r.states, p);
             return r.states ? std::vector<at::Tensor>{out.y_THP, out.final_state_nHPN} : std::vector<at::Tensor>{out.y_THP};
           };
           i.plain = [=](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>&) {
             std::vector<at::Tensor> out = plain_ssd(x, packing);
             if (!r.states) out.pop_back();
             return out;
           };
           const double n = static_cast<double>(T * H), pn = static_cast<double>(r.head_dim * r.state_dim), L = 64;
           const double flops = n * (4 * pn + L * static_cast<double>(r.head_dim + r.state_dim));
           const double moved = static_cast<double>(T * (2 * H * r.head_dim + 2 * r.groups * r.state_dim)) * static_cast<double>(i.inputs[0].element_size());
           i.cost = {flops, moved, 2.5 * flops, 2 * moved};
           return i;
         }};
  c.grad = !r.large, c.perf = r.large, c.check = !r.large;
  return c;
}

Case mamba2_row(const char* name, std::vector<int32_t> lengths, Mamba2Shape s, bool large) {
  Case c{"mamba2", name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const Packing packing = Packing::of(lengths, b.device);
           const auto options = at::TensorOptions().dtype(b.dtype).device(b.device), f32 = options.dtype(b.dtype == at::kDouble ? at::kDouble : at::kFloat);
           Instance i;
           i.inputs = {at::randn({packing.tokens(), s.projected()}, options)};
           i.weights.push_back({"conv_w", at::randn({s.channels(), 4}, options) * 0.5, {}});
           i.weights.push_back({"conv_b", at::randn({s.channels()}, options) * 0.5, {}});
           i.weights.push_back({"A_log", at::rand({s.heads}, f32), {}});
           i.weights.push_back({"dt_bias", at::randn({s.heads}, f32) - 2, {}});
           i.weights.push_back({"D", at::randn({s.heads}, f32), {}});
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             const Mamba2Out out = mamba2(x[0], s, {w[0], &w[1], w[2], w[3], &w[4]}, packing, nullptr, p);
             return std::vector<at::Tensor>{out.y_TI, out.z_TI};
           };
           i.plain = [=](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) { return plain_mamba2(x[0], w, s, packing); };
           const double moved = static_cast<double>(packing.tokens()) * static_cast<double>(s.projected() + 2 * s.inner()) * static_cast<double>(i.inputs[0].element_size());
           i.cost = {0, moved, 0, 2 * moved};
           return i;
         }};
  c.grad = !large, c.perf = large, c.check = !large;
  return c;
}

}  // namespace

std::vector<Case> ssd_cases() {
  std::vector<Case> all = {
      ssd_row({"packed 1+5+0+3 states", {1, 5, 0, 3}, 4, 2, 3, 5, true, false}),
      ssd_row({"70 h2 g1", {70}, 2, 1, 4, 4, false, false}),
      ssd_row({"one token", {1}, 2, 2, 2, 2, true, false}),
      ssd_row({"no token", {0}, 2, 1, 2, 2, false, false}),
      ssd_row({"130+64 h4 p64 n64", {130, 64}, 4, 2, 64, 64, true, false}),
      ssd_row({"200 p40 n72", {200}, 2, 2, 40, 72, false, false}),
      ssd_row({"4x1024 h24 p64 n64", {1024, 1024, 1024, 1024}, 24, 1, 64, 64, false, true}),
      ssd_row({"8x4096 h128 g8 p64 n128", std::vector<int32_t>(8, 4096), 128, 8, 64, 128, false, true})};
  all[4].grad = all[5].grad = false;
  all.push_back(mamba2_row("packed 4+9", {4, 9}, {4, 2, 3, 5}, false));
  all.push_back(mamba2_row("66", {66}, {2, 1, 2, 3}, false));
  all.push_back(mamba2_row("4x1024 h24 p64 n64", {1024, 1024, 1024, 1024}, {24, 1, 64, 64}, true));
  for (Case& c : all)
    if (!c.grad && !c.perf) c.grad_why_not = "too large for finite differences; a smaller row stands beside it";
  return by_dtype(all, 4e-3);
}

}  // namespace weft::ops::cases
