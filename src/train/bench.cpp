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

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.size() % 2 == 1 ? v[v.size() / 2] : (v[v.size() / 2 - 1] + v[v.size() / 2]) / 2;
}

// The three products of one linear layer on T rows, as the library gives them: y = x w^T, dx = dy w, dw = dy^T x.
struct Products {
  at::Tensor x, w, dy;
  double count;
  std::vector<double> seconds;  // a round: of all `count`

  Products(int64_t t, int64_t n, int64_t k, double count_, at::TensorOptions where)
      : x(at::randn({t, k}, where)), w(at::randn({n, k}, where) * 0.02), dy(at::randn({t, n}, where)), count(count_) {}
  double flops() const { return 6.0 * static_cast<double>(x.size(0)) * static_cast<double>(w.numel()) * count; }
  double run() {
    const int64_t times = std::max<int64_t>(1, std::llround(count));
    const auto start = Clock::now();
    for (int64_t i = 0; i < times; ++i) {
      at::linear(x, w);
      at::mm(dy, w);
      const at::Tensor dw = at::mm(dy.t(), x);
      if (i + 1 == times && !dw.is_cpu()) dw[0][0].item<float>();  // waits for the device
    }
    seconds.push_back(since(start) * count / static_cast<double>(times));
    return seconds.back();
  }
};

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
  std::vector<Products> products;
  for (const auto& [shape, count] : shapes) products.emplace_back(tokens, shape.first, shape.second, count, at::TensorOptions().device(o.device).dtype(dtype));
  double flops = 0;
  for (const Products& p : products) flops += p.flops();
  r.model_gemm_flops = flops;

  const auto model = models::build(o.model);
  nn::materialize(*model, {o.device, dtype, 1, true});
  model->visit_params([&](nn::Param& p) { r.parameters += p.weight.value.numel(); });
  TrainerOptions t;
  t.train.steps = o.warm_up + o.rounds + 1, t.train.batch = o.micro_batch, t.train.micro_batch = o.micro_batch, t.train.precision = o.precision, t.train.loss_logits = o.loss_logits;
  t.policy = o.policy, t.device = o.device;
  Trainer trainer(*model, Mesh::single(), t);
  RandomTokens stream(o.micro_batch, o.seq_len, o.model.vocab_size);
  for (int i = 0; i < o.warm_up; ++i) {
    const double loss = trainer.step(stream).loss;
    if (i == 0) r.loss_first = loss;
    for (Products& p : products) p.run(), p.seconds.clear();
  }
  for (int i = 0; i < o.rounds; ++i) {
    Round round{};
    for (Products& p : products) round.gemm_seconds += p.run();
    const StepReport s = trainer.step(stream);
    round.step_seconds = s.seconds, r.loss_last = s.loss;
    if (o.peer) round.peer_tokens_per_second = o.peer();
    r.rounds.push_back(round);
  }
  if (o.profile) {
    const OpTimes times;
    const double cpu = process_cpu_seconds();
    r.profile_step_seconds = trainer.step(stream).seconds;
    r.profile_step_cpu_seconds = process_cpu_seconds() - cpu;
    r.profile = times.rows();
  }
  const auto middle = [&](auto of) {
    std::vector<double> all;
    for (const Round& round : r.rounds) all.push_back(of(round));
    return median(all);
  };
  const double trained = static_cast<double>(tokens);
  for (Products& p : products) {
    const double s = median(p.seconds);
    r.gemms.push_back({p.w.size(0), p.w.size(1), p.count, s, p.flops() / s});
  }
  r.gemm_flops_per_second = flops / middle([](const Round& x) { return x.gemm_seconds; });
  r.step_seconds = middle([](const Round& x) { return x.step_seconds; });
  r.tokens_per_second = trained / r.step_seconds;
  r.flops_per_second = r.model_gemm_flops / r.step_seconds;
  r.fraction = middle([](const Round& x) { return x.gemm_seconds / x.step_seconds; });
  r.peer_tokens_per_second = middle([](const Round& x) { return x.peer_tokens_per_second; });
  if (o.peer) r.peer_ratio = middle([&](const Round& x) { return trained / x.step_seconds / x.peer_tokens_per_second; });
  return r;
}

