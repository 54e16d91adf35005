#include "train/loss_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"

namespace weft::train {

const char* const kLossHeader = "step\tsamples\tloss\tgrad_norm\n";

namespace {

std::string hex(double v) {
  char text[64];
  std::snprintf(text, sizeof text, "%a", v);
  return text;
}

// The leading lines of `text` for which keep(line) holds; an unfinished last line is dropped.
template <class Keep>
std::string leading_lines(const std::string& text, size_t from, Keep keep) {
  size_t at = from;
  for (;;) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos || !keep(std::string_view(text).substr(at, end - at))) break;
    at = end + 1;
  }
  return text.substr(0, at);
}

void cut(const std::string& path, const std::string& content) {
  if (std::filesystem::exists(path) && read_file(path) == content) return;
  write_file_atomic(path, content);
}

}  // namespace

std::string loss_line(const StepReport& r) { return fmt::format("{}\t{}\t{}\t{}\n", r.step, r.consumed_samples, hex(r.loss), hex(r.grad_norm)); }

LossLog::LossLog(std::string path, int64_t loaded_step) : path_(std::move(path)) {
  std::string kept = kLossHeader;
  if (loaded_step > 0 && std::filesystem::exists(path_)) {
    const std::string text = read_file(path_);
    int64_t next = 1;
    if (text.starts_with(kLossHeader))
      kept = leading_lines(text, kept.size(), [&](std::string_view line) {
        int64_t step = 0;
        const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), step);
        return error == std::errc() && end != line.data() + line.size() && *end == '\t' && step == next && next++ <= loaded_step;
      });
  }
  cut(path_, kept);
}

Verdict LossLog::on_step(const StepReport& r) {
  append_file(path_, loss_line(r));
  return Verdict::kGoOn;
}

void LossLog::before_save() {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  const bool ok = fd >= 0 && ::fsync(fd) == 0;
  if (fd >= 0) ::close(fd);
  if (!ok) throw IoError(path_ + ": fsync failed");
}

MetricsLog::MetricsLog(std::string path, int64_t loaded_step) : path_(std::move(path)) {
  std::string kept;
  if (loaded_step > 0 && std::filesystem::exists(path_))
    kept = leading_lines(read_file(path_), 0, [&](std::string_view line) {
      const Json j = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      return j.is_object() && j.contains("step") && j["step"].is_number_integer() && j["step"].get<int64_t>() <= loaded_step;
    });
  cut(path_, kept);
}

Verdict MetricsLog::on_step(const StepReport& r) {
  Json j = {{"step", r.step}, {"samples", r.consumed_samples}, {"tokens", r.consumed_tokens}, {"loss", r.loss}, {"bits_per_byte", r.bits_per_byte},
            {"grad_norm", r.grad_norm}, {"lr", r.lr}, {"seconds", r.seconds}, {"tokens_per_second", r.tokens_per_second},
            {"peak_fraction", r.peak_fraction}, {"memory_bytes", r.memory_bytes}};
  if (r.skipped) j["skipped"] = true;
  for (const auto& [key, value] : r.figures) j[key] = value;
  append_file(path_, j.dump() + "\n");
  return Verdict::kGoOn;
}

void MetricsLog::on_eval(const EvalReport& e) {
  const Json j = {{"step", e.step}, {"val_loss", e.loss}, {"val_bits_per_byte", e.bits_per_byte}, {"val_perplexity", e.perplexity}, {"val_tokens", e.tokens}, {"val_seconds", e.seconds}};
  append_file(path_, j.dump() + "\n");
}

}  // namespace weft::train
