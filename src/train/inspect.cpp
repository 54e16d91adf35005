#include "ops/aten.h"

#include "train/inspect.h"

#include <fmt/format.h>

#include <map>

#include "base/text.h"
#include "ops/tensors.h"

namespace weft::train {
namespace {

Json statistics_of(const ckpt::Found& f, const ckpt::Piece& first) {
  const at::ScalarType type = ops::scalar_type(first.dtype);
  ckpt::Piece whole = first;
  whole.box = {std::vector<int64_t>(first.global.size()), first.global};
  at::Tensor t = at::empty(first.global, type);
  ckpt::load(f, std::vector<ckpt::Target>{{whole, t}});
  if (!t.is_floating_point() || t.numel() == 0) return Json::object();
  const at::Tensor v = t.to(at::kFloat), good = v.masked_select(v.isfinite());
  Json j = {{"non_finite", v.numel() - good.numel()}};
  if (good.numel() == 0) return j;
  j["min"] = good.min().item<double>(), j["max"] = good.max().item<double>();
  j["mean"] = good.mean(at::kDouble).item<double>(), j["rms"] = std::sqrt(good.to(at::kDouble).square().mean().item<double>());
  return j;
}

std::string shape_text(const Json& shape) {
  std::string s;
  for (const Json& n : shape) s += (s.empty() ? "" : " x ") + std::to_string(n.get<int64_t>());
  return s.empty() ? "scalar" : s;
}

}  // namespace

Json inspect_checkpoint(const ckpt::Found& f, bool statistics) {
  const ckpt::Manifest& m = f.manifest;
  std::vector<std::pair<std::string, std::vector<const ckpt::Piece*>>> tensors;
  std::map<std::string, size_t> at;
  for (const ckpt::Piece& p : m.pieces) {
    if (at.emplace(p.name, tensors.size()).second) tensors.push_back({p.name, {}});
    tensors[at[p.name]].second.push_back(&p);
  }
  Json j = {{"path", f.path}, {"step", m.step}, {"consumed_samples", m.consumed_samples}, {"consumed_tokens", m.state.value("consumed_tokens", int64_t{0})},
            {"ranks", m.ranks}, {"build_id", m.build_id}, {"isa", m.isa}, {"threads", m.threads}};
  int64_t parameters = 0, weight_bytes = 0, state_bytes = 0;
  Json list = Json::array();
  for (const auto& [name, pieces] : tensors) {
    const bool state = name.starts_with("optim.");
    const int64_t n = numel(pieces[0]->global), size = static_cast<int64_t>(bytes(pieces[0]->dtype, static_cast<size_t>(n)));
    (state ? state_bytes : weight_bytes) += size;
    parameters += state ? 0 : n;
    Json t = {{"name", name}, {"dtype", weft::name(pieces[0]->dtype)}, {"shape", pieces[0]->global}, {"pieces", pieces.size()}};
    if (statistics) t.update(statistics_of(f, *pieces[0]));
    list.push_back(std::move(t));
  }
  j["parameters"] = parameters, j["weight_bytes"] = weight_bytes, j["state_bytes"] = state_bytes;
  j["files"] = Json::array();
  for (const ckpt::File& file : m.files) j["files"].push_back({{"name", file.name}, {"bytes", file.bytes}});
  j["tensors"] = std::move(list);
  j["kernels"] = m.kernels;
  j["config"] = m.config;
  return j;
}

std::string checkpoint_text(const Json& j) {
  std::string s = fmt::format("checkpoint {}\n  step {}, {} samples, {} tokens; {} parameters; every hash holds\n", j["path"].get<std::string>(), j["step"].get<int64_t>(),
                              j["consumed_samples"].get<int64_t>(), human_count(j["consumed_tokens"].get<double>()), human_count(j["parameters"].get<double>()));
  s += fmt::format("  weights {}, optimizer {}; written by {} rank(s), {} threads, {}, build {}\n", human_bytes(j["weight_bytes"].get<uint64_t>()), human_bytes(j["state_bytes"].get<uint64_t>()),
                   j["ranks"].get<int>(), j["threads"].get<int>(), j["isa"].get<std::string>(), j["build_id"].get<std::string>().substr(0, 12));
  for (const Json& f : j["files"]) s += fmt::format("  {:<32} {}\n", f["name"].get<std::string>(), human_bytes(f["bytes"].get<uint64_t>()));
  for (const Json& t : j["tensors"]) {
    const std::string name = t["name"].get<std::string>();
    if (name.starts_with("optim.")) continue;
    s += fmt::format("  {:<40} {:<5} {:<18}", name, t["dtype"].get<std::string>(), shape_text(t["shape"]));
    if (t.contains("rms")) s += fmt::format(" mean {:+.2e}  rms {:.2e}  in [{:+.2e}, {:+.2e}]", t["mean"].get<double>(), t["rms"].get<double>(), t["min"].get<double>(), t["max"].get<double>());
    if (t.contains("non_finite") && t["non_finite"].get<int64_t>() > 0) s += fmt::format("  {} NOT FINITE", t["non_finite"].get<int64_t>());
    s += "\n";
  }
  return s;
}

}  // namespace weft::train
