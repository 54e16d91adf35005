// Gated delta rules token by token, packed documents, any dims up to 128, f32 or bf16: decode steps, small shapes, fp32, and the rule whose
// gates have channels (GDN2). Value head h uses key head h / (Hv / Hk); i runs over Dk, j over Dv; state [Dk, Dv] in fp32:
//   S'_ij = e^{g_i} S_ij     r_j = w_j v_j - sum_i S'_ij b_i k_i     S_ij <- S'_ij + k_i r_j     o_j = scale sum_i S_ij q_i
// With `channels` g and b have Dk numbers a head and w Dv; without, g and b are one number and w is b. Deterministic.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

constexpr int kDeltaChunk = 64;
constexpr int64_t delta_state_slots(int64_t tokens, int64_t documents) { return tokens / kDeltaChunk + documents; }  // as ssd_state_slots

struct DeltaInputs {
  const void* q;              // [T, Hk, Dk] dtype, contiguous, as all here
  const void* k;              // [T, Hk, Dk] dtype
  const void* v;              // [T, Hv, Dv] dtype
  const float* g;             // [T, Hv], or [T, Hv, Dk] with channels
  const float* b;             // as g
  const float* w;             // [T, Hv, Dv], with channels only
  const int32_t* cu_seqlens;  // [documents + 1] on the device
  int64_t tokens, documents;
  int32_t key_heads, value_heads, key_dim, value_dim;
  float scale;
  bool channels;
  DType dtype;
};
struct DeltaFwd {
  DeltaInputs in;
  const float* initial_state;  // [documents, Hv, Dk, Dv] or null
  void* o;                     // [T, Hv, Dv] dtype
  float* states;               // [delta_state_slots, Hv, Dk, Dv], S before each chunk; null: no backward follows
  float* final_state;          // [documents, Hv, Dk, Dv] or null
};
struct DeltaBwd {
  DeltaInputs in;
  const void* d_o;             // [T, Hv, Dv] dtype, contiguous
  const float* states;
  const float* d_final_state;  // [documents, Hv, Dk, Dv] or null
  void* dq;                    // [T, Hk, Dk] dtype
  void* dk;                    // [T, Hk, Dk] dtype
  void* dv;                    // [T, Hv, Dv] dtype
  float* dg;                   // as g
  float* db;                   // as b
  float* dw;                   // as w
  float* d_initial_state;      // [documents, Hv, Dk, Dv] or null
};

Support supports_delta_fwd_sm90(const DeltaFwd&, const Device&);
Support supports_delta_bwd_sm90(const DeltaBwd&, const Device&);
size_t workspace_delta_bwd_sm90(const DeltaBwd&);
void delta_fwd_sm90(const DeltaFwd&, const Launch&);
void delta_bwd_sm90(const DeltaBwd&, const Launch&);

}  // namespace weft::kernels
