// Whole runs in processes of their own: ended at random moments, stopped by signals, refused for good reasons.
#include "tiny_model.h"

#include "train/session.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include "../ckpt/folder.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "data/prepare.h"
#include "train/run_folder.h"

namespace weft::train {
namespace {

struct Bytes final : data::TextEncoder {  // 16 tokens: enough for a model of 17
  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    for (char c : text) out.push_back(c & 15);
  }
  int64_t vocab_size() const override { return 16; }
  int32_t eod() const override { return -1; }
  std::string file() const override { return "{}"; }
};

std::string make_data(const std::string& folder, const std::string& extra = "") {
  make_folders(folder + "/text");
  std::mt19937 random(5);
  for (int f = 0; f < 24; ++f) {
    std::string s = extra;
    for (int i = 0; i < 400; ++i) s += static_cast<char>('a' + (i * i + f + static_cast<int>(random() % 3)) % 26);
    write_file_atomic(fmt::format("{}/text/{:02}.txt", folder, f), s);
  }
  data::PrepareOptions o;
  o.inputs = {folder + "/text"}, o.output = folder + "/data", o.hold_out_every = 8;
  data::prepare(o, {"bytes", false, [](const data::TextFeed&) { return std::make_unique<Bytes>(); }, [](const std::string&) { return std::make_unique<Bytes>(); }});
  return o.output;
}

SessionOptions options(const std::string& run, const std::string& data) {
  SessionOptions o;
  o.run = run;
  o.config.data.path = data, o.config.data.seq_len = 16;
  o.config.model.vocab_size = kVocab;
  o.config.train.steps = 200, o.config.train.batch = 4, o.config.train.micro_batch = 2, o.config.train.precision = Precision::kFp32;
  o.config.schedule.lr = 0.01;
  o.config.checkpoint.every = 7;
  o.config.eval.every = 0;
  o.config.model.pattern = "-", o.config.model.model_dim = 8, o.config.model.init_std = 0.5, o.config.model.tie_embeddings = false;
  std::get<nn::MlpConfig>(o.config.model.symbols['-']).ffn_dim = 8;
  o.policy.device = ops::this_cpu();
  o.resume_command = "weft train again";
  return o;
}

// The exit code that the program would have, in a process of its own; its messages go to `log`.
pid_t start(const SessionOptions& o, const std::string& log) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  if (::freopen(log.c_str(), "a", stderr) == nullptr) ::_exit(1);
  try {
    at::set_num_threads(1);
    run_session(o);
    ::_exit(0);
  } catch (const SavedOnSignal& e) {
    fmt::print(stderr, "{}\n", e.what());
    std::fflush(stderr);
    ::_exit(75);
  } catch (const IoError& e) {
    fmt::print(stderr, "{}\n", e.what());
    ::_exit(74);
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    std::fflush(stderr);
    ::_exit(1);
  }
}

int wait_for(pid_t child) {  // exit code, or minus the signal
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

std::string refusal(const SessionOptions& o) {
  try {
    run_session(o);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "done";
}

int64_t lines_of(const std::string& path) {
  const std::string s = read_file(path);
  return std::count(s.begin(), s.end(), '\n');
}

}  // namespace

TEST(Session, RunsKilledAtRandomMomentsEndWithTheLossesOfAnUnbrokenOne) {
  at::set_num_threads(1);
  const TempFolder dir;
  const std::string data = make_data(dir.path);
  ASSERT_EQ(wait_for(start(options(dir.path + "/whole", data), dir.path + "/log")), 0) << read_file(dir.path + "/log");
  const std::string want = read_file(dir.path + "/whole/loss.tsv");
  ASSERT_EQ(lines_of(dir.path + "/whole/loss.tsv"), 201);
  std::mt19937 random(std::random_device{}());
  const SessionOptions broken = options(dir.path + "/broken", data);
  int kills = 0;
  // Killed once before the first checkpoint, then at random steps; each time the log has grown by some lines.
  for (const int64_t more : {int64_t{3}, int64_t(10 + random() % 40), int64_t(10 + random() % 40), int64_t(random() % 40), int64_t(1 + random() % 40)}) {
    const std::string log = dir.path + "/broken/loss.tsv";
    const pid_t child = start(broken, dir.path + "/log");
    int64_t from = -1;
    for (;;) {
      std::this_thread::sleep_for(std::chrono::microseconds(300 + random() % 700));
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, WNOHANG), 0) << "ended before it was killed: " << read_file(dir.path + "/log");
      if (!std::filesystem::exists(log)) continue;
      const int64_t now = lines_of(log);
      if (from < 0 || now < from) from = now;  // after the log was cut back
      if (now >= from + more) break;
    }
    ::kill(child, SIGKILL);
    ASSERT_EQ(wait_for(child), -SIGKILL);
    ++kills;
  }
  EXPECT_EQ(kills, 5);
  ASSERT_EQ(wait_for(start(broken, dir.path + "/log")), 0) << read_file(dir.path + "/log");
  EXPECT_TRUE(read_file(dir.path + "/broken/loss.tsv") == want) << "the files differ";
  EXPECT_NE(read_file(dir.path + "/log").find("going on from step"), std::string::npos);
}

