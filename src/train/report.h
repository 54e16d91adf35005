// What a step tells, and who listens. A callback sees a finished report and answers with a verdict; it never touches a step.
#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace weft::train {

struct StepReport {
  int64_t step = 0, total_steps = 0;
  int64_t consumed_samples = 0, consumed_tokens = 0;
  double loss = 0;           // nats a token, mean over the step's tokens
  double bits_per_byte = 0;  // 0 when bytes per token are not known
  double grad_norm = 0;      // before clipping
  double lr = 0, seconds = 0, tokens_per_second = 0;
  double flops_per_second = 0, peak_fraction = 0;  // of the model's GEMMs; of the rate measured at start
  uint64_t memory_bytes = 0;
  bool skipped = false;                    // not finite, and the rule says to go on
  std::map<std::string, double> figures;  // of the layers: auxiliary losses, expert loads
};

struct EvalReport {
  int64_t step = 0, tokens = 0, samples = 0;
  double loss = 0, bits_per_byte = 0, perplexity = 0, seconds = 0;
};

enum class Verdict : uint8_t { kGoOn, kSave, kSaveAndStop };

class Callback {
 public:
  virtual ~Callback() = default;
  virtual Verdict on_step(const StepReport&) { return Verdict::kGoOn; }
  virtual void on_eval(const EvalReport&) {}
  virtual void before_save() {}  // make durable what belongs to the state about to be saved
};

}  // namespace weft::train
