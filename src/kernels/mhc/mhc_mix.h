// Hyper-connections, the stream half: n residual streams x [tokens, n, dim] mixed by small matrices a token (math in fp32).
//   aggregate: u = sum_j h[j] x_j
//   post:      y_i = sum_j H_ij x_j + p_i (f + bias)   (transposed: sum_j H_ji x_j)
// Sums over tokens in a fixed order (deterministic). Bound: memory; every n-stream tensor once.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {
struct MhcAggregateFwd {
  const void* x;   // [tokens, n, dim] dtype
  const float* h;  // [tokens, n]
  void* u;         // [tokens, dim] dtype
  int64_t tokens;
  int32_t n, dim;
  DType dtype;
};
struct MhcAggregateBwd {  // dx_j = h_j du (+ dx_in_j), dh_j = <du, x_j>
  const void* du;     // [tokens, dim] dtype
  const void* x;      // [tokens, n, dim] dtype
  const float* h;     // [tokens, n]
  const void* dx_in;  // [tokens, n, dim] dtype, added in fp32 before the one rounding; or null
  void* dx;           // [tokens, n, dim] dtype, may alias dx_in; or null: not wanted
  float* dh;          // [tokens, n]
  int64_t tokens;
  int32_t n, dim;
  DType dtype;
};

struct MhcPostFwd {
  const void* x;     // [tokens, n, dim] dtype
  const void* f;     // [tokens, dim] dtype
  const void* bias;  // [dim] dtype, or null
  const float* h;    // [tokens, n, n]
  const float* p;    // [tokens, n]
  void* y;           // [tokens, n, dim] dtype, may alias x
  int64_t tokens;
  int32_t n, dim;
  bool transposed;
  DType dtype;
};
struct MhcPostBwd {  // dx_j = sum_i H_ij g_i; df = sum_i p_i g_i; dp_i = <g_i, f + bias>; dH_ij = <g_i, x_j>; dbias += sum_t df
  const void* g;     // [tokens, n, dim] dtype
  const void* x;     // as forward
  const void* f;     // as forward
  const void* bias;  // as forward
  const float* h;    // as forward
  const float* p;    // as forward
  void* dx;          // [tokens, n, dim] dtype, may alias g; or null: not wanted
  void* df;          // [tokens, dim] dtype
  float* dh;         // [tokens, n, n]
  float* dp;         // [tokens, n]
  float* dbias;      // [dim] fp32, added to; or null
  int64_t tokens;
  int32_t n, dim;
  bool transposed;
  DType dtype;
};

Support supports_mhc_aggregate_fwd_sm90(const MhcAggregateFwd&, const Device&);
Support supports_mhc_aggregate_bwd_sm90(const MhcAggregateBwd&, const Device&);
Support supports_mhc_post_fwd_sm90(const MhcPostFwd&, const Device&);
Support supports_mhc_post_bwd_sm90(const MhcPostBwd&, const Device&);
size_t workspace_mhc_post_bwd_sm90(const MhcPostBwd&);
void mhc_aggregate_fwd_sm90(const MhcAggregateFwd&, const Launch&);
void mhc_aggregate_bwd_sm90(const MhcAggregateBwd&, const Launch&);
void mhc_post_fwd_sm90(const MhcPostFwd&, const Launch&);
void mhc_post_bwd_sm90(const MhcPostBwd&, const Launch&);

}  // namespace weft::kernels
