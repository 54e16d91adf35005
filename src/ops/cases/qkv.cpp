#include "ops/aten.h"

#include "ops/qkv.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"
#include "ops/qk_norm.h"

namespace weft::ops::cases {
namespace {

struct Row {
  const char* name;
  int64_t tokens, heads, kv_heads, head_dim, rotated;
  bool norm, small;
};

Case make(const Row& r) {
  Case c{"qkv", r.name, {at::kFloat, at::kBFloat16}, [r](const Build& b) {
           at::manual_seed(b.seed);
           const auto options = at::TensorOptions().dtype(b.dtype).device(b.device);
           const int64_t width = (r.heads + 2 * r.kv_heads) * r.head_dim;
           const at::Tensor positions = at::randint(0, 64, {r.tokens}, at::TensorOptions().dtype(at::kInt).device(b.device));
           const RopeTable rope = r.rotated > 0 ? rope_table({r.rotated, 10000}, 64, b.device) : RopeTable{};
           Instance i;
           i.inputs = {at::randn({r.tokens, width}, options)};
           if (r.norm) i.weights.push_back({"q_norm", at::randn({r.head_dim}, options), {}}), i.weights.push_back({"k_norm", at::randn({r.head_dim}, options), {}});
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             const QkvOptions o{r.heads, r.kv_heads, r.norm ? &w[0] : nullptr, r.norm ? &w[1] : nullptr, 1e-5, rope};
             const Qkv y = qkv(x[0], positions, o, p);
             return std::vector<at::Tensor>{y.q_THd, y.k_TGd, y.v_TGd};
           };
           const double numbers = static_cast<double>(r.tokens * width), moved = numbers * static_cast<double>(i.inputs[0].element_size());
           i.cost = {8 * numbers, 2 * moved, 16 * numbers, (r.norm ? 3 : 2) * moved};
           return i;
         }};
  c.grad = r.small, c.perf = !r.small;
  return c;
}

}  // namespace

// Heads of a projection that also holds something else: `apart` more channels a token.
std::vector<Case> qk_norm_cases() {
  const auto row = [](std::string name, int64_t tokens, int64_t heads, int64_t dim, int64_t apart, bool l2, bool large) {
    Case c{"qk_norm", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             i.inputs = {normal(b, {tokens, heads * dim + apart})};
             if (!l2) i.weights.push_back({"w", normal(b, {dim}), {}});
             i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
               const at::Tensor part = apart > 0 ? x[0].narrow(1, 0, heads * dim) : x[0];
               return std::vector<at::Tensor>{qk_norm(part.view({tokens, heads, dim}), l2 ? nullptr : &w[0], 1e-5, p)};
             };
             const double moved = static_cast<double>(tokens * heads * dim) * static_cast<double>(i.inputs[0].element_size());
             i.cost = {0, 2 * moved, 0, 3 * moved};
             if (!l2 && apart == 0) i.peer = "at::rms_norm", i.peer_op = [=](const Tensors& x, const Tensors& w) {
               return Tensors{at::rms_norm(x[0].view({tokens, heads, dim}), {dim}, w[0], 1e-5)};
             };
             return i;
           }};
    c.grad = !large, c.perf = large, c.check = !large;
    if (dim == 1) c.atol = 2e-2;  // dx is what eps leaves of two equal terms
    return c;
  };
  return {row("9x3x20", 9, 3, 20, 0, false, false),    row("9x2x16 of 40", 9, 2, 16, 8, false, false),     row("7x3x8 l2", 7, 3, 8, 0, true, false),
          row("1x1x1", 1, 1, 1, 0, false, false),      row("0x2x8", 0, 2, 8, 0, false, false),              row("32768x32x128", 32768, 32, 128, 0, false, true),
          row("32768x16x128 l2", 32768, 16, 128, 0, true, true)};
}

std::vector<Case> qkv_cases() {
  std::vector<Case> all;
  for (const Row& r : {Row{"5 h4g2 d8 norm", 5, 4, 2, 8, 8, true, true}, Row{"3 h3g1 d6 partial rope", 3, 3, 1, 6, 4, false, true},
                       Row{"7 h2g2 d4 split only", 7, 2, 2, 4, 0, false, true}, Row{"0 h2g1 d4", 0, 2, 1, 4, 4, true, true},
                       Row{"65 h1g1 d16 norm only", 65, 1, 1, 16, 0, true, true}, Row{"8192 h32g8 d128 norm", 8192, 32, 8, 128, 128, true, false}})
    all.push_back(make(r));
  return all;
}

}  // namespace weft::ops::cases
