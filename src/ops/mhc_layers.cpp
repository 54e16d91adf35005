#include "ops/aten.h"

#include "ops/mhc_layers.h"

#include <cmath>

#include "kernels/mhc/mhc_layer.h"
#include "ops/composed.h"
#include "ops/mhc.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::MhcLayerBwd;

// "parts" has no function of its own: the expression below.
constexpr Candidate<MhcLayerBwd> kLayerBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_mhc_layer_bwd_sm90>,
     kernels::workspace_mhc_layer_bwd_sm90, kernels::mhc_layer_bwd_sm90},
#endif
    {"parts", supports_aten_on_cpu<MhcLayerBwd>, nullptr, nullptr},
};

int32_t i32(int64_t n) { return static_cast<int32_t>(n); }
at::Tensor like(const at::Tensor& t) { return at::empty(t.sizes(), t.options().requires_grad(false)); }

struct Mapped {  // of one layer's mapping: what its forward gives, and what its backward reads
  at::Tensor pre, post, mix;
  at::Tensor proj, r, norm;
};

Mapped finish_mapping(const MhcProjected& p, int64_t n, const MhcMapping& m, const Policy& policy) {
  const MhcMapped h = mhc_map(p.proj_TO, p.r_T, *m.alpha, *m.bias, n, m.pre_eps, policy);
  return {h.pre_Tn, h.post_Tn, mhc_sinkhorn(h.res_Tnn, m.iterations, m.sinkhorn_eps, policy), p.proj_TO, p.r_T, p.norm_T};
}

at::Tensor wide_norm(const at::Tensor& x_TK) { return x_TK.to(wide(x_TK)).square().sum(-1).sqrt(); }

// The gradient of a layer's streams x: through its mapping and aggregate, and M^T of `g`, which the layer's end handed down as it came.
at::Tensor streams_gradient(const at::Tensor& x_TnC, const at::Tensor& g_in, const at::Tensor& du_in, const at::Tensor& dpost, const at::Tensor& dmix,
                            const Mapped& m, const MhcMapping& mapping, const Policy& policy) {
  const int64_t T = x_TnC.size(0), n = x_TnC.size(1), C = x_TnC.size(2);
  const auto or_zeros = [](const at::Tensor& grad, const at::Tensor& of) { return grad.defined() ? grad.contiguous() : at::zeros(of.sizes(), of.options().requires_grad(false)); };
  const at::Tensor g = or_zeros(g_in, x_TnC), du = or_zeros(du_in, x_TnC.select(1, 0));
  const at::Tensor dpre = mhc_aggregate_bwd(du, x_TnC, m.pre, false, of_parts(policy)).dh;
  at::Tensor dproj, dr;
  {  // the mapping once more, with a graph: it is 24 numbers a token
    const at::AutoGradMode on(true);
    const at::Tensor proj = m.proj.detach().requires_grad_(), r = m.r.detach().requires_grad_();
    const Mapped again = finish_mapping({proj, r, {}}, n, mapping, of_parts(policy));
    const auto grads = gradients_of({again.pre, again.post, again.mix}, {proj, r}, {dpre, or_zeros(dpost, m.post), or_zeros(dmix, m.mix)});
    dproj = grads[0].contiguous(), dr = grads[1].contiguous();
  }
  Weight& w = *mapping.w_OK;
  MhcLayerBwd a{{x_TnC.data_ptr(), floats(w.value), floats(m.norm), floats(m.r), floats(dproj), floats(dr), nullptr, nullptr, nullptr, T, i32(n * C), i32(w.value.size(0)),
                 dtype_of(x_TnC)}, g.data_ptr(), du.data_ptr(), floats(m.mix), floats(m.pre), i32(n), i32(C), mapping.transposed};
  if (const auto* c = select<MhcLayerBwd>("mhc_layer_bwd", kLayerBwd, a, policy); !composed(c)) {
    const at::Tensor dx = like(x_TnC);
    a.project.dx = dx.data_ptr(), a.project.dw = w.wants_grad() ? floats(w.main_grad) : nullptr;
    run(*c, a, x_TnC);
    if (w.trainable) w.done();
    return dx;
  }
  const at::Tensor v = x_TnC.view({T, n * C}).to(wide(x_TnC)), norm = wide_norm(v).unsqueeze(1);
  const double root = std::sqrt(static_cast<double>(n * C));
  const at::Tensor slope = dr.unsqueeze(1) * m.r.square().unsqueeze(1) / (root * norm);
  const at::Tensor through_mapping = at::mm(dproj, w.value) - at::where(norm > 0, slope, at::zeros_like(slope)) * v;
  const at::Tensor mixed = at::matmul(mapping.transposed ? m.mix : m.mix.transpose(1, 2), g.to(v.scalar_type()));
  w.accumulate(at::mm(dproj.t(), v));
  return (mixed + m.pre.unsqueeze(2) * du.to(v.scalar_type()).unsqueeze(1) + through_mapping.view({T, n, C})).to(x_TnC.scalar_type());
}

struct BeginNode final : Node {  // outputs: x handed on, u, post, mix
  SavedTensor x;
  Mapped mapped;
  MhcMapping mapping;

  variable_list apply(variable_list&& grads) override {
    return {streams_gradient(unpack(x), grads[0], grads[1], grads[2], grads[3], mapped, mapping, policy)};
  }
};

