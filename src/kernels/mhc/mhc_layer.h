// Hyper-connections across a layer's edge, backward: one pass over the n-stream tensor where the parts (mhc_mix.h, mhc_map.h) make three
// (nam56r.md 12.3).
//   dx_j = sum_i H_ij g_i + pre_j du + (dproj W - dr r^2 x / (sqrt(K) |x|))_j, rounded once; dw += dproj^T x
// Bound: memory. Sums over tokens in a fixed order (deterministic).
#pragma once
#include "kernels/mhc/mhc_map.h"

namespace weft::kernels {

struct MhcLayerBwd {
  MhcProjectBwd project;  // dx_in is not read
  const void* g;          // [tokens, n, dim] dtype: gradient of the streams after the layer
  const void* du;         // [tokens, dim] dtype: of the aggregate
  const float* h;         // [tokens, n, n]
  const float* pre;       // [tokens, n]
  int32_t n, dim;         // project.k = n dim
  bool transposed;        // sum_i H_ji g_i
};

Support supports_mhc_layer_bwd_sm90(const MhcLayerBwd&, const Device&);
size_t workspace_mhc_layer_bwd_sm90(const MhcLayerBwd&);
void mhc_layer_bwd_sm90(const MhcLayerBwd&, const Launch&);

}  // namespace weft::kernels
