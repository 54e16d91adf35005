#include "ops/aten.h"

#include "kernels/gated_norm/gated_norm.h"
#include "ops/node.h"
#include "ops/rmsnorm.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace reference {
namespace {

struct GatedParts {  // [rows, groups, D / groups] in the accumulation dtype
  at::Tensor y, z, w, sigmoid, gate, u, rstd;
};

GatedParts gated_parts(const at::Tensor& y, const at::Tensor& z, const at::Tensor& w, int64_t groups, double eps, bool gate_first) {
  const auto t = wide(y);
  GatedParts p;
  const std::vector<int64_t> shape{-1, groups, y.size(-1) / groups};
  p.y = y.to(t).reshape(shape), p.z = z.to(t).reshape(shape);
  p.w = w.to(t).view({w.size(0) * groups == y.size(-1) && groups > 1 ? 1 : groups, -1});
  p.sigmoid = p.z.sigmoid();
  p.gate = p.z * p.sigmoid;
  p.u = gate_first ? p.y * p.gate : p.y;
  p.rstd = (p.u.square().mean(-1, true) + eps).rsqrt();
  return p;
}

at::Tensor gated_rms_norm(const at::Tensor& y, const at::Tensor& z, const at::Tensor& w, int64_t groups, double eps, bool gate_first) {
  const GatedParts p = gated_parts(y, z, w, groups, eps, gate_first);
  const at::Tensor out = p.u * p.rstd * p.w;
  return (gate_first ? out : out * p.gate).reshape(y.sizes()).to(y.scalar_type());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gated_rms_norm_bwd(const at::Tensor& dout, const at::Tensor& y, const at::Tensor& z,
                                                                  const at::Tensor& w, int64_t groups, double eps, bool gate_first) {
  const GatedParts p = gated_parts(y, z, w, groups, eps, gate_first);
  const at::Tensor g = dout.to(p.u.scalar_type()).reshape(p.u.sizes()), n = p.u * p.rstd;
  const at::Tensor dn = gate_first ? g * p.w : g * p.w * p.gate;
  const at::Tensor du = p.rstd * (dn - n * (dn * n).mean(-1, true));
  const at::Tensor slope = p.sigmoid * (1 + p.z * (1 - p.sigmoid));
  const at::Tensor dy = gate_first ? du * p.gate : du;
  const at::Tensor dz = (gate_first ? du * p.y : g * p.w * n) * slope;
  const at::Tensor dw_each = (gate_first ? g * n : g * n * p.gate).sum(0);  // [groups, D / groups]
  const at::Tensor dw = p.w.size(0) == 1 && groups > 1 ? dw_each.sum(0) : dw_each.reshape({-1});
  return {dy.reshape(y.sizes()).to(y.scalar_type()), dz.reshape(z.sizes()).to(z.scalar_type()), dw};
}

}  // namespace
}  // namespace reference

namespace {

using kernels::GatedNormBwd;
using kernels::GatedNormFwd;

constexpr Candidate<GatedNormFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_gated_norm_fwd_sm90>, nullptr, kernels::gated_norm_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_gated_norm_fwd_cpu>, nullptr,
     kernels::gated_norm_fwd_cpu},
};
constexpr Candidate<GatedNormBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_gated_norm_bwd_sm90>, kernels::workspace_gated_norm_bwd_sm90, kernels::gated_norm_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_gated_norm_bwd_cpu>,
     kernels::workspace_gated_norm_bwd_cpu, kernels::gated_norm_bwd_cpu},
};

// Elements between rows when t is one matrix [rows, D] with contiguous rows; -1 when its strides do not say so.
int64_t row_stride(const at::Tensor& t) {
  if (t.dim() == 1) return t.stride(0) == 1 ? t.size(0) : -1;
  if (t.stride(-1) != 1 && t.size(-1) > 1) return -1;
  int64_t want = t.stride(-2);
  for (int64_t d = t.dim() - 2; d > 0; --d) {
    want *= t.size(d);
    if (t.stride(d - 1) != want && t.size(d - 1) > 1) return -1;
  }
  return t.stride(-2);
}