TEST(Session, ASignalSavesAndEndsWith75AndTheNextRunGoesOn) {
  const TempFolder dir;
  const std::string data = make_data(dir.path);
  const SessionOptions o = options(dir.path + "/run", data);
  for (int signal : {SIGTERM, SIGINT, SIGUSR1}) {
    const pid_t child = start(o, dir.path + "/log");
    const int64_t before = std::filesystem::exists(dir.path + "/run/loss.tsv") ? lines_of(dir.path + "/run/loss.tsv") : 0;
    while (!std::filesystem::exists(dir.path + "/run/loss.tsv") || lines_of(dir.path + "/run/loss.tsv") < before + 4) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ::kill(child, signal);
    ASSERT_EQ(wait_for(child), 75) << read_file(dir.path + "/log");
    const std::string log = read_file(dir.path + "/log");
    EXPECT_NE(log.find("go on with: weft train again"), std::string::npos) << log;
    EXPECT_EQ(find_checkpoint(dir.path + "/run").manifest.step, lines_of(dir.path + "/run/loss.tsv") - 1) << "the last step is saved";
  }
  ASSERT_EQ(wait_for(start(o, dir.path + "/log")), 0);
  ASSERT_EQ(wait_for(start(options(dir.path + "/whole", data), dir.path + "/log")), 0);
  EXPECT_TRUE(read_file(dir.path + "/run/loss.tsv") == read_file(dir.path + "/whole/loss.tsv"));
}

TEST(Session, WhatMayNotChangeIsRefusedWithTheDifferenceAndTheRestGoesOn) {
  const TempFolder dir;
  const std::string data = make_data(dir.path);
  SessionOptions o = options(dir.path + "/run", data);
  o.config.train.steps = 10;
  EXPECT_EQ(refusal(o), "done");
  EXPECT_EQ(refusal(o), "done") << "a run that is done stays done";
  SessionOptions other = o;
  other.config.optimizer.beta2 = 0.9, other.config.model.model_dim = 512;
  const std::string text = refusal(other);
  EXPECT_NE(text.find("optimizer.beta2: was 0.95, now 0.9"), std::string::npos) << text;
  EXPECT_NE(text.find("model.model_dim: was 8, now 512"), std::string::npos) << text;
  SessionOptions longer = o;
  longer.config.train.steps = 12, longer.config.checkpoint.every = 1;
  EXPECT_EQ(run_session(longer).resumed_from, 10);
  const int threads = at::get_num_threads();
  at::set_num_threads(threads + 1);
  EXPECT_NE(refusal(longer).find("the threads: were " + std::to_string(threads)), std::string::npos);
  longer.allow_inexact = true;
  EXPECT_EQ(refusal(longer), "done");
  at::set_num_threads(threads);
  const TempFolder elsewhere;
  SessionOptions moved = longer;
  moved.allow_inexact = false, moved.config.data.path = make_data(elsewhere.path, "other text");
  EXPECT_NE(refusal(moved).find("data.path holds other tokens"), std::string::npos);
}

TEST(Session, BadInputIsRefusedWithItsReason) {
  const TempFolder dir;
  const std::string data = make_data(dir.path);
  SessionOptions o = options(dir.path + "/run", data);
  o.config.train.steps = 5;
  SessionOptions bad = o;
  bad.config.data.path = "";
  EXPECT_NE(refusal(bad).find("data.path: not set"), std::string::npos);
  bad.config.data.path = dir.path + "/nothing";
  EXPECT_NE(refusal(bad).find("/nothing"), std::string::npos);
  bad = o, bad.config.data.seq_len = 1 << 20;
  EXPECT_NE(refusal(bad).find("is too short"), std::string::npos);
  bad = o, bad.config.model.vocab_size = 3;
  EXPECT_NE(refusal(bad).find("model.vocab_size: got 3, want at least the tokenizer's 16"), std::string::npos);
  bad = o, bad.config.parallel.dp = 2;
  EXPECT_NE(refusal(bad).find("mesh: pp x dp x cp x tp"), std::string::npos);
  {
    const RunFolder held(dir.path + "/run");
    EXPECT_NE(refusal(o).find("another process trains in this folder"), std::string::npos);
  }
  EXPECT_EQ(refusal(o), "done");
}

