// Cross-entropy over tiles of logits. A row's state is (max, sum of exp(z - max), target logit, sum of logits, best column); tiles of
// the vocabulary come in any cut, in order. With label smoothing a (0: none) over `vocab` columns, per row with label y:
//   loss = lse - (1 - a) z_y - a * mean(z);  dlogits = g (p - (1 - a) onehot(y) - a / vocab) + glse * p,  p = exp(z - lse)
// Rows with label == ignore_index have loss 0 and dlogits 0 (whatever g, glse hold). Deterministic. Bound: memory.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct XentTile {  // reads one tile [rows, cols] of logits and updates the state
  const void* logits;     // [rows, cols] dtype, rows `stride` elements apart
  const int64_t* labels;  // [rows]
  float* max;             // [rows]
  float* sum;             // [rows]
  float* target;          // [rows] logit of the label, once its tile came
  float* logit_sum;       // [rows], or null (needed for smoothing)
  int32_t* best;          // [rows] column of the highest logit so far, the lower column on ties; or null
  int64_t rows, stride, first_col;  // first_col: vocabulary index of the tile's column 0
  int32_t cols;
  bool first;  // true: the state is written, false: updated
  DType dtype;
};

struct XentLoss {  // after the last tile
  const int64_t* labels;   // [rows]
  const float* max;        // [rows]
  const float* sum;        // [rows]
  const float* target;     // [rows]
  const float* logit_sum;  // [rows], or null without smoothing
  float* lse;              // [rows], may alias max
  float* loss;             // [rows], may alias target
  int64_t rows, vocab, ignore_index;
  float smoothing;
};

struct XentGrad {  // dlogits of one tile from logits, in place
  const void* logits;     // [rows, cols] dtype, rows `stride` elements apart
  const int64_t* labels;  // [rows]
  const float* lse;       // [rows]
  const float* g;         // [rows] gradient of each row's loss: any values
  const float* glse;      // [rows] gradient of each row's lse (z-loss, log-probs), or null
  void* dlogits;          // [rows, cols] dtype, rows `stride` apart; may alias logits
  int64_t rows, stride, first_col, vocab, ignore_index;
  int32_t cols;
  float smoothing;
  DType dtype;
};

// Whether the gradients of the losses are those that an earlier pass was promised, without the host's waiting: |given - promised| <= 1e-5
// |promised| in every row. Where one is not (or is NaN), what was made of the promise becomes NaN: all of dx and the first element of dw.
struct XentPromise {
  const float* given;     // [rows]
  const float* promised;  // [rows]
  int32_t* broken;        // [1] written: 0 or 1
  void* dx;               // [elements] dtype, 16-byte aligned; or null
  float* dw;              // or null
  int64_t rows, elements;
  DType dtype;
};

Support supports_xent_tile_sm90(const XentTile&, const Device&);
Support supports_xent_loss_sm90(const XentLoss&, const Device&);
Support supports_xent_grad_sm90(const XentGrad&, const Device&);
Support supports_xent_promise_sm90(const XentPromise&, const Device&);
void xent_promise_sm90(const XentPromise&, const Launch&);
void xent_tile_sm90(const XentTile&, const Launch&);
void xent_loss_sm90(const XentLoss&, const Launch&);
void xent_grad_sm90(const XentGrad&, const Launch&);
Support supports_xent_tile_cpu(const XentTile&, const Device&);
Support supports_xent_loss_cpu(const XentLoss&, const Device&);
Support supports_xent_grad_cpu(const XentGrad&, const Device&);
void xent_tile_cpu(const XentTile&, const Launch&);
void xent_loss_cpu(const XentLoss&, const Launch&);
void xent_grad_cpu(const XentGrad&, const Launch&);

}  // namespace weft::kernels
