// Manifold-constrained hyper-connections, the mapping half: the mixing matrices of a token from its n streams (fp32).
//   project:  proj = x W^T over K = n * dim; r = 1 / (|x| / sqrt(K) + eps)
//   map:      h = r proj alpha + bias, cut in pre | post | res
//   sinkhorn: M = softmax over columns of each row (row maximum subtracted) + eps; columns / (sum + eps); then (iterations - 1)
//             times rows / (sum + eps), columns / (sum + eps)
// Sums over tokens in a fixed order (deterministic). Bound: memory; the n-stream tensor once.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct MhcSinkhornFwd {
  const float* logits;  // [tokens, n, n]
  float* h;             // [tokens, n, n]
  int64_t tokens;
  int32_t n, iterations;
  float eps;
  DType dtype = DType::kF32;  // of every tensor
};
struct MhcSinkhornBwd {  // recomputes the iterations from the logits
  const float* dh;      // [tokens, n, n]
  const float* logits;  // [tokens, n, n]
  float* dlogits;       // [tokens, n, n]
  int64_t tokens;
  int32_t n, iterations;
  float eps;
  DType dtype = DType::kF32;  // of every tensor
};

struct MhcProjectFwd {
  const void* x;   // [tokens, k] dtype, k = n * dim
  const float* w;  // [num_out, k] fp32
  float* proj;     // [tokens, num_out]
  float* norm;     // [tokens] |x|
  float* r;        // [tokens]
  int64_t tokens;
  int32_t k, num_out;
  float eps;
  DType dtype;
};
struct MhcProjectBwd {  // dx = dproj W - dr r^2 x / (sqrt(K) |x|) (+ dx_in); dw += dproj^T x
  const void* x;       // as forward
  const float* w;      // as forward
  const float* norm;   // [tokens]
  const float* r;      // [tokens]
  const float* dproj;  // [tokens, num_out]
  const float* dr;     // [tokens]
  const void* dx_in;   // [tokens, k] dtype, added before the one rounding; or null
  void* dx;            // [tokens, k] dtype, may alias dx_in
  float* dw;           // [num_out, k] fp32, added to; or null
  int64_t tokens;
  int32_t k, num_out;
  DType dtype;
};

// hidden[o] = r proj[o] alpha[part of o] + bias[o]; pre = sigmoid + pre_eps, post = 2 sigmoid, res = hidden; parts n | n | n * n.
struct MhcMapFwd {
  const float* proj;   // [tokens, n * n + 2 n]
  const float* r;      // [tokens]
  const float* alpha;  // [3] pre, post, res, on the device
  const float* bias;   // [n * n + 2 n]
  float* pre;          // [tokens, n]
  float* post;         // [tokens, n]
  float* res;          // [tokens, n, n] logits of the Sinkhorn matrix
  int64_t tokens;
  int32_t n;
  float pre_eps;
  DType dtype = DType::kF32;  // of every tensor
};
struct MhcMapBwd {
  const float* proj;   // as forward
  const float* r;      // as forward
  const float* alpha;  // as forward
  const float* bias;   // as forward
  const float* dpre;   // [tokens, n]
  const float* dpost;  // [tokens, n]
  const float* dres;   // [tokens, n, n]
  float* dproj;        // [tokens, n * n + 2 n], written
  float* dr;           // [tokens], written
  float* dalpha;       // [3], added to; or null
  float* dbias;        // [n * n + 2 n], added to; or null
  int64_t tokens;
  int32_t n;
  DType dtype = DType::kF32;  // of every tensor
};

Support supports_mhc_sinkhorn_fwd_sm90(const MhcSinkhornFwd&, const Device&);
Support supports_mhc_sinkhorn_bwd_sm90(const MhcSinkhornBwd&, const Device&);
Support supports_mhc_project_fwd_sm90(const MhcProjectFwd&, const Device&);
Support supports_mhc_project_bwd_sm90(const MhcProjectBwd&, const Device&);
Support supports_mhc_map_fwd_sm90(const MhcMapFwd&, const Device&);
Support supports_mhc_map_bwd_sm90(const MhcMapBwd&, const Device&);
size_t workspace_mhc_project_fwd_sm90(const MhcProjectFwd&);
size_t workspace_mhc_project_bwd_sm90(const MhcProjectBwd&);
size_t workspace_mhc_map_bwd_sm90(const MhcMapBwd&);
void mhc_sinkhorn_fwd_sm90(const MhcSinkhornFwd&, const Launch&);
void mhc_sinkhorn_bwd_sm90(const MhcSinkhornBwd&, const Launch&);
void mhc_project_fwd_sm90(const MhcProjectFwd&, const Launch&);
void mhc_project_bwd_sm90(const MhcProjectBwd&, const Launch&);
void mhc_map_fwd_sm90(const MhcMapFwd&, const Launch&);
void mhc_map_bwd_sm90(const MhcMapBwd&, const Launch&);

}  // namespace weft::kernels
