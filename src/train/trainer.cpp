#include "ops/aten.h"

#include "train/trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <set>

#include "base/cpu.h"
#include "base/error.h"
#include "optim/clip.h"
#include "train/blame.h"

namespace weft::train {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

std::shared_ptr<nn::Ctx> make_context(const data::Batch& b, at::Device device, const ops::Policy& policy) {
  auto ctx = std::make_shared<nn::Ctx>();
  const auto move = [&](const at::Tensor& t) { return t.defined() ? t.to(device, t.scalar_type(), /*non_blocking=*/true) : t; };
  ctx->tokens_T = move(b.tokens), ctx->targets_T = move(b.targets);
  ctx->loss_weights_T = move(b.loss_weights), ctx->positions_T = move(b.positions);
  ctx->streams_ST = move(b.streams);
  ctx->loss_weight_sum = b.loss_weights.sum(at::kDouble).item<double>();  // on the host still: no sync
  ctx->packing = b.packing;
  ctx->packing.cu_q = move(b.packing.cu_q), ctx->packing.kv_lens = move(b.packing.kv_lens);
  ctx->ops = policy;
  return ctx;
}

Trainer::Trainer(nn::Module& model, const Mesh& mesh, const TrainerOptions& options)
    : model_(model), mesh_(mesh), options_(options),
      scale_(options.train.loss_mode, options.train.batch / options.train.micro_batch / mesh.size(Axis::kDp), mesh_.comm({Axis::kDp}), mesh_.comm({Axis::kCp})) {
  if (options.train.batch % (options.train.micro_batch * mesh.size(Axis::kDp)) != 0)
    throw ConfigError(fmt::format("train.batch: got {}, want a multiple of micro_batch x dp = {}", options.train.batch, options.train.micro_batch * mesh.size(Axis::kDp)));
  std::vector<ops::Weight*> weights;
  std::set<const ops::Weight*> decayed;
  model.visit_params([&](nn::Param& p) {
    weights.push_back(&p.weight);
    if (p.spec.decay) decayed.insert(&p.weight);
  });
  arena_ = std::make_unique<GradArena>(weights, mesh_.comm({Axis::kDp, Axis::kCp}), ArenaOptions{.bucket_elements = options.bucket_elements});
  optimizer_ = std::make_unique<optim::AdamW>(options.optimizer, *arena_, [&](const ops::Weight& w) { return decayed.count(&w) != 0; }, options.policy);
}

Trainer::~Trainer() = default;

nn::CtxPtr Trainer::context(const data::Batch& b, nn::LossScale scale, int64_t microbatch, nn::StepStats* stats) const {
  auto ctx = make_context(b, options_.device, options_.policy);
  ctx->loss_scale = scale;
  ctx->logits_again = options_.train.loss_logits == LossLogits::kAgain;
  ctx->rng = {options_.train.seed, static_cast<uint64_t>(state_.step), static_cast<uint64_t>(microbatch)};
  ctx->stats = stats;
  return ctx;
}

StepReport Trainer::step(data::BatchStream& stream) {
  const auto start = Clock::now();
  const int64_t micro_batches = options_.train.batch / options_.train.micro_batch / mesh_.size(Axis::kDp);
  nn::StepStats stats;
  std::vector<data::Batch> batches;  // kept for blame: token ids, small
  int64_t tokens = 0;
  arena_->zero();
  scale_.begin_step();
  for (int64_t m = 0; m < micro_batches; ++m) {
    batches.push_back(stream.next());
    tokens += batches.back().tokens.numel();
    const double weight = batches.back().loss_weights.sum(at::kDouble).item<double>();
    const nn::CtxPtr ctx = context(batches.back(), scale_.begin_microbatch(weight), m, &stats);
    arena_->begin_backward(m + 1 == micro_batches);
    model_(nn::Flow{}, ctx).loss.backward();
  }
  arena_->finish();
  scale_.end_step();
  const optim::Clip clip = optim::clip(*arena_, scale_.unscale(), options_.optimizer.clip_norm, mesh_.comm({Axis::kTp}), options_.policy);
  const double lr = optim::learning_rate(options_.schedule, state_.step + 1, options_.train.steps);
  optimizer_->step(lr, state_.updates + 1, clip.grad_scale, clip.skip);

  StepReport r;
  r.grad_norm = clip.norm.item<double>();  // the step's one sync
  r.skipped = !std::isfinite(r.grad_norm);
  if (!r.skipped) model_.visit("**", [&](nn::Module& m) { m.after_step(stats); });
  auto entries = stats.take();
  double loss_sum = entries.at("loss").sum.sum().item<double>(), loss_count = entries.at("loss").count;
  if (Comm& all = mesh_.comm({Axis::kDp, Axis::kCp}); all.size() > 1) {
    const double in[2] = {loss_sum, loss_count};
    double out[2] = {};
    all.all_reduce(in, out, 2, DType::kF64, Reduce::kSum, {"loss"});
    loss_sum = out[0], loss_count = out[1];
  }
  r.loss = loss_count > 0 ? loss_sum / loss_count : 0;
  if ((r.skipped || !std::isfinite(r.loss)) && options_.train.on_non_finite == OnNonFinite::kStop)
    throw NonFiniteError(fmt::format("step {}: loss {}, gradient norm {}: first bad tensor: {}\n  try: a lower schedule.lr, or train.on_non_finite = \"skip\"",
                                     state_.step + 1, r.loss, r.grad_norm, blame(batches, std::isfinite(r.loss))));
  ++state_.step;
  state_.updates += r.skipped ? 0 : 1;
  state_.consumed_samples = stream.cursor().consumed_samples;
  state_.consumed_tokens += tokens * mesh_.size(Axis::kDp);
  for (auto& [key, e] : entries)
    if (key != "loss" && e.sum.numel() == 1) r.figures[key] = e.sum.item<double>() / std::max(e.count, 1.0);
  r.step = state_.step, r.total_steps = options_.train.steps;
  r.consumed_samples = state_.consumed_samples, r.consumed_tokens = state_.consumed_tokens;
  r.bits_per_byte = options_.bytes_per_token > 0 ? r.loss / std::log(2.0) / options_.bytes_per_token : 0;
  r.lr = lr;
  r.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  r.tokens_per_second = static_cast<double>(tokens * mesh_.size(Axis::kDp)) / r.seconds;
  r.flops_per_second = static_cast<double>(tokens) * options_.flops_per_token / r.seconds;
  r.peak_fraction = options_.peak_flops > 0 ? r.flops_per_second / options_.peak_flops : 0;
  r.memory_bytes = cpu::memory_used();
  return r;
}

std::string Trainer::blame(const std::vector<data::Batch>& batches, bool loss_is_finite) {
  std::string bad = first_bad_value(model_);
  for (size_t m = 0; bad.empty() && !loss_is_finite && m < batches.size(); ++m)
    bad = first_bad_output(model_, context(batches[m], {1, 1}, static_cast<int64_t>(m), nullptr));
  if (bad.empty())
    if (const std::string g = optim::first_non_finite(*arena_); !g.empty()) bad = "gradient of " + g;
  return bad.empty() ? "none when looked at again: a transient fault" : bad;
}

void Trainer::rehearse(const data::Batch& b) {
  arena_->begin_backward(false);
  model_(nn::Flow{}, context(b, {1, 1}, 0, nullptr)).loss.backward();
  arena_->zero();
}

Verdict Trainer::run(data::BatchStream& stream, int64_t until, const std::function<void()>& save) {
  while (state_.step < until) {
    const StepReport report = step(stream);
    Verdict verdict = Verdict::kGoOn;
    for (const auto& c : callbacks_) verdict = std::max(verdict, c->on_step(report));
    if (verdict != Verdict::kGoOn) save();
    if (verdict == Verdict::kSaveAndStop) return verdict;
  }
  return Verdict::kGoOn;
}

void Trainer::tell(const EvalReport& e) {
  for (const auto& c : callbacks_) c->on_eval(e);
}

void Trainer::before_save() {
  for (const auto& c : callbacks_) c->before_save();
}

}  // namespace weft::train
