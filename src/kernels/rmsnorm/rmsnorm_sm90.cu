#include "kernels/add_rmsnorm/add_rmsnorm.h"
#include "kernels/common/row_norm_launch.cuh"
#include "kernels/rmsnorm/rmsnorm.h"

namespace weft::kernels {

Support supports_rms_norm_fwd_sm90(const RmsNormFwd& a, const Device& d) { return on_sm90(d, a.dtype); }
Support supports_rms_norm_bwd_sm90(const RmsNormBwd& a, const Device& d) { return on_sm90(d, a.dtype); }
Support supports_add_rms_norm_fwd_sm90(const AddRmsNormFwd& a, const Device& d) { return on_sm90(d, a.dtype); }
Support supports_add_rms_norm_bwd_sm90(const AddRmsNormBwd& a, const Device& d) { return on_sm90(d, a.dtype); }
size_t workspace_rms_norm_bwd_sm90(const RmsNormBwd& a) { return row_norm_workspace(a.rows, a.cols, 1); }
size_t workspace_add_rms_norm_bwd_sm90(const AddRmsNormBwd& a) { return row_norm_workspace(a.rows, a.cols, 1); }

void rms_norm_fwd_sm90(const RmsNormFwd& a, const Launch& launch) {
  dev::RowNorm r{.x = a.x, .w = a.w, .y = a.y, .rstd = a.rstd, .rows = a.rows, .cols = a.cols, .eps = a.eps};
  launch_row_norm_fwd<false>(r, a.dtype, launch);
}

void add_rms_norm_fwd_sm90(const AddRmsNormFwd& a, const Launch& launch) {
  dev::RowNorm r{.x = a.x,
                 .residual = a.residual,
                 .w = a.w,
                 .sum = a.sum,
                 .y = a.y,
                 .rstd = a.rstd,
                 .rows = a.rows,
                 .cols = a.cols,
                 .eps = a.eps};
  launch_row_norm_fwd<false>(r, a.dtype, launch);
}

void rms_norm_bwd_sm90(const RmsNormBwd& a, const Launch& launch) {
  dev::RowNorm r{.x = a.x, .w = a.w, .dy = a.dy, .y = a.dx, .rstd = const_cast<float*>(a.rstd), .rows = a.rows, .cols = a.cols};
  launch_row_norm_bwd<false>(r, a.dw, nullptr, a.dtype, launch);
}

void add_rms_norm_bwd_sm90(const AddRmsNormBwd& a, const Launch& launch) {
  dev::RowNorm r{.x = a.sum,
                 .w = a.w,
                 .dy = a.dy,
                 .dsum = a.dsum,
                 .y = a.dx,
                 .rstd = const_cast<float*>(a.rstd),
                 .rows = a.rows,
                 .cols = a.cols};
  launch_row_norm_bwd<false>(r, a.dw, nullptr, a.dtype, launch);
}

}  // namespace weft::kernels
