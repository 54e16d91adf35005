// Gated delta rule (Yang, Kautz and Hatamizadeh 2024), packed documents. Value head h uses key head h / (Hv / Hk). State [Dk, Dv]:
//   S <- exp(g_t) S     u_t = beta_t (v_t - S^T k_t)     S <- S + k_t u_t^T     o_t = scale S^T q_t
// q and k come L2-normalised. Chunks of kGdnChunk tokens from the document's start. Deterministic. Other dims and fp32: kernels/delta.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

constexpr int kGdnChunk = 64;
constexpr int64_t gdn_state_slots(int64_t tokens, int64_t documents) { return tokens / kGdnChunk + documents; }  // as ssd_state_slots

struct GdnFwd {
  const void* q;               // [T, Hk, Dk] dtype, contiguous
  const void* k;               // [T, Hk, Dk] dtype, contiguous
  const void* v;               // [T, Hv, Dv] dtype, contiguous
  const float* g;              // [T, Hv], log decay, <= 0
  const float* beta;           // [T, Hv]
  const int32_t* cu_seqlens;   // [documents + 1] on the device
  const float* initial_state;  // [documents, Hv, Dk, Dv] or null
  void* o;                     // [T, Hv, Dv] dtype
  void* states;                // [gdn_state_slots, Hv, Dv, Dk] bf16, S^T before each chunk; null: no backward follows
  void* inverses;              // [gdn_state_slots, Hv, 64, 64] bf16, (I + A)^{-1} of each chunk, for the backward alone (units of 8 swizzled); null with states
  float* final_state;          // [documents, Hv, Dk, Dv] or null
  int64_t tokens, documents;
  int32_t key_heads, value_heads, key_dim, value_dim;
  float scale;
  DType dtype;
};

struct GdnBwd {
  const void* d_o;             // [T, Hv, Dv] dtype, contiguous
  const void* q;               // as forward, down to cu_seqlens
  const void* k;
  const void* v;
  const float* g;
  const float* beta;
  const int32_t* cu_seqlens;
  const void* states;          // as the forward wrote them
  const void* inverses;
  const float* d_final_state;  // [documents, Hv, Dk, Dv] or null
  void* dq;                    // [T, Hk, Dk] dtype
  void* dk;                    // [T, Hk, Dk] dtype
  void* dv;                    // [T, Hv, Dv] dtype
  float* dg;                   // [T, Hv]
  float* d_beta;               // [T, Hv]
  float* d_initial_state;      // [documents, Hv, Dk, Dv] or null
  int64_t tokens, documents;
  int32_t key_heads, value_heads, key_dim, value_dim;
  float scale;
  DType dtype;
};

Support supports_gdn_fwd_sm90(const GdnFwd&, const Device&);
Support supports_gdn_bwd_sm90(const GdnBwd&, const Device&);
size_t workspace_gdn_bwd_sm90(const GdnBwd&);
void gdn_fwd_sm90(const GdnFwd&, const Launch&);
void gdn_bwd_sm90(const GdnBwd&, const Launch&);

}  // namespace weft::kernels
