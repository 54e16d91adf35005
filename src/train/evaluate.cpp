#include "ops/aten.h"

#include "train/evaluate.h"

#include <chrono>
#include <cmath>

#include "base/error.h"
#include "data/batch.h"
#include "train/trainer.h"

namespace weft::train {

EvalReport evaluate(nn::Module& model, std::shared_ptr<const data::Dataset> set, const EvalOptions& o, int64_t step) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t samples = o.samples > 0 ? std::min(o.samples, set->size()) : set->size();
  if (samples == 0) throw InputError("evaluation: the validation set has no sample of this length\n  try: a smaller data.seq_len, or more text");
  const at::NoGradGuard no_grad;
  double loss = 0, count = 0;
  for (int64_t at = 0; at < samples; at += o.micro_batch) {
    std::vector<int64_t> indices;
    for (int64_t i = at; i < std::min(samples, at + o.micro_batch); ++i) indices.push_back(i);
    nn::StepStats stats;
    auto ctx = make_context(data::make_batch(*set, indices), o.device, o.policy);
    ctx->stats = &stats;
    model(nn::Flow{}, ctx);
    const auto entry = stats.take().at("loss");
    loss += entry.sum.sum().item<double>(), count += entry.count;
  }
  EvalReport r;
  r.step = step, r.samples = samples, r.tokens = static_cast<int64_t>(count);
  r.loss = count > 0 ? loss / count : 0;
  r.perplexity = std::exp(r.loss);
  r.bits_per_byte = o.bytes_per_token > 0 ? r.loss / std::log(2.0) / o.bytes_per_token : 0;
  r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return r;
}

}  // namespace weft::train
