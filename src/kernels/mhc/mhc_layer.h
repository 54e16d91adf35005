// Hyper-connections across a layer's edge: what passes over the n-stream tensor once where the parts (mhc_mix.h, mhc_map.h) pass two or
// three times (nam56r.md 12.3).
//   forward:  y = the streams after a layer, and proj and r of the next layer's mapping from them: y is not read again
//   backward: dx_j = sum_i H_ij g_i + pre_j du + (dproj W - dr r^2 x / (sqrt(K) |x|))_j, rounded once; dw += dproj^T x
// Bound: memory. Sums over tokens in a fixed order (deterministic).
#pragma once
#include "kernels/mhc/mhc_map.h"
#include "kernels/mhc/mhc_mix.h"

namespace weft::kernels {

struct MhcPostProjectFwd {
  MhcPostFwd post;        // y must not alias x
  MhcProjectFwd project;  // of post.y: x is not read; k = n dim
};
struct MhcLayerBwd {
  MhcProjectBwd project;  // dx_in is not read
  const void* g;          // [tokens, n, dim] dtype: gradient of the streams after the layer
  const void* du;         // [tokens, dim] dtype: of the aggregate
  const float* h;         // [tokens, n, n]
  const float* pre;       // [tokens, n]
  int32_t n, dim;         // project.k = n dim
  bool transposed;        // sum_i H_ji g_i
};

Support supports_mhc_post_project_fwd_sm90(const MhcPostProjectFwd&, const Device&);
Support supports_mhc_layer_bwd_sm90(const MhcLayerBwd&, const Device&);
size_t workspace_mhc_post_project_fwd_sm90(const MhcPostProjectFwd&);
size_t workspace_mhc_layer_bwd_sm90(const MhcLayerBwd&);
void mhc_post_project_fwd_sm90(const MhcPostProjectFwd&, const Launch&);
void mhc_layer_bwd_sm90(const MhcLayerBwd&, const Launch&);

}  // namespace weft::kernels