struct GatedNormNode final : Node {
  SavedTensor y, z, rstd;
  Weight* w = nullptr;
  int64_t groups = 1;
  double eps = 0;
  bool gate_first = true;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dout = grads[0].contiguous(), y = unpack(this->y), z = unpack(this->z), rstd = unpack(this->rstd);
    const int64_t cols = y.size(-1);
    GatedNormBwd a{dout.data_ptr(), y.data_ptr(), z.data_ptr(), w->value.data_ptr(), nullptr, nullptr, nullptr, nullptr, y.numel() / cols,
                   row_stride(y), row_stride(z), cols, cols, static_cast<int32_t>(cols), static_cast<int32_t>(cols / groups),
                   static_cast<int32_t>(w->value.size(0)), gate_first, dtype_of(y)};
    const auto* c = select<GatedNormBwd>("gated_rms_norm_bwd", kBwd, a, policy);
    if (c == nullptr) {
      auto [dy, dz, dw] = reference::gated_rms_norm_bwd(dout, y, z, w->value, groups, eps, gate_first);
      w->accumulate(dw);
      return {dy, dz};
    }
    const at::Tensor dy = at::empty(y.sizes(), dout.options()), dz = at::empty(z.sizes(), dout.options());
    a.rstd = rstd.data_ptr<float>(), a.dx = dy.data_ptr(), a.dz = dz.data_ptr();
    a.dw = w->wants_grad() ? w->main_grad.data_ptr<float>() : nullptr;
    run(*c, a, dout);
    if (w->trainable) w->done();
    return {dy, dz};
  }
};

}  // namespace

at::Tensor gated_rms_norm(const at::Tensor& y, const at::Tensor& z, Weight& w, int64_t groups, double eps, const Policy& policy, bool gate_first) {
  const char* op = "gated_rms_norm";
  check_shape(y.dim() >= 1 && y.size(-1) > 0 && groups > 0 && y.size(-1) % groups == 0, op, "last dim of y", describe(y),
              "a multiple of " + std::to_string(groups) + " groups");
  check_shape(y.sizes() == z.sizes() && y.scalar_type() == z.scalar_type(), op, "z", describe(z), describe(y));
  const bool shared = !gate_first && w.value.dim() == 1 && w.value.size(0) * groups == y.size(-1);
  check_shape(w.value.dim() == 1 && (w.value.size(0) == y.size(-1) || shared) && w.value.scalar_type() == y.scalar_type(), op, "w",
              describe(w.value), "[D] of " + describe(y));
  check_shape(row_stride(y) >= 0 && row_stride(z) >= 0, op, "layout", describe(y) + " and " + describe(z), "rows contiguous, evenly apart");
  auto node = make_node<GatedNormNode>(policy, {y, z}, w.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  const int64_t cols = y.size(-1);
  GatedNormFwd a{y.data_ptr(), z.data_ptr(), w.value.data_ptr(), nullptr, nullptr, y.numel() / cols, row_stride(y), row_stride(z),
                 static_cast<int32_t>(cols), static_cast<int32_t>(cols / groups), static_cast<int32_t>(w.value.size(0)), static_cast<float>(eps),
                 gate_first, dtype_of(y)};
  const auto* c = select<GatedNormFwd>(op, kFwd, a, policy);
  at::Tensor out, rstd;
  if (c == nullptr) {
    out = reference::gated_rms_norm(y, z, w.value, groups, eps, gate_first);
  } else {
    out = at::empty(y.sizes(), y.options().requires_grad(false));
    if (node) rstd = at::empty({a.rows, groups}, y.options().dtype(at::kFloat).requires_grad(false));
    a.y = out.data_ptr(), a.rstd = node ? rstd.data_ptr<float>() : nullptr;
    run(*c, a, y);
  }
  if (node)
    node->y = save(y), node->z = save(z), node->rstd = save(rstd), node->w = &w, node->groups = groups, node->eps = eps,
    node->gate_first = gate_first;
  return attach(node, out);
}

}  // namespace weft::ops
