#include "train/loss_scale.h"

#include <algorithm>

namespace weft::train {
namespace {

double sum_over(Comm& comm, double v, const char* what) {
  double out = v;
  if (comm.size() > 1) comm.all_reduce(&v, &out, 1, DType::kF64, Reduce::kSum, {what});
  return out;
}

}  // namespace

nn::LossScale LossScale::begin_microbatch(double n) {
  weight_ += n;
  const double m = static_cast<double>(micro_batches_), d = static_cast<double>(dp_.size()), c = static_cast<double>(cp_.size());
  if (mode_ == LossMode::kToken) return {1, n};
  const double whole = sum_over(cp_, n, "tokens of a micro-batch");
  return {whole > 0 ? 1 / (whole * m * d) : 0, 1 / (m * d * c)};
}

void LossScale::end_step() {
  weight_ = sum_over(dp_, sum_over(cp_, weight_, "tokens of a step"), "tokens of a step");
}

double LossScale::unscale() const { return mode_ == LossMode::kToken ? 1 / std::max(weight_, 1.0) : 1; }

}  // namespace weft::train
