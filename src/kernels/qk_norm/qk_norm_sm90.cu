#include "kernels/qk_norm/qk_norm.h"

#include "kernels/gated_norm/group_norm.cuh"

namespace weft::kernels {
namespace {

template <class Args>
Support supports(const Args& a, const Device& d) {
  if (a.heads > 65535) return {"more than 65535 heads"};
  if (a.l2 != (a.w == nullptr)) return {"l2 has no weight, the RMS form needs one"};
  return on_sm90(d, a.dtype);
}

}  // namespace

Support supports_qk_norm_fwd_sm90(const QkNormFwd& a, const Device& d) { return supports(a, d); }
Support supports_qk_norm_bwd_sm90(const QkNormBwd& a, const Device& d) { return supports(a, d); }
size_t workspace_qk_norm_bwd_sm90(const QkNormBwd& a) { return group_norm_workspace(a.tokens, a.dim, a.heads); }

void qk_norm_fwd_sm90(const QkNormFwd& a, const Launch& launch) {
  dev::GroupNorm g{.x = a.x,
                   .w = a.w,
                   .y = a.y,
                   .rstd = a.rstd,
                   .rows = a.tokens,
                   .x_stride = a.x_stride,
                   .y_stride = a.y_stride,
                   .group = a.dim,
                   .groups = a.heads,
                   .eps = a.eps,
                   .divisor = a.l2 ? 1.0f : static_cast<float>(a.dim),
                   .w_shared = true,
                   .gate_first = true,
                   .w_f32 = a.w_f32};
  launch_group_norm_fwd<false>(g, a.dtype, launch);
}

void qk_norm_bwd_sm90(const QkNormBwd& a, const Launch& launch) {
  dev::GroupNorm g{.x = a.x,
                   .w = a.w,
                   .dy = a.dy,
                   .dx = a.dx,
                   .rstd = const_cast<float*>(a.rstd),
                   .rows = a.tokens,
                   .x_stride = a.x_stride,
                   .y_stride = a.dy_stride,
                   .dx_stride = a.dx_stride,
                   .group = a.dim,
                   .groups = a.heads,
                   .divisor = a.l2 ? 1.0f : static_cast<float>(a.dim),
                   .w_shared = true,
                   .gate_first = true,
                   .w_f32 = a.w_f32};
  launch_group_norm_bwd<false>(g, a.l2 ? nullptr : a.dw, a.dtype, launch);
}

}  // namespace weft::kernels