Json to_json(const BenchReport& r) {
  Json gemms = Json::array(), rounds = Json::array(), profile = Json::array();
  for (const GemmRate& g : r.gemms) gemms.push_back({{"n", g.n}, {"k", g.k}, {"count", g.count}, {"seconds", g.seconds}, {"flops_per_second", g.flops_per_second}});
  for (const Round& x : r.rounds) rounds.push_back({{"gemm_s", x.gemm_seconds}, {"step_s", x.step_seconds}, {"peer_tokens_per_second", x.peer_tokens_per_second}});
  for (const OpTimes::Row& p : r.profile) profile.push_back({{"op", p.name}, {"calls", p.calls}, {"seconds", p.seconds}, {"cpu_seconds", p.cpu_seconds}});
  return {{"parameters", r.parameters}, {"tokens_per_second", r.tokens_per_second}, {"step_s", r.step_seconds}, {"model_gemm_flops", r.model_gemm_flops},
          {"flops_per_second", r.flops_per_second}, {"gemm_flops_per_second", r.gemm_flops_per_second}, {"fraction", r.fraction},
          {"peer_tokens_per_second", r.peer_tokens_per_second}, {"peer_ratio", r.peer_ratio}, {"first_loss", r.loss_first},
          {"last_loss", r.loss_last}, {"gemms", gemms}, {"rounds", rounds}, {"profile", profile}};
}

static std::string profile_text(const BenchReport& r) {
  std::string s = fmt::format("one step of {} and {} of CPU time, by operator:\n", human_seconds(r.profile_step_seconds), human_seconds(r.profile_step_cpu_seconds));
  const auto line = [&](std::string_view what, const std::string& calls, double seconds, double cpu) {
    s += fmt::format("  {:<32} {:>12} {:>10.1f} ms {:5.1f} %  cpu {:>10.1f} ms {:5.1f} %\n", what, calls, 1e3 * seconds, 100 * seconds / r.profile_step_seconds, 1e3 * cpu,
                     100 * cpu / r.profile_step_cpu_seconds);
  };
  OpTimes::Row all{}, small{};
  for (const OpTimes::Row& p : r.profile) {
    all.seconds += p.seconds, all.cpu_seconds += p.cpu_seconds;
    if (p.seconds < 0.002 * r.profile_step_seconds) small.seconds += p.seconds, small.cpu_seconds += p.cpu_seconds, small.calls += p.calls;
    else line(p.name, fmt::format("{} calls", p.calls), p.seconds, p.cpu_seconds);
  }
  line("all others", fmt::format("{} calls", small.calls), small.seconds, small.cpu_seconds);
  line("between operators", "", r.profile_step_seconds - all.seconds, r.profile_step_cpu_seconds - all.cpu_seconds);
  return s;
}

std::string bench_text(const BenchReport& r) {
  std::string s;
  for (const GemmRate& g : r.gemms) s += fmt::format("  gemm {:>6} x {:<6} x {:<4} {:8.3f} TFLOP/s\n", g.n, g.k, g.count, g.flops_per_second / 1e12);
  s += fmt::format("the model's products alone: {:.3f} TFLOP/s, weighted by their FLOPs\n", r.gemm_flops_per_second / 1e12);
  s += fmt::format("training: {} parameters, {} tokens/s, step {}, {:.3f} TFLOP/s in products: {:.1f} % of that rate (rounds:", human_count(static_cast<double>(r.parameters)),
                   human_count(r.tokens_per_second), human_seconds(r.step_seconds), r.flops_per_second / 1e12, 100 * r.fraction);
  for (const Round& x : r.rounds) s += fmt::format(" {:.1f}", 100 * x.gemm_seconds / x.step_seconds);
  s += ")\n";
  if (r.peer_ratio > 0) s += fmt::format("the other trainer: {} tokens/s; ours is {:.1f} times as fast\n", human_count(r.peer_tokens_per_second), r.peer_ratio);
  return r.profile.empty() ? s : s + profile_text(r);
}

}  // namespace weft::train
