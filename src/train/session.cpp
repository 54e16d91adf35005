#include "ops/aten.h"

#include "train/session.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>

#include "base/cpu.h"
#include "base/error.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/text.h"
#include "ckpt/hash.h"
#include "data/balanced_order.h"
#include "data/open.h"
#include "data/side_streams.h"
#include "models/build.h"
#include "nn/init.h"
#include "train/checkpoint.h"
#include "train/chosen.h"
#include "train/evaluate.h"
#include "train/loss_log.h"
#include "train/memory.h"
#include "train/run_folder.h"
#include "train/tensorboard.h"
#include "train/watch.h"

namespace weft::train {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

data::RunShape shape_of(const RunConfig& c, const Mesh& mesh) {
  return {c.train.steps, c.train.batch, c.train.micro_batch, mesh.size(Axis::kDp), c.eval.every, c.eval.samples, c.train.seed};
}

void set_vocabulary(RunConfig& c, int64_t tokenizer) {
  if (tokenizer == 0 && c.model.vocab_size == 0) throw ConfigError("model.vocab_size: not set, and the data has no tokenizer that says it\n  try: data.tokenizer");
  if (c.model.vocab_size == 0) c.model.vocab_size = static_cast<int>((tokenizer + 63) / 64 * 64);
  if (c.model.vocab_size < tokenizer)
    throw ConfigError(fmt::format("model.vocab_size: got {}, want at least the tokenizer's {}\n  try: 0, which takes the tokenizer's size", c.model.vocab_size, tokenizer));
}

// A model that takes side streams, and text that has none, would carry a branch that never learns.
void check_streams(const RunConfig& c, const data::Dataset& train) {
  if (c.model.structure.dim == 0) return;
  const data::Sample first = train.at(0);
  for (int s = 0; s < c.model.structure.streams; ++s) {
    if (first.streams.empty() || first.streams[static_cast<size_t>(s)].empty())
      throw ConfigError(fmt::format("model.structure: {} has no side stream {}\n  try: weft prepare --structure cpp, or --set model.structure.dim=0", c.data.path, data::kStreamKinds[static_cast<size_t>(s)].name));
  }
}

// Settings of the run that is there against those given now. The stored schema may be older: then its own message says where.
void check_resume(const ckpt::Found& found, RunConfig& now, const Identity& id, const std::string& data_hash, bool allow_inexact) {
  RunConfig before = config::from_json<RunConfig>(found.manifest.config, found.path + "/manifest.json: config");
  const ResumeProblems p = resume_problems(found.manifest, config::diff(*config::bind(before), *config::bind(now)), id, data_hash);
  if (!p.refused.empty())
    throw ConfigError(fmt::format("{}: the run was made with other settings:\n  {}\n  try: the old values, or another --run folder", found.path, join(p.refused, "\n  ")));
  if (p.inexact.empty()) return;
  const std::string what = join(p.inexact, "\n  ");
  if (!allow_inexact)
    throw ConfigError(fmt::format("{}: going on would not give the bits of an unbroken run:\n  {}\n  try: --allow-inexact to go on all the same", found.path, what));
  log::warn("going on inexactly:\n  " + what);
}

class Lend final : public Callback {  // a callback of the caller, among those that the trainer owns
 public:
  explicit Lend(Callback& c) : c_(c) {}
  Verdict on_step(const StepReport& r) override { return c_.on_step(r); }
  void on_eval(const EvalReport& r) override { c_.on_eval(r); }
  void before_save() override { c_.before_save(); }

 private:
  Callback& c_;
};

class Totals final : public Callback {
 public:
  Totals(SessionResult& out, Clock::time_point start) : out_(out), start_(start) {}
  Verdict on_step(const StepReport& r) override {
    if (seconds_ == 0) out_.first_loss_s = since(start_), out_.first_loss = r.loss;
    seconds_ += r.seconds, tokens_ += r.tokens_per_second * r.seconds, peak_ += r.peak_fraction * r.seconds;
    out_.last_loss = r.loss, out_.tokens_per_second = tokens_ / seconds_, out_.peak_fraction = peak_ / seconds_;
    return Verdict::kGoOn;
  }
  void on_eval(const EvalReport& e) override {
    if (out_.first_val.samples == 0) out_.first_val = e;
    out_.last_val = e;
  }

