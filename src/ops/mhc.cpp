#include "ops/aten.h"

#include "ops/mhc.h"

#include "kernels/mhc/mhc_map.h"
#include "kernels/mhc/mhc_mix.h"
#include "ops/composed.h"
#include "ops/node.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using namespace kernels;

constexpr Candidate<MhcSinkhornFwd> kSinkhorn[] = {kAtenOnCpu<MhcSinkhornFwd>};
constexpr Candidate<MhcProjectFwd> kProject[] = {kAtenOnCpu<MhcProjectFwd>};
constexpr Candidate<MhcMapFwd> kMap[] = {kAtenOnCpu<MhcMapFwd>};
constexpr Candidate<MhcAggregateFwd> kAggregate[] = {kAtenOnCpu<MhcAggregateFwd>};
constexpr Candidate<MhcPostFwd> kPost[] = {kAtenOnCpu<MhcPostFwd>};

// y = m / (sum of m over `dim` + eps); its gradient is (g - sum(g y)) / (sum + eps).
struct Normalised {
  at::Tensor y, divisor;
  int64_t dim;
};
Normalised normalise(const at::Tensor& m, int64_t dim, double eps) {
  const at::Tensor divisor = m.sum(dim, true) + eps;
  return {m / divisor, divisor, dim};
}
at::Tensor normalise_bwd(const at::Tensor& g, const Normalised& n) { return (g - (g * n.y).sum(n.dim, true)) / n.divisor; }

std::vector<Normalised> sinkhorn_steps(const at::Tensor& softmax, int64_t iterations, double eps) {
  std::vector<Normalised> steps{normalise(softmax + eps, -2, eps)};
  for (int64_t i = 1; i < iterations; ++i) {
    steps.push_back(normalise(steps.back().y, -1, eps));
    steps.push_back(normalise(steps.back().y, -2, eps));
  }
  return steps;
}

struct SinkhornNode final : Node {
  SavedTensor logits;
  int64_t iterations = 1;
  double eps = 0;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor l = unpack(logits), softmax = at::softmax(l.to(wide(l)), -1);
    at::Tensor g = grads[0].to(wide(l));
    const auto steps = sinkhorn_steps(softmax, iterations, eps);
    for (auto s = steps.rbegin(); s != steps.rend(); ++s) g = normalise_bwd(g, *s);
    return {(softmax * (g - (g * softmax).sum(-1, true))).to(l.scalar_type())};
  }
};

struct ProjectNode final : Node {  // outputs: proj, r
  SavedTensor x;
  Weight* w = nullptr;
  double eps = 0;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor x = unpack(this->x), v = x.to(wide(x)), norm = v.square().sum(-1, true).sqrt();
    const double root = std::sqrt(static_cast<double>(x.size(1)));
    at::Tensor dx = at::zeros_like(v);
    if (grads[0].defined()) dx = dx + at::mm(grads[0].to(v.scalar_type()), w->value.to(v.scalar_type()));
    if (grads[1].defined()) {
      const at::Tensor r = 1 / (norm / root + eps), slope = grads[1].to(v.scalar_type()).unsqueeze(1) * r.square() / (root * norm);
      dx = dx - at::where(norm > 0, slope, at::zeros_like(slope)) * v;  // at x = 0 the norm has no slope to follow
    }
    w->accumulate(grads[0].defined() ? at::mm(grads[0].to(v.scalar_type()).t(), v) : at::zeros_like(w->value));
    return {dx.to(x.scalar_type())};
  }
};

struct MapNode final : Node {  // outputs: pre, post, res
  SavedTensor proj, r;
  Weight *alpha = nullptr, *bias = nullptr;
  int64_t n = 1;

  at::Tensor alpha_of_each() const { return alpha->value.repeat_interleave(at::tensor({n, n, n * n}, alpha->value.options().dtype(at::kLong))); }

  variable_list apply(variable_list&& grads) override {
    const at::Tensor proj = unpack(this->proj), r = unpack(this->r).unsqueeze(1), a = alpha_of_each();
    const at::Tensor s = at::sigmoid((r * proj * a + bias->value).narrow(1, 0, 2 * n));
    at::Tensor dh = at::zeros_like(proj);
    if (grads[0].defined()) dh.narrow(1, 0, n).copy_(grads[0]);
    if (grads[1].defined()) dh.narrow(1, n, n).copy_(2 * grads[1]);
    dh.narrow(1, 0, 2 * n).mul_(s * (1 - s));
    if (grads[2].defined()) dh.narrow(1, 2 * n, n * n).copy_(grads[2].reshape({-1, n * n}));
    const at::Tensor each = (dh * r * proj).sum(0);
    alpha->accumulate(at::stack({each.narrow(0, 0, n).sum(), each.narrow(0, n, n).sum(), each.narrow(0, 2 * n, n * n).sum()}));
    bias->accumulate(dh.sum(0));
    return {r * a * dh, (dh * a * proj).sum(1)};
  }
};

