#include "kernels/common/row_norm_launch.cuh"
#include "kernels/layernorm/layernorm.h"

namespace weft::kernels {

Support supports_layer_norm_fwd_sm90(const LayerNormFwd& a, const Device& d) { return on_sm90(d, a.dtype); }
Support supports_layer_norm_bwd_sm90(const LayerNormBwd& a, const Device& d) { return on_sm90(d, a.dtype); }
size_t workspace_layer_norm_bwd_sm90(const LayerNormBwd& a) { return row_norm_workspace(a.rows, a.cols, 2); }

void layer_norm_fwd_sm90(const LayerNormFwd& a, const Launch& launch) {
  dev::RowNorm r{.x = a.x,
                 .residual = a.residual,
                 .w = a.w,
                 .b = a.b,
                 .sum = a.sum,
                 .y = a.y,
                 .mean = a.mean,
                 .rstd = a.rstd,
                 .rows = a.rows,
                 .cols = a.cols,
                 .eps = a.eps};
  launch_row_norm_fwd<true>(r, a.dtype, launch);
}

void layer_norm_bwd_sm90(const LayerNormBwd& a, const Launch& launch) {
  dev::RowNorm r{.x = a.v,
                 .w = a.w,
                 .dy = a.dy,
                 .dsum = a.dsum,
                 .y = a.dx,
                 .mean = const_cast<float*>(a.mean),
                 .rstd = const_cast<float*>(a.rstd),
                 .rows = a.rows,
                 .cols = a.cols};
  launch_row_norm_bwd<true>(r, a.dw, a.db, a.dtype, launch);
}

}  // namespace weft::kernels
