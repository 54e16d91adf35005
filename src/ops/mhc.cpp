#include "ops/aten.h"

#include "ops/mhc.h"

#include "kernels/mhc/mhc_map.h"
#include "kernels/mhc/mhc_mix.h"
#include "ops/composed.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using namespace kernels;

constexpr Candidate<MhcSinkhornFwd> kSinkhornFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_sinkhorn_fwd_sm90>, nullptr, mhc_sinkhorn_fwd_sm90},
#endif
    kAtenOnCpu<MhcSinkhornFwd>};
constexpr Candidate<MhcSinkhornBwd> kSinkhornBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_sinkhorn_bwd_sm90>, nullptr, mhc_sinkhorn_bwd_sm90},
#endif
    kAtenOnCpu<MhcSinkhornBwd>};
constexpr Candidate<MhcProjectFwd> kProjectFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_project_fwd_sm90>, workspace_mhc_project_fwd_sm90, mhc_project_fwd_sm90},
#endif
    kAtenOnCpu<MhcProjectFwd>};
constexpr Candidate<MhcProjectBwd> kProjectBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_project_bwd_sm90>, workspace_mhc_project_bwd_sm90, mhc_project_bwd_sm90},
#endif
    kAtenOnCpu<MhcProjectBwd>};
constexpr Candidate<MhcMapFwd> kMapFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_map_fwd_sm90>, nullptr, mhc_map_fwd_sm90},
#endif
    kAtenOnCpu<MhcMapFwd>};
constexpr Candidate<MhcMapBwd> kMapBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_map_bwd_sm90>, workspace_mhc_map_bwd_sm90, mhc_map_bwd_sm90},
#endif
    kAtenOnCpu<MhcMapBwd>};
constexpr Candidate<MhcAggregateFwd> kAggregateFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_aggregate_fwd_sm90>, nullptr, mhc_aggregate_fwd_sm90},
#endif
    kAtenOnCpu<MhcAggregateFwd>};
constexpr Candidate<MhcAggregateBwd> kAggregateBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_aggregate_bwd_sm90>, nullptr, mhc_aggregate_bwd_sm90},
#endif
    kAtenOnCpu<MhcAggregateBwd>};
constexpr Candidate<MhcPostFwd> kPostFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_post_fwd_sm90>, nullptr, mhc_post_fwd_sm90},
#endif
    kAtenOnCpu<MhcPostFwd>};
constexpr Candidate<MhcPostBwd> kPostBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<supports_mhc_post_bwd_sm90>, workspace_mhc_post_bwd_sm90, mhc_post_bwd_sm90},
#endif
    kAtenOnCpu<MhcPostBwd>};

int32_t i32(int64_t n) { return static_cast<int32_t>(n); }
at::Tensor like(const at::Tensor& t) { return at::empty(t.sizes(), t.options().requires_grad(false)); }
at::Tensor or_zeros(const at::Tensor& grad, at::IntArrayRef sizes, const at::TensorOptions& options) {
  return grad.defined() ? grad.contiguous() : at::zeros(sizes, options.requires_grad(false));
}
// Where a kernel adds a weight's gradient: main_grad itself; then `added` tells the weight.
float* grad_of(Weight* w) { return w != nullptr && w->wants_grad() ? floats(w->main_grad) : nullptr; }
void added(Weight* w) {
  if (w != nullptr && w->trainable) w->done();
}

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
    const at::Tensor l = unpack(logits), dh = grads[0].contiguous();
    MhcSinkhornBwd a{floats(dh), floats(l), nullptr, l.size(0), i32(l.size(1)), i32(iterations), static_cast<float>(eps), dtype_of(l)};
    if (const auto* c = select<MhcSinkhornBwd>("mhc_sinkhorn_bwd", kSinkhornBwd, a, policy); !composed(c)) {
      const at::Tensor d = like(l);
      a.dlogits = floats(d);
      run(*c, a, l);
      return {d};
    }
    const at::Tensor softmax = at::softmax(l.to(wide(l)), -1);
    at::Tensor g = dh.to(wide(l));
    const auto steps = sinkhorn_steps(softmax, iterations, eps);
    for (auto s = steps.rbegin(); s != steps.rend(); ++s) g = normalise_bwd(g, *s);
    return {(softmax * (g - (g * softmax).sum(-1, true))).to(l.scalar_type())};
  }
};

