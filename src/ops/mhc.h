// Manifold-constrained hyper-connections (nam56r.md 12): n residual streams [T, n, C] mixed by small matrices a token.
//   project:   proj = x W^T over K = n C;  r = 1 / (|x| / sqrt(K) + eps)
//   map:       hidden = r proj alpha + bias; pre = sigmoid + pre_eps, post = 2 sigmoid, res: logits of the mixing matrix
//   sinkhorn:  M = softmax over columns + eps; columns / (sum + eps); then (iterations - 1) times rows, columns / (sum + eps)
//   aggregate: u = sum_j pre_j x_j          post: y_i = sum_j M_ij x_j + post_i (f + bias)  (transposed: M_ji)
// Mixing values are fp32 (fp64 for fp64 streams) whatever the streams' dtype.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

at::Tensor mhc_sinkhorn(const at::Tensor& logits_Tnn, int64_t iterations, double eps, const Policy&);

struct MhcProjected {
  at::Tensor proj_TO, r_T;
  at::Tensor norm_T;  // |x|, for a backward; undefined where the reference ran
};
// x [T, K] f32 or bf16; w [O, K] fp32.
MhcProjected mhc_project(const at::Tensor& x_TK, Weight& w_OK, double eps, const Policy&);

struct MhcMapped {
  at::Tensor pre_Tn, post_Tn, res_Tnn;
};
// proj [T, n n + 2 n], r [T]; alpha [3] (pre, post, res) and bias [n n + 2 n] fp32.
MhcMapped mhc_map(const at::Tensor& proj_TO, const at::Tensor& r_T, Weight& alpha, Weight& bias, int64_t n, double pre_eps, const Policy&);

at::Tensor mhc_aggregate(const at::Tensor& x_TnC, const at::Tensor& h_Tn, const Policy&);
// bias [C] of x's dtype, or null.
at::Tensor mhc_post(const at::Tensor& x_TnC, const at::Tensor& f_TC, Weight* bias, const at::Tensor& h_Tnn, const at::Tensor& p_Tn, bool transposed,
                    const Policy&);

// The backwards as functions, for ops that are made of these. `wants_dx` false: the streams' gradient stays undefined.
struct MhcAggregateGrads {
  at::Tensor dx, dh;
};
MhcAggregateGrads mhc_aggregate_bwd(const at::Tensor& du_TC, const at::Tensor& x_TnC, const at::Tensor& h_Tn, bool wants_dx, const Policy&);
struct MhcPostGrads {
  at::Tensor dx, df, dh, dp;
};
MhcPostGrads mhc_post_bwd(const at::Tensor& dy_TnC, const at::Tensor& x_TnC, const at::Tensor& f_TC, Weight* bias, const at::Tensor& h_Tnn,
                          const at::Tensor& p_Tn, bool transposed, bool wants_dx, const Policy&);  // adds the bias's gradient

}  // namespace weft::ops