 private:
  SessionResult& out_;
  Clock::time_point start_;
  double seconds_ = 0, tokens_ = 0, peak_ = 0;
};

class Saver {
 public:
  Saver(Trainer& t, const Mesh& mesh, const ckpt::Store& store, int keep_last, std::function<ckpt::Manifest()> manifest)
      : trainer_(t), mesh_(mesh), store_(store), keep_last_(keep_last), manifest_(std::move(manifest)) {}
  // A periodic save that fails warns and the run goes on; the last one, or the third failure in a row, ends it.
  void save(bool last) {
    try {
      trainer_.before_save();
      path = store_.save(mesh_.comm({Axis::kDp, Axis::kCp, Axis::kTp, Axis::kPp}), manifest_(), state_sources(trainer_, mesh_), keep_last_);
      step = trainer_.state().step, failures_ = 0;
    } catch (const IoError& e) {
      if (last || ++failures_ == 3) throw;
      log::warn(fmt::format("step {}: the checkpoint could not be saved, the run goes on: {}", trainer_.state().step, e.what()));
    }
  }
  std::string path;   // of the last one
  int64_t step = -1;  // in it

 private:
  Trainer& trainer_;
  const Mesh& mesh_;
  const ckpt::Store& store_;
  int keep_last_;
  std::function<ckpt::Manifest()> manifest_;
  int failures_ = 0;
};

void write_run_files(const RunFolder& folder, RunConfig& c, const data::OpenedData& text, bool tokenizer) {
  write_file_atomic(folder.file("config.toml"), config::to_toml(*config::bind(c)));
  if (const data::TokenizerFile file = tokenizer ? data::tokenizer_file(text) : data::TokenizerFile{}; !file.name.empty()) write_file_atomic(folder.file(file.name), file.bytes);
}

}  // namespace

std::unique_ptr<nn::Module> build_model(const RunConfig& c, at::Device device, bool fill) {
  auto model = models::build(c.model);
  nn::materialize(*model, {device, c.train.precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat, c.train.seed, fill});
  return model;
}