struct NextNode final : Node {  // inputs: x, f, mix, post; outputs: x', u', post', mix'
  SavedTensor x, f, mix, post, x_next;
  Mapped mapped;
  MhcMapping mapping;
  Weight* f_bias = nullptr;
  bool transposed = false;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor d_next = streams_gradient(unpack(x_next), grads[0], grads[1], grads[2], grads[3], mapped, mapping, policy);
    const MhcPostGrads g = mhc_post_bwd(d_next, unpack(x), unpack(f), f_bias, unpack(mix), unpack(post), transposed, false, of_parts(policy));
    return {d_next, g.df, g.dh, g.dp};
  }
};

struct EndNode final : Node {  // inputs: x, f, mix, post
  SavedTensor x, f, mix, post;
  Weight* f_bias = nullptr;
  bool transposed = false;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    const MhcPostGrads g = mhc_post_bwd(dy, unpack(x), unpack(f), f_bias, unpack(mix), unpack(post), transposed, false, of_parts(policy));
    return {dy, g.df, g.dh, g.dp};
  }
};

bool wants(const Weight* w) { return w != nullptr && w->wants_grad(); }

void check_mapping(const char* op, const at::Tensor& x, const MhcMapping& m) {
  check_shape(x.dim() == 3 && x.is_contiguous(), op, "streams", describe(x), "[T, n, C] contiguous");
  check_shape(m.w_OK != nullptr && m.alpha != nullptr && m.bias != nullptr, op, "mapping", "a weight that is not there", "w, alpha and bias");
  const int64_t n = x.size(1);
  check_shape(m.w_OK->value.dim() == 2 && m.w_OK->value.size(0) == n * n + 2 * n && m.w_OK->value.size(1) == n * x.size(2), op, "w", describe(m.w_OK->value),
              "[" + std::to_string(n * n + 2 * n) + ", " + std::to_string(n * x.size(2)) + "] for streams " + describe(x));
}

}  // namespace

MhcStreams mhc_begin(const at::Tensor& x, const MhcMapping& mapping, const Policy& policy) {
  check_mapping("mhc_begin", x, mapping);
  auto node = make_node<BeginNode>(policy, {x}, wants(mapping.w_OK) || wants(mapping.alpha) || wants(mapping.bias));
  const at::NoGradGuard no_grad;
  const Policy parts = of_parts(policy);
  const at::Tensor value = x.detach();
  const Mapped m = finish_mapping(mhc_project(value.view({x.size(0), x.size(1) * x.size(2)}), *mapping.w_OK, mapping.norm_eps, parts), x.size(1), mapping, parts);
  MhcStreams s;
  s.u_ = mhc_aggregate(value, m.pre, parts), s.transposed_ = mapping.transposed;
  if (node) node->x = save(x), node->mapped = m, node->mapping = mapping;
  s.x_ = attach(node, value), s.u_ = attach(node, s.u_), s.post_ = attach(node, m.post.detach()), s.mix_ = attach(node, m.mix.detach());
  return s;
}

MhcStreams mhc_next(const MhcStreams& before, const at::Tensor& f, Weight* f_bias, const MhcMapping& mapping, const Policy& policy) {
  const char* op = "mhc_next";
  const at::Tensor &x = before.x_, &mix = before.mix_, &post = before.post_;
  check_mapping(op, x, mapping);
  check_shape(f.dim() == 2 && f.size(0) == x.size(0) && f.size(1) == x.size(2) && f.scalar_type() == x.scalar_type() && f.is_contiguous(), op, "f", describe(f), "[T, C] of " + describe(x));
  auto node = make_node<NextNode>(policy, {x, f, mix, post}, wants(f_bias) || wants(mapping.w_OK) || wants(mapping.alpha) || wants(mapping.bias));
  const at::NoGradGuard no_grad;
  const Policy parts = of_parts(policy);
  const int64_t n = x.size(1);
  const at::Tensor y = mhc_post(x.detach(), f.detach(), f_bias, mix.detach(), post.detach(), before.transposed_, parts);
  const MhcProjected p = mhc_project(y.view({x.size(0), n * x.size(2)}), *mapping.w_OK, mapping.norm_eps, parts);
  const Mapped m = finish_mapping(p, n, mapping, parts);
  MhcStreams s;
  s.u_ = mhc_aggregate(y, m.pre, parts), s.transposed_ = mapping.transposed;
  if (node) {
    node->x = save(x), node->f = save(f), node->mix = save(mix), node->post = save(post), node->f_bias = f_bias, node->transposed = before.transposed_;
    node->mapped = m, node->mapping = mapping;
  }
  s.x_ = attach(node, y), s.u_ = attach(node, s.u_), s.post_ = attach(node, m.post.detach()), s.mix_ = attach(node, m.mix.detach());
  if (node) node->x_next = SavedTensor(s.x_, /*is_output=*/true);
  return s;
}

at::Tensor mhc_end(const MhcStreams& before, const at::Tensor& f, Weight* f_bias, const Policy& policy) {
  const at::Tensor &x = before.x_, &mix = before.mix_, &post = before.post_;
  auto node = make_node<EndNode>(policy, {x, f, mix, post}, wants(f_bias));
  const at::NoGradGuard no_grad;
  const at::Tensor y = mhc_post(x.detach(), f.detach(), f_bias, mix.detach(), post.detach(), before.transposed_, of_parts(policy));
  if (node) node->x = save(x), node->f = save(f), node->mix = save(mix), node->post = save(post), node->f_bias = f_bias, node->transposed = before.transposed_;
  return attach(node, y);
}

}  // namespace weft::ops
