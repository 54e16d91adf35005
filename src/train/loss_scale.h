// How a micro-batch's loss is scaled so that the sum of all gradients is that of the objective (training.md 2).
//
// mean mode:  loss = (1/M) sum over micro-batches of (sum_t w_t nll_t / n), n = sum of w over the micro-batch and its cp group.
//             Each rank's part is divided by D = dp too, because gradients are summed over dp x cp. Nothing is left to divide.
// token mode: loss = sum over everything of w_t nll_t / N, N = sum of w over the step, known after the last micro-batch: the
//             parts are left whole and the gradients are multiplied by unscale() = 1 / N at the end.
// The auxiliary losses have the same gradient in both modes when the micro-batches have equally many tokens.
#pragma once
#include "comm/comm.h"
#include "nn/ctx.h"
#include "train/settings.h"

namespace weft::train {

class LossScale {
 public:
  LossScale(LossMode mode, int64_t micro_batches, Comm& dp, Comm& cp) : mode_(mode), micro_batches_(micro_batches), dp_(dp), cp_(cp) {}
  void begin_step() { weight_ = 0; }
  nn::LossScale begin_microbatch(double weight_sum);  // of this rank's tokens. Collective over cp
  void end_step();                                    // collective over dp x cp
  double unscale() const;                             // after end_step()
  double step_weight() const { return weight_; }      // N, of all ranks, after end_step()

 private:
  LossMode mode_;
  int64_t micro_batches_;
  Comm &dp_, &cp_;
  double weight_ = 0;
};

}  // namespace weft::train
