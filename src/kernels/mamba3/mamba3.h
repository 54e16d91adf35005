// Mamba-3 scan, SISO (R = 1) and MIMO (rank R), with bias, rotation, trapezoidal rule, skip and gate fused; packed documents.
// Per head, t in its document (all state zero before it, or the initial state), g = h / (H / G), alpha = exp(a):
//   theta_t = theta_{t-1} + omega_t dt_t (mod 2 pi)                    [A2] angles
//   k_{t,r} = Rot(theta_t, B_{t,r,g} + B_bias_{h,r})   q_{t,r} = Rot(theta_t, C_{t,r,g} + C_bias_{h,r})
//   v_{t,r} = x_t * mimo_x_{h,r}     U_t = sum_r k_{t,r} v_{t,r}^T      [N, P]
//   h_t = alpha_t h_{t-1} + (1 - lambda_t) dt_t alpha_t U_{t-1} + lambda_t dt_t U_t
//   y_{t,r} = h_t^T q_{t,r} + D_h v_{t,r}      o_t = sum_r mimo_o_{h,r} * y_{t,r} * silu(z_t * mimo_z_{h,r})
// Rot pairs components (i, i + N/2) when R > 1 and (2i, 2i + 1) when R = 1, for i < A2; the others pass. B and C come RMS-normed.
// Deterministic: every sum has a fixed order.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

constexpr int kMamba3Span = 64;  // tokens between saved states
// Span c of document d (first token s) has slot s / kMamba3Span + d + c; slots that no span owns are not written.
constexpr int64_t mamba3_state_slots(int64_t tokens, int64_t documents) { return tokens / kMamba3Span + documents; }

struct Mamba3Inputs {
  const void* x;             // [T, H, P] dtype, token stride x_stride
  const void* z;             // [T, H, P] dtype, token stride z_stride; null: no gate
  const void* B;             // [T, R, G, N] dtype, token stride B_stride
  const void* C;             // [T, R, G, N] dtype, token stride C_stride
  const float* dt;           // [T, H], after softplus
  const float* a;            // [T, H], A_t dt_t <= 0
  const float* lambda;       // [T, H], after the sigmoid
  const float* omega;        // [T, A2], pi tanh(angle)
  const float* B_bias;       // [H, R, N]
  const float* C_bias;       // [H, R, N]
  const float* mimo_x;       // [H, R, P], or null (ones) when R = 1
  const float* mimo_z;       // as mimo_x
  const float* mimo_o;       // as mimo_x
  const float* D;            // [H] or null
  const int32_t* cu_seqlens; // [documents + 1] on the device
  int64_t tokens, documents;
  int64_t x_stride, z_stride, B_stride, C_stride;
  int32_t heads, groups, head_dim, state_dim, rank, angles;  // H, G, P, N, R, A2
  DType dtype;
};

struct Mamba3State {  // of each document; all null or all set
  float* h;      // [documents, H, P, N]
  float* theta;  // [documents, H, A2]
  float* k;      // [documents, H, R, N], rotated, of the last token
  float* x;      // [documents, H, P], of the last token
};

struct Mamba3Fwd {
  Mamba3Inputs in;
  Mamba3State initial;  // read
  void* o;              // [T, H, P] dtype, contiguous
  void* states;         // [mamba3_state_slots, H, P, N] bf16: before each span, h_{t-1} + (1 - lambda_t) dt_t U_{t-1}; null: no backward follows
  float* thetas;        // [mamba3_state_slots, H, A2], theta_{t-1} before each span; null with states
  Mamba3State last;     // written
};

// The forward had no initial state: its gradient does not reach one.
struct Mamba3Bwd {
  Mamba3Inputs in;
  const void* d_o;      // [T, H, P] dtype, contiguous
  const void* states;
  const float* thetas;
  void* dx;             // [T, H, P] dtype, contiguous
  void* dz;             // [T, H, P] dtype, contiguous; null with z
  void* dB;             // [T, R, G, N] dtype, contiguous, with respect to the normed B
  void* dC;             // [T, R, G, N] dtype, contiguous
  float* d_dt;          // [T, H], the direct part and that of theta; the part through a = A dt is the caller's
  float* d_a;           // [T, H]
  float* d_lambda;      // [T, H]
  float* d_omega;       // [T, A2]
  float* dB_bias;       // [H, R, N], added to; as all below
  float* dC_bias;       // [H, R, N]
  float* d_mimo_x;      // [H, R, P] or null
  float* d_mimo_z;
  float* d_mimo_o;
  float* dD;            // [H] or null
};

struct Mamba3Step {  // one token a row; state rows picked by slot; `in.tokens` rows, `in.cu_seqlens` and `in.documents` unused
  Mamba3Inputs in;
  const int32_t* slots;  // [rows] or null for 0, 1, 2, ...; negative: row skipped, o not written
  Mamba3State state;     // pools [pool, ...], updated in place
  void* o;               // [rows, H, P] dtype, contiguous
};

Support supports_mamba3_fwd_sm90(const Mamba3Fwd&, const Device&);
Support supports_mamba3_bwd_sm90(const Mamba3Bwd&, const Device&);
Support supports_mamba3_step_sm90(const Mamba3Step&, const Device&);
size_t workspace_mamba3_bwd_sm90(const Mamba3Bwd&);
void mamba3_fwd_sm90(const Mamba3Fwd&, const Launch&);
void mamba3_bwd_sm90(const Mamba3Bwd&, const Launch&);
void mamba3_step_sm90(const Mamba3Step&, const Launch&);

}  // namespace weft::kernels
