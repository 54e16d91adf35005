#include "ops/aten.h"

#include "train/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "base/rng.h"
#include "base/text.h"
#include "models/build.h"
#include "nn/init.h"
#include "train/trainer.h"

namespace weft::train {
namespace {

using Clock = std::chrono::steady_clock;

template <class F>
double best_seconds(F f, int rounds) {
  double best = 1e300;
  for (int i = 0; i < rounds; ++i) {
    const auto start = Clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

// The three products of one linear layer on T rows, as the library gives them: y = x w^T, dx = dy w, dw = dy^T x.
GemmRate measure(int64_t t, int64_t n, int64_t k, double count, at::TensorOptions where) {
  const at::Tensor x = at::randn({t, k}, where), w = at::randn({n, k}, where) * 0.02, dy = at::randn({t, n}, where);
  const auto all = [&] {
    at::linear(x, w);
    at::mm(dy, w);
    at::mm(dy.t(), x);
  };
  all();
  const double s = best_seconds(all, 3), flops = 6.0 * static_cast<double>(t) * static_cast<double>(n) * static_cast<double>(k);
  return {n, k, count, s * count, flops / s};
}

class RandomTokens final : public data::BatchStream {  // documents as long as a sample
 public:
  RandomTokens(int64_t rows, int64_t seq_len, int64_t vocab) : rows_(rows), seq_len_(seq_len), vocab_(vocab) {}
  data::Batch next() override {
    const int64_t n = rows_ * seq_len_;
    data::Batch b;
    b.tokens = at::empty({n}, at::kLong);
    for (int64_t i = 0; i < n; ++i) b.tokens.data_ptr<int64_t>()[i] = static_cast<int64_t>(rng::below(11, static_cast<uint64_t>(at_ * seq_len_ + i), static_cast<uint64_t>(vocab_)));
    b.targets = b.tokens.roll({-1});
    b.loss_weights = at::ones({n});
    b.positions = at::arange(seq_len_, at::kInt).repeat({rows_});
    b.packing = ops::Packing::of(std::vector<int32_t>(static_cast<size_t>(rows_), static_cast<int32_t>(seq_len_)));
    at_ += rows_;
    return b;
  }
  data::Cursor cursor() const override { return {at_, 0}; }

 private:
  int64_t rows_, seq_len_, vocab_, at_ = 0;
};

}  // namespace

BenchReport bench_train(const BenchOptions& o) {
  BenchReport r;
  const at::ScalarType dtype = o.precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat;
  const int64_t tokens = o.micro_batch * o.seq_len;
  std::map<std::pair<int64_t, int64_t>, double> shapes;
  for (const models::GemmShape& g : models::gemm_shapes(o.model)) shapes[{g.n, g.k}] += g.count;
  double seconds = 0, flops = 0;
  for (const auto& [shape, count] : shapes) {
    r.gemms.push_back(measure(tokens, shape.first, shape.second, count, at::TensorOptions().device(o.device).dtype(dtype)));
    seconds += r.gemms.back().seconds, flops += r.gemms.back().flops_per_second * r.gemms.back().seconds;
  }
  r.gemm_flops_per_second = flops / seconds;
  r.model_gemm_flops = flops * static_cast<double>(o.micro_batches);

  const auto model = models::build(o.model);
  nn::materialize(*model, {o.device, dtype, 1, true});
  model->visit_params([&](nn::Param& p) { r.parameters += p.weight.value.numel(); });
  TrainerOptions t;
  t.train.steps = o.warm_up + o.steps, t.train.batch = o.micro_batch * o.micro_batches, t.train.micro_batch = o.micro_batch, t.train.precision = o.precision;
  t.policy = o.policy, t.device = o.device;
  Trainer trainer(*model, Mesh::single(), t);
  RandomTokens stream(o.micro_batch, o.seq_len, o.model.vocab_size);
  std::vector<double> times;
  for (int i = 0; i < o.warm_up + o.steps; ++i) {
    const StepReport s = trainer.step(stream);
    if (i == 0) r.loss_first = s.loss;
    r.loss_last = s.loss;
    if (i >= o.warm_up) times.push_back(s.seconds);
  }
  std::sort(times.begin(), times.end());
  r.step_seconds = times[times.size() / 2];
  r.tokens_per_second = static_cast<double>(tokens * o.micro_batches) / r.step_seconds;
  r.flops_per_second = r.model_gemm_flops / r.step_seconds;
  r.fraction = r.flops_per_second / r.gemm_flops_per_second;
  return r;
}

Json to_json(const BenchReport& r) {
  Json gemms = Json::array();
  for (const GemmRate& g : r.gemms) gemms.push_back({{"n", g.n}, {"k", g.k}, {"count", g.count}, {"seconds", g.seconds}, {"flops_per_second", g.flops_per_second}});
  return {{"parameters", r.parameters}, {"tokens_per_second", r.tokens_per_second}, {"step_s", r.step_seconds}, {"model_gemm_flops", r.model_gemm_flops},
          {"flops_per_second", r.flops_per_second}, {"gemm_flops_per_second", r.gemm_flops_per_second}, {"fraction", r.fraction}, {"first_loss", r.loss_first},
          {"last_loss", r.loss_last}, {"gemms", gemms}};
}

std::string bench_text(const BenchReport& r) {
  std::string s;
  for (const GemmRate& g : r.gemms) s += fmt::format("  gemm {:>6} x {:<6} x {:<4} {:8.3f} TFLOP/s\n", g.n, g.k, g.count, g.flops_per_second / 1e12);
  s += fmt::format("the model's products alone: {:.3f} TFLOP/s, weighted by their FLOPs\n", r.gemm_flops_per_second / 1e12);
  return s + fmt::format("training: {} parameters, {} tokens/s, step {}, {:.3f} TFLOP/s in products: {:.1f} % of that rate\n", human_count(static_cast<double>(r.parameters)),
                         human_count(r.tokens_per_second), human_seconds(r.step_seconds), r.flops_per_second / 1e12, 100 * r.fraction);
}

}  // namespace weft::train
