// Mamba-2 state-space duality (Dao and Gu 2024), one row of packed documents. Per head h of group g = h / (H / G):
//   S_t = exp(A_h dt_t) S_{t-1} + dt_t x_t B_t^T   [P, N]        y_t = S_t C_t + D_h x_t
// Each document starts from its initial state, or from zero. Chunks of kSsdChunk tokens are counted from the document's start.
// Deterministic: every sum has a fixed order. NaN in a document stays in that document.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

constexpr int kSsdChunk = 64;

// Saved states: chunk c of document d (first token s) has slot s / kSsdChunk + d + c; slots that no chunk owns are not written.
constexpr int64_t ssd_state_slots(int64_t tokens, int64_t documents) { return tokens / kSsdChunk + documents; }

struct SsdFwd {
  const void* x;               // [T, H, P] dtype, token stride x_stride elements
  const float* dt;             // [T, H], after softplus, >= 0
  const float* A;              // [H], negative
  const void* B;               // [T, G, N] dtype, token stride B_stride
  const void* C;               // [T, G, N] dtype, token stride C_stride
  const float* D;              // [H] or null
  const int32_t* cu_seqlens;   // [documents + 1] on the device, from 0 to T
  const float* initial_state;  // [documents, H, P, N] or null
  void* y;                     // [T, H, P] dtype, contiguous
  void* states;                // [ssd_state_slots, H, P, N] bf16: S before each chunk; or null when no backward follows
  float* final_state;          // [documents, H, P, N] or null
  int64_t tokens, documents;   // T
  int64_t x_stride, B_stride, C_stride;
  int32_t heads, groups, head_dim, state_dim;  // H, G, P, N
  DType dtype;
};

struct SsdBwd {
  const void* dy;  // [T, H, P] dtype, contiguous
  const void* x;   // as in SsdFwd
  const float* dt;
  const float* A;
  const void* B;
  const void* C;
  const float* D;
  const int32_t* cu_seqlens;
  const void* states;           // of the forward
  const float* d_final_state;   // [documents, H, P, N] or null
  void* dx;                     // [T, H, P] dtype, contiguous
  float* d_dt;                  // [T, H]
  float* dA;                    // [H], added to
  void* dB;                     // [T, G, N] dtype, contiguous
  void* dC;                     // [T, G, N] dtype, contiguous
  float* dD;                    // [H], added to; null when D is null
  float* d_initial_state;       // [documents, H, P, N] or null
  int64_t tokens, documents;
  int64_t x_stride, B_stride, C_stride;
  int32_t heads, groups, head_dim, state_dim;
  DType dtype;
  const float* initial_state;   // as in SsdFwd (the sm90 kernel finds it in `states`)
};

// One token for each of `rows` sequences; state rows are picked by slot. y may alias x.
struct SsdStep {
  const void* x;            // [rows, H, P] dtype, row stride x_stride
  const float* dt;          // [rows, H], after softplus
  const float* A;           // [H]
  const void* B;            // [rows, G, N] dtype, row stride B_stride
  const void* C;            // [rows, G, N] dtype, row stride C_stride
  const float* D;           // [H] or null
  const int32_t* slots;     // [rows] row of `state`, or null for 0, 1, 2, ...; a negative slot skips the row (its y is not written)
  float* state;             // [pool, H, P, N], updated in place
  void* y;                  // [rows, H, P] dtype, contiguous
  int64_t rows;
  int64_t x_stride, B_stride, C_stride;
  int32_t heads, groups, head_dim, state_dim;
  DType dtype;
};

Support supports_ssd_fwd_sm90(const SsdFwd&, const Device&);
Support supports_ssd_bwd_sm90(const SsdBwd&, const Device&);
Support supports_ssd_step_sm90(const SsdStep&, const Device&);
size_t workspace_ssd_bwd_sm90(const SsdBwd&);
Support supports_ssd_fwd_cpu(const SsdFwd&, const Device&);
Support supports_ssd_bwd_cpu(const SsdBwd&, const Device&);
Support supports_ssd_step_cpu(const SsdStep&, const Device&);
size_t workspace_ssd_bwd_cpu(const SsdBwd&);
void ssd_fwd_sm90(const SsdFwd&, const Launch&);
void ssd_bwd_sm90(const SsdBwd&, const Launch&);
void ssd_step_sm90(const SsdStep&, const Launch&);
// The CPU's backward recomputes the states: `states` is neither written nor read.
void ssd_fwd_cpu(const SsdFwd&, const Launch&);
void ssd_bwd_cpu(const SsdBwd&, const Launch&);
void ssd_step_cpu(const SsdStep&, const Launch&);

}  // namespace weft::kernels
