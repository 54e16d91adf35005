// M2RNN scan (nam56r.md 2.8): a matrix state [Dk, Dv] per head with a tanh, truly sequential in t; q and k shared by all heads.
//   c_t = tanh(h_{t-1} W + k_t v_t^T)    h_t = f_t h_{t-1} + (1 - f_t) c_t    y_t = h_t^T q_t + D * v_t
// h is kept in fp32 and saved every kM2rnnChunk tokens from the document's start; the backward recomputes inside. Deterministic.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

constexpr int kM2rnnChunk = 64;
constexpr int64_t m2rnn_state_slots(int64_t tokens, int64_t documents) { return tokens / kM2rnnChunk + documents; }  // as ssd_state_slots

struct M2rnnFwd {
  const void* q;               // [T, Dk] dtype, token stride q_stride
  const void* k;               // [T, Dk] dtype, token stride k_stride
  const void* v;               // [T, H, Dv] dtype, token stride v_stride
  const float* f;              // [T, H], forget gate in (0, 1)
  const float* W;              // [H, Dv, Dv]
  const float* D;              // [H, Dv] or null
  const int32_t* cu_seqlens;   // [documents + 1] on the device
  const float* initial_state;  // [documents, H, Dk, Dv] or null
  void* y;                     // [T, H, Dv] dtype, contiguous
  float* states;               // [m2rnn_state_slots, H, Dk, Dv], h before each chunk; or null
  float* final_state;          // [documents, H, Dk, Dv] or null
  int64_t tokens, documents;
  int64_t q_stride, k_stride, v_stride;
  int32_t heads, key_dim, value_dim;
  DType dtype;
};

struct M2rnnBwd {
  const void* dy;  // [T, H, Dv] dtype, contiguous
  const void* q;
  const void* k;
  const void* v;
  const float* f;
  const float* W;
  const float* D;
  const int32_t* cu_seqlens;
  const float* states;
  const float* d_final_state;  // [documents, H, Dk, Dv] or null
  void* dq;                    // [T, Dk] dtype, contiguous, summed over heads
  void* dk;                    // [T, Dk] dtype, contiguous, summed over heads
  void* dv;                    // [T, H, Dv] dtype, contiguous
  float* df;                   // [T, H]
  float* dW;                   // [H, Dv, Dv], added to
  float* dD;                   // [H, Dv], added to; null with D
  float* d_initial_state;      // [documents, H, Dk, Dv] or null
  int64_t tokens, documents;
  int64_t q_stride, k_stride, v_stride;
  int32_t heads, key_dim, value_dim;
  DType dtype;
};

Support supports_m2rnn_fwd_sm90(const M2rnnFwd&, const Device&);
Support supports_m2rnn_bwd_sm90(const M2rnnBwd&, const Device&);
size_t workspace_m2rnn_bwd_sm90(const M2rnnBwd&);
void m2rnn_fwd_sm90(const M2rnnFwd&, const Launch&);
void m2rnn_bwd_sm90(const M2rnnBwd&, const Launch&);

}  // namespace weft::kernels
