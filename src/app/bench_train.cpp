// weft bench train and weft bench data: rates of whole paths.
#include "ops/aten.h"

#include <fmt/format.h>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "app/bench.h"
#include "app/demo.h"
#include "app/run.h"
#include "base/error.h"
#include "base/text.h"
#include "data/bench.h"
#include "models/build.h"
#include "train/bench.h"

namespace weft::app {
namespace {

// Runs a shell command; the last number on its standard output.
double last_number(const std::string& command) {
  std::string text;
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "r"), ::pclose);
  if (pipe == nullptr) throw UnavailableError("--peer: the command could not be started");
  for (char buffer[4096]; const size_t n = std::fread(buffer, 1, sizeof buffer, pipe.get());) text.append(buffer, n);
  constexpr const char* kDigits = "0123456789.eE+-";
  if (const size_t end = text.find_last_of("0123456789"); end != std::string::npos) {
    const size_t before = text.find_last_not_of(kDigits, end), begin = before == std::string::npos ? 0 : before + 1;
    if (const double value = std::strtod(text.substr(begin, end + 1 - begin).c_str(), nullptr); value > 0) return value;
  }
  throw InputError(fmt::format("--peer: want a command whose output ends with its tokens/s: got '{}'", text.substr(text.size() - std::min<size_t>(text.size(), 200))));
}

}  // namespace

int bench_train_verb(const BenchFlags& f, const Common& common) {
  train::BenchOptions o;
  o.model = models::preset(f.preset);
  if (o.model.vocab_size == 0) o.model.vocab_size = 2048;
  if (f.precision != "bf16" && f.precision != "fp32") throw ConfigError(fmt::format("--precision: got '{}', want bf16 or fp32", f.precision));
  o.precision = f.precision == "bf16" ? train::Precision::kBf16 : train::Precision::kFp32;
  if (f.loss_logits != "once" && f.loss_logits != "again") throw ConfigError(fmt::format("--loss-logits: got '{}', want once or again", f.loss_logits));
  o.loss_logits = f.loss_logits == "once" ? train::LossLogits::kOnce : train::LossLogits::kAgain;
  o.seq_len = f.seq_len, o.micro_batch = f.micro_batch, o.rounds = f.rounds, o.profile = f.profile;
  if (!f.peer.empty()) o.peer = [&f] { return last_number(f.peer); };
  const std::string device = use_device(common);
  o.device = at::Device(device);
  o.policy = policy_for(device);
  const train::BenchReport r = train::bench_train(o);
  fmt::print("{}", train::bench_text(r));
  Json figures = train::to_json(r);
  figures["preset"] = f.preset, figures["precision"] = f.precision, figures["device"] = device;
  write_figures(common, figures);
  return 0;
}

int bench_data_verb(TokenizerBench tokenizer, const Common& common) {
  if (tokenizer.text.empty()) tokenizer.text = find_corpus();
  data::BenchOptions o;
  const std::string folder = std::filesystem::temp_directory_path() / fmt::format("weft-bench-{}", ::getpid());
  std::filesystem::create_directories(folder);
  struct Remove {
    std::string path;
    ~Remove() { std::filesystem::remove_all(path); }
  } remove{folder};
  o.folder = folder;
  Json figures = data::bench_files(o);
  figures.update(data::bench_batches(o));
  figures.update(bench_tokenizer(tokenizer, folder));
  for (const auto& [key, value] : figures.items()) fmt::print("{:<26} {}\n", key, value.dump());
  write_figures(common, figures);
  return 0;
}

}  // namespace weft::app
