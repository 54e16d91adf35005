#include "ops/aten.h"

#include "ops/qkv.h"

#include "kernels/qkv/qkv.h"
#include "ops/address.h"
#include "ops/node.h"
#include "ops/rmsnorm.h"
#include "ops/run.h"

namespace weft::ops {
namespace {

using kernels::QkvBwd;
using kernels::QkvFwd;

// -- reference ---------------------------------------------------------------------------------------------------------

// Turns pairs (i, i + R/2) of x [T, H, d] by +angle, or by -angle for the backward.
at::Tensor turn(const at::Tensor& x, const RopeTable& table, const at::Tensor& positions_T, bool back) {
  const at::Tensor rows = positions_T.to(at::kLong);
  const at::Tensor c = table.cos_PF.index_select(0, rows).to(x.scalar_type()).unsqueeze(1);
  const at::Tensor sin = table.sin_PF.index_select(0, rows).to(x.scalar_type()).unsqueeze(1), s = back ? -sin : sin;
  const int64_t half = c.size(2);
  const at::Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half), rest = x.narrow(-1, 2 * half, x.size(-1) - 2 * half);
  return at::cat({a * c - b * s, b * c + a * s, rest}, -1);
}

struct Parts { at::Tensor q, k, v; };
Parts split(const at::Tensor& qkv, const QkvOptions& o, int64_t d) {
  const at::Tensor heads = qkv.view({qkv.size(0), o.heads + 2 * o.kv_heads, d});
  return {heads.narrow(1, 0, o.heads), heads.narrow(1, o.heads, o.kv_heads), heads.narrow(1, o.heads + o.kv_heads, o.kv_heads)};
}

Qkv reference_fwd(const at::Tensor& qkv, const at::Tensor& positions_T, const QkvOptions& o, int64_t d) {
  const Parts p = split(qkv, o, d);
  const auto side = [&](const at::Tensor& x, const Weight* norm) {
    at::Tensor y = x.to(wide(qkv));
    if (norm != nullptr) y = reference::rms_norm(y, norm->value.to(wide(qkv)), o.eps);
    if (o.rope.defined()) y = turn(y, o.rope, positions_T, false);
    return y.to(qkv.scalar_type()).contiguous();
  };
  return {side(p.q, o.q_norm), side(p.k, o.k_norm), p.v.contiguous()};
}

at::Tensor reference_bwd(const Qkv& grads, const at::Tensor& qkv, const at::Tensor& positions_T, const QkvOptions& o, int64_t d) {
  const Parts p = split(qkv, o, d);
  const auto side = [&](const at::Tensor& dy, const at::Tensor& x, Weight* norm) {
    at::Tensor g = dy.to(wide(qkv));
    if (o.rope.defined()) g = turn(g, o.rope, positions_T, true);
    if (norm == nullptr) return g;
    auto [dx, dw] = reference::rms_norm_bwd(g, x.to(wide(qkv)), norm->value.to(wide(qkv)), o.eps);
    norm->accumulate(dw);
    return dx;
  };
  const at::Tensor all = at::cat({side(grads.q_THd, p.q, o.q_norm), side(grads.k_TGd, p.k, o.k_norm), grads.v_TGd.to(wide(qkv))}, 1);
  return all.reshape(qkv.sizes()).to(qkv.scalar_type());
}

// -- candidates ----------------------------------------------------------------------------------------------------------

constexpr Candidate<QkvFwd> kFwd[] = {
    {"cpu", on_device<kernels::supports_qkv_fwd_cpu>, nullptr, kernels::qkv_fwd_cpu},
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_qkv_fwd_sm90>, nullptr, kernels::qkv_fwd_sm90},
#endif
};
constexpr Candidate<QkvBwd> kBwd[] = {
    {"cpu", on_device<kernels::supports_qkv_bwd_cpu>, kernels::workspace_qkv_bwd_cpu,
     kernels::qkv_bwd_cpu},
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_qkv_bwd_sm90>, kernels::workspace_qkv_bwd_sm90,
     kernels::qkv_bwd_sm90},
#endif
};

const void* data(const Weight* w) { return w == nullptr ? nullptr : w->value.data_ptr(); }
struct Angles {  // the table as a kernel reads it
  const float *cos = nullptr, *sin = nullptr;
  const int32_t* positions = nullptr;
  int32_t rotated = 0;
  Angles(const RopeTable& t, const at::Tensor& positions_T) {
    if (!t.defined()) return;
    cos = address_of<float>(t.cos_PF), sin = address_of<float>(t.sin_PF), positions = address_of<int32_t>(positions_T);
    rotated = static_cast<int32_t>(2 * t.cos_PF.size(1));
  }
};

struct QkvNode final : Node {
  SavedTensor qkv;  // undefined without norms
  at::Tensor positions_T;
  QkvOptions options;
  std::vector<int64_t> sizes;
  at::TensorOptions like;
  int64_t head_dim = 0;

