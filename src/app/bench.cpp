// weft bench ops [--grad | --check | --perf | --support] [NAME]: the case table. bench train, bench data: bench_train.cpp.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "app/all_verbs.h"
#include "app/bench.h"
#include "base/error.h"
#include "base/log.h"
#include "ops/cases/case.h"

namespace weft::app {
namespace {

struct Options {
  std::string what = "ops", name;
  bool grad = false, check = false, perf = false, support = false, hopper = false, small = false;
  int seeds = 3;
  BenchFlags train;
  TokenizerBench tokenizer;
};

struct Tally {
  int rows = 0, failed = 0;
  Json list = Json::array();
};

void print_row(const ops::cases::Result& r, const char* mode, Tally& tally) {
  std::string figures;
  for (const auto& f : r.figures) figures += fmt::format("  {} {:.4g}", f.key, f.value);
  fmt::print("{} {:<22} {:<30}{}  {}\n", r.ok ? log::paint("ok  ", log::Colour::kGreen, 1) : log::paint("FAIL", log::Colour::kRed, 1), r.op,
             r.row, figures, r.detail);
  std::fflush(stdout);
  Json row = {{"op", r.op}, {"row", r.row}, {"ok", r.ok}, {"mode", mode}, {"detail", r.detail}};
  for (const auto& f : r.figures) row[f.key] = f.value;
  tally.list.push_back(std::move(row));
  ++tally.rows;
  tally.failed += !r.ok;
}

int run(const Options& o, const Common& common) {
  if (o.what == "train") return bench_train_verb(o.train, common);
  if (o.what == "data") return bench_data_verb(o.tokenizer, common);
  if (o.what != "ops") throw ConfigError(fmt::format("bench: got '{}', want ops, train or data", o.what));
  ops::cases::Filter filter;
  filter.name = o.name;
  filter.device = at::Device(use_device(common));
  filter.seeds = o.seeds;
  filter.large = !o.small;
  filter.hopper = o.hopper;
  if (o.hopper && !o.support) throw ConfigError("bench ops: --hopper goes with --support: nothing runs on a GPU that is not there");
  using Mode = void (*)(const ops::cases::Filter&, const ops::cases::Sink&);
  const bool all = !o.grad && !o.check && !o.perf && !o.support;
  Tally tally;
  const auto run_mode = [&](bool chosen, const char* name, Mode mode) {
    if (chosen || all) mode(filter, [&](const ops::cases::Result& r) { print_row(r, name, tally); });
  };
  run_mode(o.support, "support", ops::cases::run_support);
  run_mode(o.grad, "grad", ops::cases::run_grad);
  run_mode(o.check, "check", ops::cases::run_check);
  run_mode(o.perf, "perf", ops::cases::run_perf);
  if (tally.rows == 0) throw ConfigError(fmt::format("bench ops: no row is named '{}'\n  try: weft bench ops --support", o.name));
  fmt::print("{} rows, {} failed\n", tally.rows, tally.failed);
  write_figures(common, tally.list);
  return tally.failed == 0 ? 0 : 1;
}

}  // namespace

Action bench(CLI::App& app, Common& common) {
  auto o = std::make_shared<Options>();
  app.add_option("what", o->what, "ops: the case table. train: a step beside its own matrix products. data: tokenizing, indices, batches.");
  app.add_option("name", o->name, "Only rows of this name: a glob over OP or OP/ROW.");
  app.add_flag("--grad", o->grad, "Backward passes against finite differences in fp64.");
  app.add_flag("--check", o->check, "Every candidate against the fp64 reference.");
  app.add_flag("--perf", o->perf, "Time, and % of the roofline measured in this run.");
  app.add_flag("--support", o->support, "Which candidate takes each row, and who refused why.");
  app.add_flag("--hopper", o->hopper, "With --support: the answers for an H100 or H200, without one.");
  app.add_flag("--small", o->small, "Leave out the rows that are large enough to time.");
  app.add_option("--seeds", o->seeds, "Draws of each row in --check.")->check(CLI::Range(1, 1000));
  app.add_option("--preset", o->train.preset, "train: the model.");
  app.add_option("--precision", o->train.precision, "train: bf16 or fp32.");
  app.add_option("--seq-len", o->train.seq_len, "train: tokens of a sample.")->check(CLI::Range(1, 1 << 20));
  app.add_option("--micro-batch", o->train.micro_batch, "train: samples of a step.")->check(CLI::Range(1, 1 << 16));
  app.add_option("--rounds", o->train.rounds, "train: the products alone, then a step; medians count.")->check(CLI::Range(1, 1000));
  app.add_flag("--profile", o->train.profile, "train: time of one step by kind of operator.");
  app.add_option("--peer", o->train.peer, "train: another trainer, run each round; the last number it prints is its tokens/s.")->type_name("COMMAND");
  app.add_option("--text", o->tokenizer.text, "data: text to tokenize, a file or folder; else headers found here.");
  app.add_option("--megabytes", o->tokenizer.megabytes, "data: how much of it.")->check(CLI::Range(1, 2000));
  app.add_option("--vocab-size", o->tokenizer.vocab_size, "data: of the tokenizer that is trained on it.")->check(CLI::Range(257, 1 << 24));
  add_compute_flags(app, common);
  add_json_flag(app, common);
  app.footer("ops: without a mode all four run. JSON: a list of rows with op, row, ok, mode, detail, then the figures. Code 1: a row failed.\n"
             "train: JSON keys tokens_per_second step_s gemm_flops_per_second flops_per_second fraction peer_ratio rounds gemms profile.");
  return [o, &common] { return run(*o, common); };
}

}  // namespace weft::app
