#include "train/watch.h"

#include <fmt/format.h>

#include <cmath>

#include "base/log.h"
#include "base/signals.h"
#include "base/text.h"

namespace weft::train {

Verdict Stopper::on_step(const StepReport& r) {
  if (const int s = signals::requested(); s != 0 && r.step < r.total_steps) {
    why_ = signals::name(s);
    return Verdict::kSaveAndStop;
  }
  const double minutes = std::chrono::duration<double, std::ratio<60>>(std::chrono::steady_clock::now() - start_).count();
  if (max_minutes_ > 0 && minutes >= max_minutes_ && r.step < r.total_steps) {
    why_ = fmt::format("the time limit of {:g} min", max_minutes_);
    return Verdict::kSaveAndStop;
  }
  return every_ > 0 && r.step % every_ == 0 && r.step < r.total_steps ? Verdict::kSave : Verdict::kGoOn;
}

Verdict Spikes::on_step(const StepReport& r) {
  if (factor_ <= 0 || !std::isfinite(r.loss)) return Verdict::kGoOn;
  const double above = r.loss - mean_;
  if (steps_ >= warmup_ && above > factor_ * distance_ && above > 0.05 * std::fabs(mean_)) {
    ++count_;
    log::warn(fmt::format("step {}: loss spike: {:.4f}, running mean {:.4f} +- {:.4f}; gradient norm {:.3g}", r.step, r.loss, mean_, distance_, r.grad_norm));
    return Verdict::kGoOn;
  }
  // The first steps count fully: a running mean that starts at the first loss, not at zero.
  const double keep = std::min(keep_, static_cast<double>(steps_) / static_cast<double>(steps_ + 1));
  mean_ = keep * mean_ + (1 - keep) * r.loss;
  distance_ = keep * distance_ + (1 - keep) * std::fabs(r.loss - mean_);
  ++steps_;
  return Verdict::kGoOn;
}

std::string progress_text(const StepReport& r, double seconds_a_step) {
  std::string s = fmt::format("step {}/{}  loss {:.4f}", r.step, r.total_steps, r.loss);
  if (r.bits_per_byte > 0) s += fmt::format("  {:.3f} bits/byte", r.bits_per_byte);
  s += fmt::format("  norm {:.3g}  lr {:.2e}  {} tok/s", r.grad_norm, r.lr, human_count(r.tokens_per_second));
  if (r.peak_fraction > 0) s += fmt::format("  {:.0f} % of peak", 100 * r.peak_fraction);
  s += fmt::format("  {}  ETA {}", human_bytes(r.memory_bytes), human_seconds(seconds_a_step * static_cast<double>(r.total_steps - r.step)));
  return r.skipped ? s + "  skipped: not finite" : s;
}

Verdict Progress::on_step(const StepReport& r) {
  seconds_ = seconds_ == 0 ? r.seconds : 0.9 * seconds_ + 0.1 * r.seconds;
  log::progress(progress_text(r, seconds_), r.step == r.total_steps || r.skipped);
  return Verdict::kGoOn;
}

void Progress::on_eval(const EvalReport& e) {
  std::string s = fmt::format("step {}  validation loss {:.4f}", e.step, e.loss);
  if (e.bits_per_byte > 0) s += fmt::format("  {:.3f} bits/byte", e.bits_per_byte);
  log::end_progress();
  log::info(s + fmt::format("  perplexity {:.2f}  ({} tokens, {})", e.perplexity, human_count(static_cast<double>(e.tokens)), human_seconds(e.seconds)));
}

}  // namespace weft::train
