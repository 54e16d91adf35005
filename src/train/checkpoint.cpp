#include "ops/aten.h"

#include "train/checkpoint.h"

#include <fmt/format.h>
#include <torch/version.h>

#include "base/cpu.h"
#include "base/error.h"
#include "base/files.h"
#include "ckpt/hash.h"
#include "train/pieces.h"

namespace weft::train {

Identity this_process() {
  const MappedFile binary("/proc/self/exe");
  return {ckpt::xxh3(ckpt::xxh3(binary.bytes()) + " torch " + TORCH_VERSION), cpu::isa(), at::get_num_threads()};
}

std::vector<ckpt::Source> state_sources(Trainer& t, const Mesh& mesh) {
  std::vector<ckpt::Source> out;
  for_each_part(t, mesh, [&](const Part& p) {
    if (p.main_replica) out.push_back({p.piece, p.tensor});
  });
  return out;
}

ckpt::Manifest state_manifest(const Trainer& t, const Identity& id, const Json& config, uint64_t seed, const Json& extra) {
  const RunState& s = t.state();
  ckpt::Manifest m;
  m.build_id = id.build_id, m.isa = id.isa, m.threads = id.threads;
  m.config = config;
  m.step = s.step, m.consumed_samples = s.consumed_samples, m.rng_seed = seed;
  m.state = {{"updates", s.updates}, {"consumed_tokens", s.consumed_tokens}};
  m.state.update(extra);
  return m;
}

namespace {

// Parts of a fused dim are not contiguous in the local tensor: they are read aside and copied in.
void read_parts(const ckpt::Found& found, const std::vector<Part>& parts) {
  const at::NoGradGuard no_grad;
  std::vector<ckpt::Target> targets;
  for (const Part& p : parts) targets.push_back({p.piece, p.tensor.is_contiguous() ? p.tensor : at::empty(p.tensor.sizes(), p.tensor.options())});
  ckpt::load(found, targets);
  for (size_t i = 0; i < parts.size(); ++i)
    if (!parts[i].tensor.is_contiguous()) parts[i].tensor.copy_(targets[i].tensor);
}

}  // namespace

void load_state(Trainer& t, const Mesh& mesh, const ckpt::Found& found) {
  std::vector<Part> parts;
  for_each_part(t, mesh, [&](const Part& p) { parts.push_back(p); });
  read_parts(found, parts);
  t.model().visit_params([](nn::Param& p) { ++p.weight.version; });
  const ckpt::Manifest& m = found.manifest;
  try {
    t.set_state({m.step, m.state.at("updates").get<int64_t>(), m.consumed_samples, m.state.at("consumed_tokens").get<int64_t>()});
  } catch (const Json::exception& e) {
    throw InputError(found.path + ": state of the trainer: " + e.what());
  }
}

void load_model(nn::Module& model, const Mesh& mesh, const ckpt::Found& found) {
  std::vector<Part> parts;
  for_each_model_part(model, mesh, [&](const Part& p) { parts.push_back(p); });
  read_parts(found, parts);
  model.visit_params([](nn::Param& p) { ++p.weight.version; });
}

ResumeProblems resume_problems(const ckpt::Manifest& m, const std::vector<config::Change>& changes, const Identity& now, const std::string& data_hash) {
  ResumeProblems out;
  for (const config::Change& c : changes)
    if (!c.live) out.refused.push_back(fmt::format("{}: was {}, now {}", c.path, c.before.empty() ? "not set" : c.before, c.after.empty() ? "not set" : c.after));
  if (m.build_id != now.build_id) out.inexact.push_back("the binary: another build than the one that saved");
  if (m.isa != now.isa) out.inexact.push_back(fmt::format("the instruction set: was {}, now {}", m.isa, now.isa));
  if (m.threads != now.threads) out.inexact.push_back(fmt::format("the threads: were {}, now {}", m.threads, now.threads));
  if (m.state.contains("data_xxh3") && m.state["data_xxh3"] != data_hash) out.inexact.push_back("the data: data.path holds other tokens than before");
  return out;
}

}  // namespace weft::train