struct AggregateNode final : Node {
  SavedTensor x, h;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor x = unpack(this->x), h = unpack(this->h), du = grads[0].to(h.scalar_type()).unsqueeze(1);
    return {(h.unsqueeze(2) * du).to(x.scalar_type()), (du * x.to(h.scalar_type())).sum(-1)};
  }
};

struct PostNode final : Node {
  SavedTensor x, f, h, p;
  Weight* bias = nullptr;
  bool transposed = false;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor x = unpack(this->x), h = unpack(this->h), p = unpack(this->p), f = unpack(this->f);
    const auto t = h.scalar_type();
    const at::Tensor g = grads[0].to(t), xs = x.to(t), fb = bias != nullptr ? f.to(t) + bias->value.to(t) : f.to(t);
    const at::Tensor m = transposed ? h.transpose(1, 2) : h;
    const at::Tensor df = (p.unsqueeze(2) * g).sum(1), dm = at::matmul(g, xs.transpose(1, 2));
    if (bias != nullptr) bias->accumulate(df.sum(0));
    return {at::matmul(m.transpose(1, 2), g).to(x.scalar_type()), df.to(f.scalar_type()),
            transposed ? dm.transpose(1, 2).contiguous() : dm, (g * fb.unsqueeze(1)).sum(-1)};
  }
};

void want(bool ok, const char* op, const char* what, const at::Tensor& got, const std::string& wanted) { check_shape(ok, op, what, describe(got), wanted); }

}  // namespace