SessionResult run_session(const SessionOptions& o) {
  const auto start = Clock::now();
  const signals::Guard guard;
  RunConfig c = o.config;
  auto world = self_world();
  const Mesh mesh = Mesh::build(c.parallel, *world);
  const data::RunShape shape = shape_of(c, mesh);
  const data::OpenedData text = data::open_data(c.data, shape);
  log::info("data: " + text.description);
  set_vocabulary(c, text.vocab_size);
  check_streams(c, *text.train);
  const data::Batch first = data::make_batch(*text.train, {0}, false, c.model.vocab_size);  // its ids are looked at before a model runs
  const RunFolder folder(o.run);
  const ckpt::Store store(folder.checkpoints());
  store.sweep();
  std::vector<ckpt::Refused> refused;
  const auto found = store.newest_valid(&refused);
  for (const ckpt::Refused& r : refused) log::warn("checkpoint refused: " + r.why);
  const Identity id = this_process();
  if (found) check_resume(*found, c, id, text.hash, o.allow_inexact);
  write_run_files(folder, c, text, o.tokenizer_in_run);

  const auto model = build_model(c, o.device, /*fill=*/!found);
  TrainerOptions options{c.optimizer, c.schedule, c.train, o.policy, o.device};
  options.policy.deterministic = c.train.deterministic;
  options.bytes_per_token = text.train_bytes_per_token;
  options.flops_per_token = models::flops_per_token(c.model, c.data.seq_len);
  options.peak_flops = o.peak_flops ? o.peak_flops(c.train.precision) : 0;
  Trainer trainer(*model, mesh, options);
  SessionResult result;
  if (found) {
    load_state(trainer, mesh, *found);
    result.resumed_from = trainer.state().step;
    log::info(fmt::format("going on from step {} of {}: {}", trainer.state().step, c.train.steps, found->path));
  }
  if (o.device.is_cpu()) {  // after loading: it runs the model, and what is not filled yet may divide by zero
    const uint64_t available = cpu::memory_available() + cpu::memory_used();
    const MemoryEstimate memory = estimate_memory(trainer, *text.train, c.train.micro_batch, c.data.seq_len);
    log::info(fmt::format("memory: {} of {} available", memory_text(memory), human_bytes(available)));
    check_memory(memory, c.train.micro_batch, available);
  }
  const int64_t loaded = trainer.state().step;

  data::BatchConfig batches{c.train.micro_batch, mesh.coord(Axis::kDp), mesh.size(Axis::kDp)};
  batches.vocab_size = c.model.vocab_size;
  const int64_t consumed = trainer.state().consumed_samples;
  const auto order = data::train_order(c.data, text, shape, consumed);
  if (order != text.order) {
    const data::BalancedOrder::Shape b{shape.batch, shape.micro_batch, shape.ranks};
    log::info(fmt::format("balance: attention on the busiest of {} ranks is {:.2f} of the mean in the next step, {:.2f} in the plain order", b.ranks, data::imbalance(*order, *text.train, b, consumed),
                          data::imbalance(*text.order, *text.train, b, consumed)));
  }
  const auto stream = data::make_stream(text.train, order, batches, {consumed, c.train.seed});
  trainer.add(std::make_unique<LossLog>(folder.file("loss.tsv"), loaded));
  trainer.add(std::make_unique<MetricsLog>(folder.file("metrics.jsonl"), loaded));
  trainer.add(std::make_unique<TensorBoard>(folder.file("tensorboard"), loaded));
  trainer.add(std::make_unique<Totals>(result, start));
  trainer.add(std::make_unique<Spikes>(c.log));
  trainer.add(std::make_unique<Progress>());
  auto stopper = std::make_unique<Stopper>(c.checkpoint, c.train.max_minutes);
  const Stopper& stop = *stopper;
  trainer.add(std::move(stopper));
  for (Callback* extra : o.callbacks) trainer.add(std::make_unique<Lend>(*extra));

  const Json settings = config::to_json(c), kernels = chosen_kernels(*model, first, o.device, options.policy);
  Saver saver(trainer, mesh, store, c.checkpoint.keep_last, [&] {
    ckpt::Manifest m = state_manifest(trainer, id, settings, c.train.seed, Json{{"data_xxh3", text.hash}});
    m.kernels = kernels;
    return m;
  });
  if (found) saver.path = found->path, saver.step = loaded;
  const auto evaluation = [&] {
    if (!text.val || c.eval.every == 0) return;
    trainer.tell(evaluate(*model, text.val, {c.eval.samples, c.train.micro_batch, text.val_bytes_per_token, o.device, options.policy}, trainer.state().step));
  };
  if (!found) evaluation();
  while (trainer.state().step < c.train.steps) {
    const int64_t step = trainer.state().step;
    const int64_t until = c.eval.every > 0 ? std::min(c.train.steps, (step / c.eval.every + 1) * c.eval.every) : c.train.steps;
    const Verdict verdict = trainer.run(*stream, until, [&] { saver.save(!stop.why().empty()); });
    if (verdict == Verdict::kSaveAndStop) {
      if (saver.step != trainer.state().step) saver.save(true);
      log::end_progress();
      throw SavedOnSignal(fmt::format("stopped by {}: step {} of {} is saved in {}{}", stop.why().empty() ? "a callback" : stop.why(), trainer.state().step, c.train.steps, saver.path,
                                      o.resume_command.empty() ? "" : "\n  go on with: " + o.resume_command));
    }
    evaluation();
  }
  if (saver.step != trainer.state().step) saver.save(true);
  log::end_progress();
  result.steps = trainer.state().step;
  result.consumed_samples = trainer.state().consumed_samples, result.consumed_tokens = trainer.state().consumed_tokens;
  result.checkpoint = saver.path;
  result.wall_s = since(start);
  return result;
}

}  // namespace weft::train
