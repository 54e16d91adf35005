// From the fused projection to attention's operands in one pass: split [q | k | v], RMSNorm each head of q and k (optional),
// turn pairs (i, i + R/2) of the first R channels by the token's angle (optional). Bound: memory, one read and one write.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct QkvFwd {
  const void* qkv;           // [T, (H + 2G) d] dtype, contiguous
  const void* q_norm;        // [d] dtype or null
  const void* k_norm;        // [d] dtype or null: both or none
  const float* cos;          // [positions, R / 2] or null
  const float* sin;          // as cos
  const int32_t* positions;  // [T], each below the table's rows
  void* q;                   // [T, H, d] dtype
  void* k;                   // [T, G, d]
  void* v;                   // [T, G, d]
  int64_t tokens;
  int32_t heads, kv_heads, head_dim, rotated;  // H, G, d, R
  float eps;
  DType dtype;
};

// d_q_norm and d_k_norm are added to, in a fixed order (deterministic). 1 / rms is computed again from qkv.
struct QkvBwd {
  const void* dq;   // [T, H, d] dtype
  const void* dk;   // [T, G, d]
  const void* dv;   // [T, G, d]
  const void* qkv;  // as in the forward; null without norms
  const void* q_norm;
  const void* k_norm;
  const float* cos;
  const float* sin;
  const int32_t* positions;
  void* dqkv;       // [T, (H + 2G) d] dtype
  float* d_q_norm;  // [d] or null
  float* d_k_norm;  // [d] or null
  int64_t tokens;
  int32_t heads, kv_heads, head_dim, rotated;
  float eps;
  DType dtype;
};

Support supports_qkv_fwd_cpu(const QkvFwd&, const Device&);
Support supports_qkv_bwd_cpu(const QkvBwd&, const Device&);
size_t workspace_qkv_bwd_cpu(const QkvBwd&);
void qkv_fwd_cpu(const QkvFwd&, const Launch&);
void qkv_bwd_cpu(const QkvBwd&, const Launch&);

Support supports_qkv_fwd_sm90(const QkvFwd&, const Device&);
Support supports_qkv_bwd_sm90(const QkvBwd&, const Device&);
size_t workspace_qkv_bwd_sm90(const QkvBwd&);
void qkv_fwd_sm90(const QkvFwd&, const Launch&);
void qkv_bwd_sm90(const QkvBwd&, const Launch&);

}  // namespace weft::kernels
