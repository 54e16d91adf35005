// What a micro-batch is (Ctx), what travels down the stack (Flow), and where its figures go (StepStats).
//
// Legend of shape suffixes, here and in every layer: T tokens of all documents in a row, D model dim, H heads, G key/value
// heads or state groups, K top-k, V vocabulary.
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "ops/packing.h"
#include "ops/policy.h"

namespace weft::ops {
class WgradQueue;
}
namespace weft::nn {

struct RngKey { uint64_t seed = 0, step = 0, microbatch = 0; };  // counter-based: dropout = f(key, layer name, global index)

// One normaliser for the LM, MTP and auxiliary losses (training.md 2). The trainer sets it before the forward; the total is
//   loss = lm * sum_t weight_t * nll_t + aux * aux_loss
// mean mode: lm = 1 / (tokens of the micro-batch x micro-batches), aux = 1 / micro-batches. Token mode: lm = 1, aux = tokens
// of the micro-batch, and every gradient is divided by the step's tokens after the last micro-batch.
struct LossScale { double lm = 1, aux = 1; };

class StateStore;  // nn/state.h

// Detached figures, once a micro-batch, whatever is recomputed. Values stay on the device until `read`.
class StepStats {
 public:
  struct Entry { at::Tensor sum; double count = 0; };
  // Adds `value` (any shape, fp32 sums) under `name`; `count` is what the reader divides by, such as tokens or 1 a layer.
  void add(const std::string& name, const at::Tensor& value, double count);
  at::Tensor find(const std::string& name) const;  // the sum so far; undefined when there is none
  std::map<std::string, Entry> take();             // everything so far; starts anew
 private:
  mutable std::mutex mutex_;  // pipeline stages and the backward's recompute may add at once
  std::map<std::string, Entry> entries_;
};

struct Ctx {  // constant during one micro-batch; shared, so that the graph keeps it alive
  enum Mode : uint8_t { kTrain, kLogprob, kPrefill, kDecode, kCalibrate } mode = kTrain;
  enum Pass : uint8_t { kForward, kRecompute } pass = kForward;
  at::Tensor tokens_T, targets_T, loss_weights_T, positions_T;  // int64, int64 (-1: no target), fp32, int32
  at::Tensor streams_ST;  // int32, -1 absent: the side streams of data/side_streams.h; undefined when the text has none
  double loss_weight_sum = 0;  // of loss_weights_T, known to the host: no sync
  ops::Packing packing;
  RngKey rng{};
  LossScale loss_scale{};
  bool logits_again = false;  // the loss's backward makes the logits again: one product more, less memory (ops/linear_cross_entropy.h)
  StepStats* stats = nullptr;
  StateStore* state = nullptr;  // keys, values and recurrent states of earlier calls; null while training
  ops::WgradQueue* wgrad = nullptr;
  ops::Policy ops;

  StepStats* figures() const { return pass == kRecompute ? nullptr : stats; }
};
using CtxPtr = std::shared_ptr<const Ctx>;

struct Flow {  // recompute, pipeline edges and offload walk `fields`
  at::Tensor x_TD;        // [T, D]; after the head: see nn/head.h
  at::Tensor pending_TD;  // a branch's output not yet added: the next norm adds and normalises in one pass
  at::Tensor indices_TK;  // int32: DSA's choice of keys, from the latest Full layer
  at::Tensor aux_loss;    // [] fp32, with gradient, unscaled
  at::Tensor loss;        // [] fp32, with gradient, scaled: what backward starts from. The head sets it
  template <class Self, class Visitor>
  static void fields(Self& f, Visitor& visit) {
    visit("x", f.x_TD), visit("pending", f.pending_TD), visit("indices", f.indices_TK), visit("aux_loss", f.aux_loss);
    visit("loss", f.loss);
  }
};

}  // namespace weft::nn
