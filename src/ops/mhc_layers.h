// Hyper-connections as layers use them, with what may be fused across a layer's edge (nam56r.md 12.3). Streams x_TnC; a layer's mapping
// gives pre, post [T, n] and the mixing matrix M [T, n, n] (mhc.h):
//   begin: u = sum_j pre_j x_j                              -> the layer's f reads u
//   next:  x'_i = sum_j M_ij x_j + post_i (f + bias), then the next layer's mapping of x' and its u
//   end:   the last x'
// Forward, `next` is its parts: one kernel of mhc_post and the next projection read x' once less, but took longer than the two. Backward,
// the streams' gradient is formed once, with one rounding, where the parts form three and add them.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct MhcMapping {  // of one layer; borrowed, like its weights
  Weight *w_OK = nullptr, *alpha = nullptr, *bias = nullptr;  // [n n + 2 n, n C], [3], [n n + 2 n] fp32
  double norm_eps = 1e-6, pre_eps = 1e-6, sinkhorn_eps = 1e-6;
  int64_t iterations = 20;
  bool transposed = false;  // x'_i = sum_j M_ji x_j
};

// Between a layer's mapping and its end. What is inside carries gradients that only `next` and `end` understand: the streams' is handed
// down before M is applied to it.
class MhcStreams {
 public:
  const at::Tensor& u_TC() const { return u_; }

 private:
  at::Tensor x_, u_, post_, mix_;
  bool transposed_ = false;
  friend MhcStreams mhc_begin(const at::Tensor&, const MhcMapping&, const Policy&);
  friend MhcStreams mhc_next(const MhcStreams&, const at::Tensor&, Weight*, const MhcMapping&, const Policy&);
  friend at::Tensor mhc_end(const MhcStreams&, const at::Tensor&, Weight*, const Policy&);
};

// f [T, C] in the streams' dtype; f_bias [C] of it, or null. Each MhcStreams is used once.
MhcStreams mhc_begin(const at::Tensor& x_TnC, const MhcMapping&, const Policy&);
MhcStreams mhc_next(const MhcStreams&, const at::Tensor& f_TC, Weight* f_bias, const MhcMapping& of_next_layer, const Policy&);
at::Tensor mhc_end(const MhcStreams&, const at::Tensor& f_TC, Weight* f_bias, const Policy&);

}  // namespace weft::ops