  variable_list apply(variable_list&& grads) override {
    const QkvOptions& o = options;
    const auto grad = [&](size_t i, int64_t heads) {
      return grads[i].defined() ? grads[i].contiguous() : at::zeros({sizes[0], heads, head_dim}, like);
    };
    const Qkv g{grad(0, o.heads), grad(1, o.kv_heads), grad(2, o.kv_heads)};
    at::Tensor x = unpack(qkv);
    const Angles angles(o.rope, positions_T);
    QkvBwd a{g.q_THd.data_ptr(), g.k_TGd.data_ptr(), g.v_TGd.data_ptr(), x.defined() ? x.data_ptr() : nullptr, data(o.q_norm), data(o.k_norm),
             angles.cos, angles.sin, angles.positions, nullptr, nullptr, nullptr, sizes[0],
             static_cast<int32_t>(o.heads), static_cast<int32_t>(o.kv_heads), static_cast<int32_t>(head_dim),
             angles.rotated, static_cast<float>(o.eps), dtype_of(g.q_THd)};
    const auto* c = select<QkvBwd>("qkv_bwd", kBwd, a, policy);
    if (c == nullptr) {
      if (!x.defined()) x = at::empty(sizes, like);  // not read without norms
      return {reference_bwd(g, x, positions_T, o, head_dim)};
    }
    at::Tensor dqkv = at::empty(sizes, like);
    a.dqkv = dqkv.data_ptr();
    for (auto [w, out] : {std::pair{o.q_norm, &a.d_q_norm}, std::pair{o.k_norm, &a.d_k_norm}})
      if (w != nullptr && w->wants_grad()) *out = address_of<float>(w->main_grad);
    run(*c, a, dqkv);
    for (Weight* w : {o.q_norm, o.k_norm})
      if (w != nullptr && w->trainable) w->done();
    return {dqkv};
  }
};

}  // namespace

Qkv qkv(const at::Tensor& x, const at::Tensor& positions_T, const QkvOptions& o, const Policy& policy) {
  const int64_t rows = o.heads + 2 * o.kv_heads;
  check_shape(x.dim() == 2 && rows > 0 && x.size(1) % rows == 0, "qkv", "width", describe(x), "a multiple of " + std::to_string(rows) + " heads");
  check_shape(x.is_contiguous(), "qkv", "layout", describe(x), "contiguous");
  check_shape((o.q_norm == nullptr) == (o.k_norm == nullptr), "qkv", "norms", "one", "both or none");
  const int64_t d = x.size(1) / rows;
  for (const Weight* w : {o.q_norm, o.k_norm})
    if (w != nullptr)
      check_shape(w->value.numel() == d && w->value.scalar_type() == x.scalar_type(), "qkv", "norm weight", describe(w->value),
                  "[" + std::to_string(d) + "] " + name(dtype_of(x)));
  if (o.rope.defined()) {
    const at::Tensor& cos = o.rope.cos_PF;
    check_shape(cos.dim() == 2 && 2 * cos.size(1) <= d && cos.is_contiguous() && cos.scalar_type() == at::kFloat, "qkv", "rotary table",
                describe(cos), "[positions, up to " + std::to_string(d / 2) + "] f32");
    check_shape(positions_T.dim() == 1 && positions_T.size(0) == x.size(0) && positions_T.scalar_type() == at::kInt, "qkv", "positions",
                describe(positions_T), "[" + std::to_string(x.size(0)) + "] i32");
    if (positions_T.device().is_cpu() && positions_T.numel() > 0)  // on a GPU the look would be a sync
      check_shape(positions_T.min().item<int32_t>() >= 0 && positions_T.max().item<int32_t>() < cos.size(0), "qkv", "largest position",
                  std::to_string(positions_T.max().item<int32_t>()), "0 to " + std::to_string(cos.size(0) - 1) + ", the table's rows");
  }
  auto node = make_node<QkvNode>(policy, {x}, (o.q_norm != nullptr && o.q_norm->wants_grad()) || (o.k_norm != nullptr && o.k_norm->wants_grad()));
  const Angles angles(o.rope, positions_T);
  QkvFwd a{x.data_ptr(), data(o.q_norm), data(o.k_norm), angles.cos, angles.sin, angles.positions, nullptr, nullptr, nullptr,
           x.size(0), static_cast<int32_t>(o.heads), static_cast<int32_t>(o.kv_heads), static_cast<int32_t>(d),
           angles.rotated, static_cast<float>(o.eps), dtype_of(x)};
  const auto* c = select<QkvFwd>("qkv", kFwd, a, policy);
  Qkv out;
  if (c == nullptr) {
    const at::NoGradGuard no_grad;
    out = reference_fwd(x.detach(), positions_T, o, d);
  } else {
    const auto like = x.options().requires_grad(false);
    out = {at::empty({x.size(0), o.heads, d}, like), at::empty({x.size(0), o.kv_heads, d}, like), at::empty({x.size(0), o.kv_heads, d}, like)};
    a.q = out.q_THd.data_ptr(), a.k = out.k_TGd.data_ptr(), a.v = out.v_TGd.data_ptr();
    run(*c, a, x);
  }
  if (node) {
    if (o.q_norm != nullptr) node->qkv = save(x);
    node->positions_T = positions_T, node->options = o, node->sizes = x.sizes().vec(), node->like = x.options().requires_grad(false);
    node->head_dim = d;
  }
  return {attach(node, out.q_THd), attach(node, out.k_TGd), attach(node, out.v_TGd)};
}

}  // namespace weft::ops