struct ProjectNode final : Node {  // outputs: proj, r
  SavedTensor x;
  at::Tensor norm, r;  // of the kernel's forward, else undefined
  Weight* w = nullptr;
  double eps = 0;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor x = unpack(this->x);
    const int64_t T = x.size(0), outs = w->value.size(0);
    MhcProjectBwd a{x.data_ptr(), floats(w->value), floats(norm), floats(r), nullptr, nullptr, nullptr, nullptr, nullptr, T, i32(x.size(1)), i32(outs), dtype_of(x)};
    if (const auto* c = select<MhcProjectBwd>("mhc_project_bwd", kProjectBwd, a, policy); !composed(c)) {
      const at::Tensor dproj = or_zeros(grads[0], {T, outs}, w->value.options()), dr = or_zeros(grads[1], {T}, w->value.options()), dx = like(x);
      if (a.norm == nullptr) throw InternalError("mhc_project_bwd: the forward kept no norm for the kernel");
      a.dproj = floats(dproj), a.dr = floats(dr), a.dx = dx.data_ptr(), a.dw = grad_of(w);
      run(*c, a, x);
      added(w);
      return {dx};
    }
    const at::Tensor v = x.to(wide(x)), norm = v.square().sum(-1, true).sqrt();
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

// [3] -> [n + n + n n], each as often as it scales an entry; sizes stay on the host.
at::Tensor each_of(const at::Tensor& alpha, int64_t n) {
  return at::cat({alpha.narrow(0, 0, 1).expand({n}), alpha.narrow(0, 1, 1).expand({n}), alpha.narrow(0, 2, 1).expand({n * n})});
}

struct MapNode final : Node {  // outputs: pre, post, res
  SavedTensor proj, r;
  Weight *alpha = nullptr, *bias = nullptr;
  int64_t n = 1;

  at::Tensor alpha_of_each() const { return each_of(alpha->value, n); }

  variable_list apply(variable_list&& grads) override {
    const at::Tensor proj = unpack(this->proj), r_T = unpack(this->r);
    const int64_t T = proj.size(0);
    MhcMapBwd k{floats(proj), floats(r_T), floats(alpha->value), floats(bias->value), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, T, i32(n), dtype_of(proj)};
    if (const auto* c = select<MhcMapBwd>("mhc_map_bwd", kMapBwd, k, policy); !composed(c)) {
      const at::Tensor dpre = or_zeros(grads[0], {T, n}, proj.options()), dpost = or_zeros(grads[1], {T, n}, proj.options()), dres = or_zeros(grads[2], {T, n, n}, proj.options());
      const at::Tensor dproj = like(proj), dr = like(r_T);
      k.dpre = floats(dpre), k.dpost = floats(dpost), k.dres = floats(dres), k.dproj = floats(dproj), k.dr = floats(dr), k.dalpha = grad_of(alpha), k.dbias = grad_of(bias);
      run(*c, k, proj);
      added(alpha), added(bias);
      return {dproj, dr};
    }
    const at::Tensor r = r_T.unsqueeze(1), a = alpha_of_each();
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
    const MhcAggregateGrads g = mhc_aggregate_bwd(grads[0].contiguous(), unpack(x), unpack(h), true, policy);
    return {g.dx, g.dh};
  }
};

struct PostNode final : Node {
  SavedTensor x, f, h, p;
  Weight* bias = nullptr;
  bool transposed = false;

  variable_list apply(variable_list&& grads) override {
    const MhcPostGrads g = mhc_post_bwd(grads[0].contiguous(), unpack(x), unpack(f), bias, unpack(h), unpack(p), transposed, true, policy);
    return {g.dx, g.df, g.dh, g.dp};
  }
};

void want(bool ok, const char* op, const char* what, const at::Tensor& got, const std::string& wanted) { check_shape(ok, op, what, describe(got), wanted); }

}  // namespace

