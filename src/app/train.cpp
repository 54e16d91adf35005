// weft train [RECIPE] --run FOLDER: trains, or goes on where the run in FOLDER was.
#include "ops/aten.h"

#include <fmt/format.h>

#include <filesystem>

#include "app/all_verbs.h"
#include "app/flags.h"
#include "app/run.h"
#include "app/run_config.h"
#include "base/log.h"
#include "base/text.h"
#include "train/session.h"

namespace weft::app {
namespace {

struct Options {
  std::string recipe, run, data, preset;
  std::vector<std::string> assignments, references;
  int64_t steps = 0;
  double max_minutes = 0;
  bool allow_inexact = false, no_peak = false;
};

std::string quoted(const std::string& s) {
  const bool plain = s.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=,:+") == std::string::npos;
  return plain && !s.empty() ? s : "'" + s + "'";
}

// The same command, spelled out: it goes on with the run.
std::string resume_command(const Options& o, const Common& common) {
  std::string s = "weft train";
  if (!o.recipe.empty()) s += " " + quoted(o.recipe);
  s += " --run " + quoted(o.run);
  if (!o.data.empty()) s += " --data " + quoted(o.data);
  if (!o.preset.empty()) s += " --preset " + quoted(o.preset);
  if (o.steps > 0) s += fmt::format(" --steps {}", o.steps);
  for (const std::string& a : o.assignments) s += " --set " + quoted(a);
  if (common.threads > 0) s += fmt::format(" --threads {}", common.threads);
  if (common.device != "auto") s += " --device " + common.device;
  return s;
}

std::vector<std::string> all_assignments(const Options& o) {
  std::vector<std::string> out = o.assignments;
  if (!o.data.empty()) out.push_back("data.path=\"" + o.data + "\"");
  if (o.steps > 0) out.push_back(fmt::format("train.steps={}", o.steps));
  if (o.max_minutes > 0) out.push_back(fmt::format("train.max_minutes={}", o.max_minutes));
  return out;
}

Json figures(const train::SessionResult& r) {
  Json j = {{"wall_s", r.wall_s}, {"first_loss_s", r.first_loss_s}, {"steps", r.steps}, {"resumed_from", r.resumed_from}, {"samples", r.consumed_samples},
            {"tokens", r.consumed_tokens}, {"first_loss", r.first_loss}, {"last_loss", r.last_loss}, {"tokens_per_second", r.tokens_per_second},
            {"peak_fraction", r.peak_fraction}, {"checkpoint", r.checkpoint}};
  if (r.last_val.samples > 0) {
    j["first_val_bits_per_byte"] = r.first_val.bits_per_byte, j["last_val_bits_per_byte"] = r.last_val.bits_per_byte;
    j["first_val_loss"] = r.first_val.loss, j["last_val_loss"] = r.last_val.loss;
  }
  return j;
}

int run(Options o, const Common& common) {
  if (o.run.empty()) o.run = "runs/" + (!o.recipe.empty() ? std::filesystem::path(o.recipe).stem().string() : o.preset.empty() ? "run" : o.preset);
  const train::RunConfig config = load_run_config(o.recipe, all_assignments(o), o.preset);
  train::SessionOptions s = session_options(config, use_device(common));
  s.run = o.run;
  s.policy.reference_allowed = o.references;
  s.allow_inexact = o.allow_inexact;
  s.resume_command = resume_command(o, common);
  if (o.no_peak) s.peak_flops = nullptr;
  const train::SessionResult r = train::run_session(s);
  write_figures(common, figures(r));
  fmt::print("step {}: loss {:.4f}{}; {} in {}\n", r.steps, r.last_loss, r.last_val.bits_per_byte > 0 ? fmt::format(", validation {:.3f} bits/byte", r.last_val.bits_per_byte) : "",
             r.checkpoint, human_seconds(r.wall_s));
  return 0;
}

}  // namespace

Action train_verb(Flags& flags, Common& common) {
  auto o = std::make_shared<Options>();
  flags.option("recipe", o->recipe, "TOML file of settings (weft init writes one).");
  flags.option("--run", o->run, "Folder of the run; runs/RECIPE when left out. A run that is there goes on.");
  flags.option("--data", o->data, "Folder that weft prepare made (data.path).");
  flags.option("--preset", o->preset, "Start from this model's settings.");
  flags.option("--steps", o->steps, "Updates in all (train.steps).").positive();
  flags.option("--max-minutes", o->max_minutes, "Save and end with code 75 after this time.").positive();
  flags.flag("--allow-inexact", o->allow_inexact, "Go on with another binary, instruction set, thread count or data.");
  flags.option("--allow-reference", o->references, "Operators that may run on their reference.").value_name("OP");
  flags.flag("--no-peak", o->no_peak, "Do not measure the machine's GEMM rate first.");
  add_set_flag(flags, o->assignments);
  add_compute_flags(flags, common);
  add_json_flag(flags, common);
  flags.footer("JSON keys: wall_s first_loss_s steps resumed_from samples tokens first_loss last_loss tokens_per_second peak_fraction checkpoint,\n"
             "first_val_bits_per_byte last_val_bits_per_byte first_val_loss last_val_loss. Codes: 75 stopped and saved, 20 no valid checkpoint, 30 not finite.");
  return [o, &common] { return run(*o, common); };
}

}  // namespace weft::app