at::Tensor mhc_sinkhorn(const at::Tensor& logits, int64_t iterations, double eps, const Policy& policy) {
  want(logits.dim() == 3 && logits.size(1) == logits.size(2) && logits.scalar_type() == wide(logits), "mhc_sinkhorn", "logits", logits, "[T, n, n] f32");
  check_shape(iterations >= 1, "mhc_sinkhorn", "iterations", std::to_string(iterations), "1 or more");
  auto node = make_node<SinkhornNode>(policy, {logits}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  MhcSinkhornFwd a{};
  a.tokens = logits.size(0), a.n = static_cast<int32_t>(logits.size(1)), a.iterations = static_cast<int32_t>(iterations), a.eps = static_cast<float>(eps);
  select<MhcSinkhornFwd>("mhc_sinkhorn", kSinkhorn, a, policy);
  const at::Tensor m = sinkhorn_steps(at::softmax(logits, -1), iterations, eps).back().y;
  if (node) node->logits = save(logits), node->iterations = iterations, node->eps = eps;
  return attach(node, m);
}

MhcProjected mhc_project(const at::Tensor& x, Weight& w, double eps, const Policy& policy) {
  want(x.dim() == 2 && w.value.dim() == 2 && x.size(1) == w.value.size(1) && x.size(1) > 0, "mhc_project", "x", x, "[T, K] for w " + describe(w.value));
  want(w.value.scalar_type() == wide(x), "mhc_project", "dtype of w", w.value, "f32");
  auto node = make_node<ProjectNode>(policy, {x}, w.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  MhcProjectFwd a{};
  a.tokens = x.size(0), a.k = static_cast<int32_t>(x.size(1)), a.num_out = static_cast<int32_t>(w.value.size(0)), a.dtype = dtype_of(x);
  select<MhcProjectFwd>("mhc_project", kProject, a, policy);
  const at::Tensor v = x.to(wide(x));
  MhcProjected out{at::mm(v, w.value.t()), 1 / (v.square().sum(-1).sqrt() / std::sqrt(static_cast<double>(x.size(1))) + eps)};
  if (node) node->x = save(x), node->w = &w, node->eps = eps;
  return {attach(node, out.proj_TO), attach(node, out.r_T)};
}

MhcMapped mhc_map(const at::Tensor& proj, const at::Tensor& r, Weight& alpha, Weight& bias, int64_t n, double pre_eps, const Policy& policy) {
  const int64_t outs = n * n + 2 * n;
  want(proj.dim() == 2 && proj.size(1) == outs && proj.scalar_type() == wide(proj), "mhc_map", "proj", proj, "[T, " + std::to_string(outs) + "] f32");
  want(r.dim() == 1 && r.size(0) == proj.size(0) && r.scalar_type() == proj.scalar_type(), "mhc_map", "r", r, "[T] of " + describe(proj));
  want(alpha.value.numel() == 3 && alpha.value.scalar_type() == proj.scalar_type(), "mhc_map", "alpha", alpha.value, "[3] f32");
  want(bias.value.numel() == outs && bias.value.scalar_type() == proj.scalar_type(), "mhc_map", "bias", bias.value, "[" + std::to_string(outs) + "] f32");
  auto node = make_node<MapNode>(policy, {proj, r}, alpha.wants_grad() || bias.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  MhcMapFwd a{};
  a.tokens = proj.size(0), a.n = static_cast<int32_t>(n);
  select<MhcMapFwd>("mhc_map", kMap, a, policy);
  const at::Tensor each = alpha.value.repeat_interleave(at::tensor({n, n, n * n}, alpha.value.options().dtype(at::kLong)));
  const at::Tensor hidden = r.unsqueeze(1) * proj * each + bias.value;
  MhcMapped out{at::sigmoid(hidden.narrow(1, 0, n)) + pre_eps, 2 * at::sigmoid(hidden.narrow(1, n, n)),
                hidden.narrow(1, 2 * n, n * n).contiguous().view({-1, n, n})};
  if (node) node->proj = save(proj), node->r = save(r), node->alpha = &alpha, node->bias = &bias, node->n = n;
  return {attach(node, out.pre_Tn), attach(node, out.post_Tn), attach(node, out.res_Tnn)};
}

at::Tensor mhc_aggregate(const at::Tensor& x, const at::Tensor& h, const Policy& policy) {
  want(x.dim() == 3, "mhc_aggregate", "x", x, "[T, n, C]");
  want(h.dim() == 2 && h.size(0) == x.size(0) && h.size(1) == x.size(1) && h.scalar_type() == wide(x), "mhc_aggregate", "h", h, "[T, n] f32 of " + describe(x));
  auto node = make_node<AggregateNode>(policy, {x, h}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  MhcAggregateFwd a{};
  a.tokens = x.size(0), a.n = static_cast<int32_t>(x.size(1)), a.dim = static_cast<int32_t>(x.size(2)), a.dtype = dtype_of(x);
  select<MhcAggregateFwd>("mhc_aggregate", kAggregate, a, policy);
  const at::Tensor u = (h.unsqueeze(2) * x.to(wide(x))).sum(1).to(x.scalar_type());
  if (node) node->x = save(x), node->h = save(h);
  return attach(node, u);
}

at::Tensor mhc_post(const at::Tensor& x, const at::Tensor& f, Weight* bias, const at::Tensor& h, const at::Tensor& p, bool transposed, const Policy& policy) {
  const char* op = "mhc_post";
  want(x.dim() == 3, op, "x", x, "[T, n, C]");
  want(f.dim() == 2 && f.size(0) == x.size(0) && f.size(1) == x.size(2) && f.scalar_type() == x.scalar_type(), op, "f", f, "[T, C] of " + describe(x));
  want(h.dim() == 3 && h.size(0) == x.size(0) && h.size(1) == x.size(1) && h.size(2) == x.size(1) && h.scalar_type() == wide(x), op, "h", h, "[T, n, n] f32 of " + describe(x));
  want(p.dim() == 2 && p.size(0) == x.size(0) && p.size(1) == x.size(1) && p.scalar_type() == wide(x), op, "p", p, "[T, n] f32 of " + describe(x));
  check_shape(bias == nullptr || (bias->value.numel() == x.size(2) && bias->value.scalar_type() == x.scalar_type()), op, "bias",
              bias == nullptr ? "none" : describe(bias->value), "[C] of " + describe(x));
  auto node = make_node<PostNode>(policy, {x, f, h, p}, bias != nullptr && bias->wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  MhcPostFwd a{};
  a.tokens = x.size(0), a.n = static_cast<int32_t>(x.size(1)), a.dim = static_cast<int32_t>(x.size(2)), a.transposed = transposed, a.dtype = dtype_of(x);
  select<MhcPostFwd>(op, kPost, a, policy);
  const auto t = wide(x);
  const at::Tensor fb = bias != nullptr ? f.to(t) + bias->value.to(t) : f.to(t);
  const at::Tensor y = (at::matmul(transposed ? h.transpose(1, 2) : h, x.to(t)) + p.unsqueeze(2) * fb.unsqueeze(1)).to(x.scalar_type());
  if (node) node->x = save(x), node->f = save(f), node->h = save(h), node->p = save(p), node->bias = bias, node->transposed = transposed;
  return attach(node, y);
}

}  // namespace weft::ops
