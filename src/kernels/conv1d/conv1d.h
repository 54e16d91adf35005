// Depthwise causal convolution over tokens: a[t, c] = bias[c] + sum_{j<width} w[c, j] * x[t - (width-1) + j, c], y = silu(a) or a.
// Tokens before a document's first are its initial state (column i of state is the input width-1-i tokens before the start), or 0.
// The final state holds the last width-1 inputs, columns of the initial state carried over where the document is shorter.
// Math in fp32, rounded once. Sums over tokens in a fixed order (deterministic). Bound: memory, x and y once.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct Conv1dFwd {
  const void* x;              // [tokens, channels] dtype, tokens x_stride elements apart
  const void* w;              // [channels, width] dtype
  const void* bias;           // [channels] dtype, or null
  const int32_t* cu;          // [documents + 1] first tokens of documents, or null: one document
  const void* initial_state;  // [documents, channels, width - 1] dtype, or null for zeros
  void* y;                    // [tokens, channels] dtype, tokens y_stride apart; does not alias x
  void* final_state;          // [documents, channels, width - 1] dtype, or null; may alias initial_state
  int64_t tokens, x_stride, y_stride;
  int32_t channels, width, documents;
  bool silu;
  DType dtype;
};

struct Conv1dBwd {
  const void* dy;              // [tokens, channels] dtype, tokens dy_stride apart
  const void* x;               // as forward
  const void* w;               // as forward
  const void* bias;            // as forward
  const int32_t* cu;           // as forward
  const void* initial_state;   // as forward
  const void* dfinal_state;    // [documents, channels, width - 1] dtype, or null
  void* dx;                    // [tokens, channels] dtype, tokens dx_stride apart; does not alias x or dy
  float* dw;                   // [channels, width] fp32, added to; or null
  float* dbias;                // [channels] fp32, added to; or null
  void* dinitial_state;        // [documents, channels, width - 1] dtype, written; or null
  int64_t tokens, dy_stride, x_stride, dx_stride;
  int32_t channels, width, documents;
  bool silu;
  DType dtype;
};

// One token a sequence: state (in place) is shifted left by one and takes x; y as above.
struct Conv1dStep {
  const void* x;         // [rows, channels] dtype, rows x_stride apart
  const void* w;         // [channels, width] dtype
  const void* bias;      // [channels] dtype, or null
  const int32_t* slots;  // [rows] row of `state`, below 0: padding (y is 0); or null: row i
  void* state;           // [slots, channels, width - 1] dtype, updated
  void* y;               // [rows, channels] dtype, contiguous
  int64_t rows, x_stride;
  int32_t channels, width;
  bool silu;
  DType dtype;
};

Support supports_conv1d_fwd_sm90(const Conv1dFwd&, const Device&);
Support supports_conv1d_bwd_sm90(const Conv1dBwd&, const Device&);
Support supports_conv1d_step_sm90(const Conv1dStep&, const Device&);
size_t workspace_conv1d_bwd_sm90(const Conv1dBwd&);
Support supports_conv1d_fwd_cpu(const Conv1dFwd&, const Device&);
Support supports_conv1d_bwd_cpu(const Conv1dBwd&, const Device&);
Support supports_conv1d_step_cpu(const Conv1dStep&, const Device&);
void conv1d_fwd_sm90(const Conv1dFwd&, const Launch&);
void conv1d_bwd_sm90(const Conv1dBwd&, const Launch&);
void conv1d_step_sm90(const Conv1dStep&, const Launch&);
void conv1d_fwd_cpu(const Conv1dFwd&, const Launch&);
void conv1d_bwd_cpu(const Conv1dBwd&, const Launch&);
void conv1d_step_cpu(const Conv1dStep&, const Launch&);

}  // namespace weft::kernels
