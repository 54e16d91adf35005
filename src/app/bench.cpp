// weft bench ops [--grad | --check | --perf | --support] [NAME]: the case table; bench train, bench data: bench_train.cpp.
#include <fmt/format.h>

#include "app/all_verbs.h"
#include "app/bench.h"
#include "app/flags.h"
#include "base/error.h"
#include "base/log.h"
#include "ops/cases/case.h"

namespace weft::app {
namespace {

struct Options {
  std::string what = "ops", name;
  bool grad = false, check = false, perf = false, support = false, hopper = false, small = false;
  int seeds = 3;
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

Action train_part(Flags& bench, Common& common) {
  auto f = std::make_shared<BenchFlags>();
  Flags flags = bench.subcommand("train", "a training step beside its own matrix products");
  flags.option("--preset", f->preset, "The model.");
  flags.option("--precision", f->precision, "bf16 or fp32.");
  flags.option("--loss-logits", f->loss_logits, "once or again: train.loss_logits.");
  flags.option("--seq-len", f->seq_len, "Tokens of a sample.").range(1, 1 << 20);
  flags.option("--micro-batch", f->micro_batch, "Samples of a step.").range(1, 1 << 16);
  flags.option("--rounds", f->rounds, "The products alone, then a step; medians count.").range(1, 1000);
  flags.flag("--profile", f->profile, "Where the time of one more step goes, by kind of operator.");
  flags.option("--peer", f->peer, "Another trainer, run each round; the last number it prints is its tokens/s.").value_name("COMMAND");
  add_compute_flags(flags, common);
  add_json_flag(flags, common);
  flags.footer("JSON keys: tokens_per_second step_s gemm_flops_per_second flops_per_second fraction peer_ratio rounds gemms profile");
  return [f, &common] { return bench_train_verb(*f, common); };
}

Action data_part(Flags& bench, Common& common) {
  auto t = std::make_shared<TokenizerBench>();
  Flags flags = bench.subcommand("data", "tokenizing, indices and batches");
  flags.option("--text", t->text, "Text to tokenize, a file or folder; else headers found here.");
  flags.option("--megabytes", t->megabytes, "How much of it.").range(1, 2000);
  flags.option("--vocab-size", t->vocab_size, "Of the tokenizer that is trained on it.").range(257, 1 << 24);
  add_compute_flags(flags, common);
  add_json_flag(flags, common);
  return [t, &common] { return bench_data_verb(*t, common); };
}

}  // namespace

Action bench(Flags& flags, Common& common) {
  auto o = std::make_shared<Options>();
  flags.option("what", o->what, "ops: the table of operator cases.");
  flags.option("name", o->name, "Only rows of this name: a glob over OP or OP/ROW.");
  flags.flag("--grad", o->grad, "Backward passes against finite differences in fp64.");
  flags.flag("--check", o->check, "Every candidate against the fp64 reference.");
  flags.flag("--perf", o->perf, "Time, and % of the roofline measured in this run.");
  flags.flag("--support", o->support, "Which candidate takes each row, and who refused why.");
  flags.flag("--hopper", o->hopper, "With --support: the answers for an H100 or H200, without one.");
  flags.flag("--small", o->small, "Leave out the rows that are large enough to time.").part("rows");
  flags.option("--seeds", o->seeds, "Draws of each row in --check.").range(1, 1000).part("rows");
  add_compute_flags(flags, common);
  add_json_flag(flags, common);
  flags.footer("Without a mode all four run. JSON: a list of rows with op, row, ok, mode, detail, then the figures. Code 1: a row failed.");
  const std::pair<std::string, Action> parts[] = {{"train", train_part(flags, common)}, {"data", data_part(flags, common)}};
  return [o, &flags, &common, parts = std::to_array(parts)] {
    for (const auto& [name, action] : parts)
      if (flags.has(name.c_str())) return action();
    return run(*o, common);
  };
}

}  // namespace weft::app