TEST(Session, DamagedCheckpointsAreSkippedAndWhenNoneIsLeftTheRunDoesNotStartAgain) {
  const TempFolder dir;
  const std::string data = make_data(dir.path);
  SessionOptions o = options(dir.path + "/run", data);
  o.config.train.steps = 20, o.config.checkpoint.keep_last = 3;
  ASSERT_EQ(refusal(o), "done");
  const std::string want = read_file(dir.path + "/run/loss.tsv");
  const auto all = ckpt::Store(dir.path + "/run/checkpoints").committed();
  ASSERT_EQ(all.size(), 3u);  // 7, 14, 20
  const auto damage = [](const std::string& path) {
    std::string s = read_file(path + "/model-00000.safetensors");
    s.back() = static_cast<char>(s.back() ^ 4);
    write_file_atomic(path + "/model-00000.safetensors", s);
  };
  damage(all[2]);
  const int warned = log::warnings();
  EXPECT_EQ(run_session(o).resumed_from, 14);
  EXPECT_GT(log::warnings(), warned);
  EXPECT_TRUE(read_file(dir.path + "/run/loss.tsv") == want);
  for (const std::string& path : all) damage(path);
  EXPECT_THROW(run_session(o), CheckpointError);
}

TEST(Session, AHybridModelResumesToTheBit) {
  const TempFolder dir;
  const std::string data = make_data(dir.path);
  SessionOptions o = options(dir.path + "/run", data);
  o.config.model.pattern = "M-*E", o.config.model.model_dim = 32, o.config.model.vocab_size = 0;
  for (auto& [letter, branch] : o.config.model.symbols) {
    if (auto* c = std::get_if<nn::GqaConfig>(&branch)) c->num_heads = 2, c->num_kv_heads = 1;
    if (auto* c = std::get_if<nn::MoeConfig>(&branch)) c->num_experts = 4, c->top_k = 2, c->ffn_dim = 32;
    if (auto* c = std::get_if<nn::Mamba2Config>(&branch)) c->head_dim = 16, c->state_dim = 16, c->num_groups = 1;
  }
  for (Precision p : {Precision::kBf16, Precision::kFp32}) {
    o.config.train.precision = p, o.config.train.steps = 12, o.config.checkpoint.every = 5;
    o.run = dir.path + "/whole" + std::to_string(static_cast<int>(p));
    const SessionResult whole = run_session(o);
    EXPECT_LT(whole.last_loss, whole.first_loss);
    EXPECT_EQ(find_checkpoint(o.run).manifest.kernels.value("rms_norm", ""), "cpu") << find_checkpoint(o.run).manifest.kernels;
    const std::string want = read_file(o.run + "/loss.tsv");
    std::filesystem::remove_all(whole.checkpoint);  // back to step 10
    EXPECT_EQ(run_session(o).resumed_from, 10);
    EXPECT_TRUE(read_file(o.run + "/loss.tsv") == want);
  }
}

TEST(Session, MemoryIsEstimatedAndTheValidationLossFalls) {
  const TempFolder dir;
  SessionOptions o = options(dir.path + "/run", make_data(dir.path));
  o.config.train.steps = 60, o.config.eval.every = 30;
  const SessionResult r = run_session(o);
  EXPECT_EQ(r.steps, 60);
  EXPECT_EQ(r.consumed_samples, 240);
  EXPECT_GT(r.first_val.samples, 0);
  EXPECT_LT(r.last_val.loss, r.first_val.loss - 0.1);
  EXPECT_GT(r.first_loss_s, 0);
  EXPECT_EQ(r.last_val.step, 60);
  EXPECT_TRUE(std::filesystem::exists(dir.path + "/run/config.toml"));
  EXPECT_TRUE(std::filesystem::exists(dir.path + "/run/tokenizer.json"));
}

}  // namespace weft::train