at::Tensor mhc_sinkhorn(const at::Tensor& logits, int64_t iterations, double eps, const Policy& policy) {
  want(logits.dim() == 3 && logits.size(1) == logits.size(2) && logits.scalar_type() == wide(logits) && logits.is_contiguous(), "mhc_sinkhorn", "logits", logits, "[T, n, n] f32 contiguous");
  check_shape(iterations >= 1, "mhc_sinkhorn", "iterations", std::to_string(iterations), "1 or more");
  auto node = make_node<SinkhornNode>(policy, {logits}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  MhcSinkhornFwd a{floats(logits), nullptr, logits.size(0), i32(logits.size(1)), i32(iterations), static_cast<float>(eps), dtype_of(logits)};
  const auto* c = select<MhcSinkhornFwd>("mhc_sinkhorn", kSinkhornFwd, a, policy);
  at::Tensor m;
  if (composed(c)) {
    m = sinkhorn_steps(at::softmax(logits, -1), iterations, eps).back().y;
  } else {
    m = like(logits), a.h = floats(m);
    run(*c, a, logits);
  }
  if (node) node->logits = save(logits), node->iterations = iterations, node->eps = eps;
  return attach(node, m);
}

MhcProjected mhc_project(const at::Tensor& x, Weight& w, double eps, const Policy& policy) {
  want(x.dim() == 2 && w.value.dim() == 2 && x.size(1) == w.value.size(1) && x.size(1) > 0 && x.is_contiguous() && w.value.is_contiguous(), "mhc_project", "x", x, "[T, K] contiguous for w " + describe(w.value));
  want(w.value.scalar_type() == wide(x), "mhc_project", "dtype of w", w.value, "f32");
  auto node = make_node<ProjectNode>(policy, {x}, w.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  MhcProjectFwd a{x.data_ptr(), floats(w.value), nullptr, nullptr, nullptr, x.size(0), i32(x.size(1)), i32(w.value.size(0)), static_cast<float>(eps), dtype_of(x)};
  const auto* c = select<MhcProjectFwd>("mhc_project", kProjectFwd, a, policy);
  MhcProjected out;
  if (composed(c)) {
    const at::Tensor v = x.to(wide(x));
    out = {at::mm(v, w.value.t()), 1 / (v.square().sum(-1).sqrt() / std::sqrt(static_cast<double>(x.size(1))) + eps), {}};
  } else {
    const auto options = w.value.options().requires_grad(false);
    out = {at::empty({x.size(0), w.value.size(0)}, options), at::empty({x.size(0)}, options), at::empty({x.size(0)}, options)};
    a.proj = floats(out.proj_TO), a.norm = floats(out.norm_T), a.r = floats(out.r_T);
    run(*c, a, x);
    if (node) node->norm = out.norm_T, node->r = out.r_T.detach();
  }
  if (node) node->x = save(x), node->w = &w, node->eps = eps;
  return {attach(node, out.proj_TO), attach(node, out.r_T), out.norm_T};
}

MhcMapped mhc_map(const at::Tensor& proj, const at::Tensor& r, Weight& alpha, Weight& bias, int64_t n, double pre_eps, const Policy& policy) {
  const int64_t outs = n * n + 2 * n;
  want(proj.dim() == 2 && proj.size(1) == outs && proj.scalar_type() == wide(proj) && proj.is_contiguous() && r.is_contiguous(), "mhc_map", "proj", proj, "[T, " + std::to_string(outs) + "] f32 contiguous, as r");
  want(r.dim() == 1 && r.size(0) == proj.size(0) && r.scalar_type() == proj.scalar_type(), "mhc_map", "r", r, "[T] of " + describe(proj));
  want(alpha.value.numel() == 3 && alpha.value.scalar_type() == proj.scalar_type(), "mhc_map", "alpha", alpha.value, "[3] f32");
  want(bias.value.numel() == outs && bias.value.scalar_type() == proj.scalar_type(), "mhc_map", "bias", bias.value, "[" + std::to_string(outs) + "] f32");
  auto node = make_node<MapNode>(policy, {proj, r}, alpha.wants_grad() || bias.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  MhcMapFwd a{floats(proj), floats(r), floats(alpha.value), floats(bias.value), nullptr, nullptr, nullptr, proj.size(0), i32(n), static_cast<float>(pre_eps), dtype_of(proj)};
  const auto* c = select<MhcMapFwd>("mhc_map", kMapFwd, a, policy);
  MhcMapped out;
  if (!composed(c)) {
    const auto options = proj.options().requires_grad(false);
    out = {at::empty({proj.size(0), n}, options), at::empty({proj.size(0), n}, options), at::empty({proj.size(0), n, n}, options)};
    a.pre = floats(out.pre_Tn), a.post = floats(out.post_Tn), a.res = floats(out.res_Tnn);
    run(*c, a, proj);
  } else {
    const at::Tensor each = each_of(alpha.value, n);
    const at::Tensor hidden = r.unsqueeze(1) * proj * each + bias.value;
    out = {at::sigmoid(hidden.narrow(1, 0, n)) + pre_eps, 2 * at::sigmoid(hidden.narrow(1, n, n)), hidden.narrow(1, 2 * n, n * n).contiguous().view({-1, n, n})};
  }
  if (node) node->proj = save(proj), node->r = save(r), node->alpha = &alpha, node->bias = &bias, node->n = n;
  return {attach(node, out.pre_Tn), attach(node, out.post_Tn), attach(node, out.res_Tnn)};
}

MhcAggregateGrads mhc_aggregate_bwd(const at::Tensor& g, const at::Tensor& x, const at::Tensor& h, bool wants_dx, const Policy& policy) {
  MhcAggregateBwd a{g.data_ptr(), x.data_ptr(), floats(h), nullptr, nullptr, nullptr, x.size(0), i32(x.size(1)), i32(x.size(2)), dtype_of(x)};
  if (const auto* c = select<MhcAggregateBwd>("mhc_aggregate_bwd", kAggregateBwd, a, policy); !composed(c)) {
    const at::Tensor dx = wants_dx ? like(x) : at::Tensor(), dh = like(h);
    a.dx = address(dx), a.dh = floats(dh);
    run(*c, a, x);
    return {dx, dh};
  }
  const at::Tensor du = g.to(h.scalar_type()).unsqueeze(1);
  return {wants_dx ? (h.unsqueeze(2) * du).to(x.scalar_type()) : at::Tensor(), (du * x.to(h.scalar_type())).sum(-1)};
}

MhcPostGrads mhc_post_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& f, Weight* bias, const at::Tensor& h, const at::Tensor& p,
                          bool transposed, bool wants_dx, const Policy& policy) {
  MhcPostBwd a{dy.data_ptr(), x.data_ptr(), f.data_ptr(), bias != nullptr ? bias->value.data_ptr() : nullptr, floats(h), floats(p), nullptr, nullptr, nullptr, nullptr, nullptr,
               x.size(0), i32(x.size(1)), i32(x.size(2)), transposed, dtype_of(x)};
  if (const auto* c = select<MhcPostBwd>("mhc_post_bwd", kPostBwd, a, policy); !composed(c)) {
    const at::Tensor dx = wants_dx ? like(x) : at::Tensor(), df = like(f), dh = like(h), dp = like(p);
    a.dx = address(dx), a.df = df.data_ptr(), a.dh = floats(dh), a.dp = floats(dp), a.dbias = grad_of(bias);
    run(*c, a, x);
    added(bias);
    return {dx, df, dh, dp};
  }
  const auto t = h.scalar_type();
  const at::Tensor g = dy.to(t), xs = x.to(t), fb = bias != nullptr ? f.to(t) + bias->value.to(t) : f.to(t);
  const at::Tensor m = transposed ? h.transpose(1, 2) : h;
  const at::Tensor df = (p.unsqueeze(2) * g).sum(1), dm = at::matmul(g, xs.transpose(1, 2));
  if (bias != nullptr) bias->accumulate(df.sum(0));
  return {wants_dx ? at::matmul(m.transpose(1, 2), g).to(x.scalar_type()) : at::Tensor(), df.to(f.scalar_type()),
          transposed ? dm.transpose(1, 2).contiguous() : dm, (g * fb.unsqueeze(1)).sum(-1)};
}

at::Tensor mhc_aggregate(const at::Tensor& x, const at::Tensor& h, const Policy& policy) {
  want(x.dim() == 3 && x.is_contiguous() && h.is_contiguous(), "mhc_aggregate", "x", x, "[T, n, C] contiguous, as h");
  want(h.dim() == 2 && h.size(0) == x.size(0) && h.size(1) == x.size(1) && h.scalar_type() == wide(x), "mhc_aggregate", "h", h, "[T, n] f32 of " + describe(x));
  auto node = make_node<AggregateNode>(policy, {x, h}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  MhcAggregateFwd a{x.data_ptr(), floats(h), nullptr, x.size(0), i32(x.size(1)), i32(x.size(2)), dtype_of(x)};
  const auto* c = select<MhcAggregateFwd>("mhc_aggregate", kAggregateFwd, a, policy);
  at::Tensor u;
  if (composed(c)) {
    u = (h.unsqueeze(2) * x.to(wide(x))).sum(1).to(x.scalar_type());
  } else {
    u = at::empty({x.size(0), x.size(2)}, x.options().requires_grad(false)), a.u = u.data_ptr();
    run(*c, a, x);
  }
  if (node) node->x = save(x), node->h = save(h);
  return attach(node, u);
}

at::Tensor mhc_post(const at::Tensor& x, const at::Tensor& f, Weight* bias, const at::Tensor& h, const at::Tensor& p, bool transposed, const Policy& policy) {
  const char* op = "mhc_post";
  want(x.dim() == 3 && x.is_contiguous() && f.is_contiguous() && h.is_contiguous() && p.is_contiguous(), op, "x", x, "[T, n, C] contiguous, as f, h and p");
  want(f.dim() == 2 && f.size(0) == x.size(0) && f.size(1) == x.size(2) && f.scalar_type() == x.scalar_type(), op, "f", f, "[T, C] of " + describe(x));
  want(h.dim() == 3 && h.size(0) == x.size(0) && h.size(1) == x.size(1) && h.size(2) == x.size(1) && h.scalar_type() == wide(x), op, "h", h, "[T, n, n] f32 of " + describe(x));
  want(p.dim() == 2 && p.size(0) == x.size(0) && p.size(1) == x.size(1) && p.scalar_type() == wide(x), op, "p", p, "[T, n] f32 of " + describe(x));
  check_shape(bias == nullptr || (bias->value.numel() == x.size(2) && bias->value.scalar_type() == x.scalar_type()), op, "bias",
              bias == nullptr ? "none" : describe(bias->value), "[C] of " + describe(x));
  auto node = make_node<PostNode>(policy, {x, f, h, p}, bias != nullptr && bias->wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  MhcPostFwd a{x.data_ptr(), f.data_ptr(), bias != nullptr ? bias->value.data_ptr() : nullptr, floats(h), floats(p), nullptr, x.size(0), i32(x.size(1)), i32(x.size(2)), transposed, dtype_of(x)};
  const auto* c = select<MhcPostFwd>(op, kPostFwd, a, policy);
  at::Tensor y;
  if (composed(c)) {
    const auto t = wide(x);
    const at::Tensor fb = bias != nullptr ? f.to(t) + bias->value.to(t) : f.to(t);
    y = (at::matmul(transposed ? h.transpose(1, 2) : h, x.to(t)) + p.unsqueeze(2) * fb.unsqueeze(1)).to(x.scalar_type());
  } else {
    y = like(x), a.y = y.data_ptr();
    run(*c, a, x);
  }
  if (node) node->x = save(x), node->f = save(f), node->h = save(h), node->p = save(p), node->bias = bias, node->transposed = transposed;
  return attach(node, y);
}

}  // namespace weft::ops
