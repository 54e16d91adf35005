#include "kernels/gated_norm/gated_norm.h"

#include "kernels/gated_norm/group_norm.cuh"

namespace weft::kernels {
namespace {

template <class Args>
Support supports(const Args& a, const Device& d) {
  if (a.group <= 0 || a.cols % a.group != 0) return {"group does not divide cols"};
  if (a.w_cols != a.cols && a.w_cols != a.group) return {"w_cols is neither cols nor group"};
  if (a.cols / a.group > 65535) return {"more than 65535 groups"};
  return on_sm90(d, a.dtype);
}

}  // namespace

Support supports_gated_norm_fwd_sm90(const GatedNormFwd& a, const Device& d) { return supports(a, d); }
Support supports_gated_norm_bwd_sm90(const GatedNormBwd& a, const Device& d) { return supports(a, d); }
size_t workspace_gated_norm_bwd_sm90(const GatedNormBwd& a) { return group_norm_workspace(a.rows, a.group, a.cols / a.group); }

void gated_norm_fwd_sm90(const GatedNormFwd& a, const Launch& launch) {
  dev::GroupNorm g{.x = a.x,
                   .z = a.z,
                   .w = a.w,
                   .y = a.y,
                   .rstd = a.rstd,
                   .rows = a.rows,
                   .x_stride = a.x_stride,
                   .z_stride = a.z_stride,
                   .y_stride = a.cols,
                   .group = a.group,
                   .groups = a.cols / a.group,
                   .eps = a.eps,
                   .divisor = static_cast<float>(a.group),
                   .w_shared = a.w_cols != a.cols,
                   .gate_first = a.gate_first};
  launch_group_norm_fwd<true>(g, a.dtype, launch);
}

void gated_norm_bwd_sm90(const GatedNormBwd& a, const Launch& launch) {
  dev::GroupNorm g{.x = a.x,
                   .z = a.z,
                   .w = a.w,
                   .dy = a.dy,
                   .dx = a.dx,
                   .dz = a.dz,
                   .rstd = const_cast<float*>(a.rstd),
                   .rows = a.rows,
                   .x_stride = a.x_stride,
                   .z_stride = a.z_stride,
                   .y_stride = a.cols,
                   .dx_stride = a.dx_stride,
                   .dz_stride = a.dz_stride,
                   .group = a.group,
                   .groups = a.cols / a.group,
                   .divisor = static_cast<float>(a.group),
                   .w_shared = a.w_cols != a.cols,
                   .gate_first = a.gate_first};
  launch_group_norm_bwd<true>(g, a.dw, a.dtype, launch);
}

}  // namespace weft::kernels
