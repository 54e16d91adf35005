#include "ops/aten.h"

#include "infer/engine.h"

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"
#include "ops/sample.h"

namespace weft::infer {
namespace {

std::vector<nn::StateSpec> all_states(nn::Module& model) {
  std::vector<nn::StateSpec> specs;
  model.visit("**", [&](nn::Module& m) {
    for (nn::StateSpec& s : m.states()) specs.push_back(std::move(s));
  });
  return specs;
}

PoolSize pool_size(const EngineConfig& c) {
  // Each sequence may leave its last page partly empty.
  return {(c.max_tokens + c.page_tokens - 1) / c.page_tokens + c.sequences, c.page_tokens, c.sequences};
}

}  // namespace

Engine::Engine(nn::Module& model, const ops::Policy& policy, at::Device device, const EngineConfig& config)
    : model_(model), policy_(policy), device_(device), config_(config), pool_(all_states(model), pool_size(config), device) {}

void Engine::submit(Request r) {
  if (r.prompt.empty()) throw InputError("engine: prompt: got no tokens, want at least one");
  const int64_t most = static_cast<int64_t>(r.prompt.size()) + r.sampling.max_tokens;
  if (most > config_.max_tokens)
    throw InputError("engine: prompt + max_tokens: got " + std::to_string(r.prompt.size()) + " + " + std::to_string(r.sampling.max_tokens) +
                     ", want at most " + std::to_string(config_.max_tokens) + " in all\n  try: a shorter prompt or --max-tokens");
  waiting_.push_back(std::move(r));
}

void Engine::abort(int64_t id) {
  std::erase_if(waiting_, [&](const Request& r) { return r.id == id; });
  for (auto s = running_.begin(); s != running_.end(); ++s) {
    if (s->request.id != id) continue;
    pool_.close(s->slot);
    running_.erase(s);
    return;
  }
}

// A request starts when its whole life fits beside those that run: nothing is ever pushed out again.
void Engine::admit() {
  int64_t promised = 0;
  for (const Sequence& s : running_)
    promised += pool_.pages_for(static_cast<int64_t>(s.request.prompt.size()) + s.request.sampling.max_tokens);
  while (!waiting_.empty() && static_cast<int>(running_.size()) < config_.sequences) {
    const Request& r = waiting_.front();
    const int64_t want = pool_.pages_for(static_cast<int64_t>(r.prompt.size()) + r.sampling.max_tokens);
    if (promised + want > pool_size(config_).pages) break;
    promised += want;
    const int slot = pool_.open();
    running_.push_back({r, slot, r.prompt, 0});
    waiting_.pop_front();
  }
}

std::vector<Emission> Engine::step() {
  admit();
  if (running_.empty()) return {};
  const at::NoGradGuard no_grad;

  std::vector<int> slots;
  std::vector<int32_t> lengths, positions;
  std::vector<int64_t> tokens;
  bool decode = true;
  auto ctx = std::make_shared<nn::Ctx>();
  for (const Sequence& s : running_) {
    slots.push_back(s.slot);
    lengths.push_back(static_cast<int32_t>(s.fresh.size()));
    decode = decode && s.fresh.size() == 1;
    const int32_t start = static_cast<int32_t>(pool_.length(s.slot));
    for (size_t t = 0; t < s.fresh.size(); ++t) {
      tokens.push_back(s.fresh[t]);
      positions.push_back(start + static_cast<int32_t>(t));
    }
  }
  ctx->mode = decode ? nn::Ctx::kDecode : nn::Ctx::kPrefill;
  ctx->packing = pool_.plan(slots, lengths);
  ctx->tokens_T = at::tensor(tokens, at::kLong).to(device_);
  ctx->positions_T = at::tensor(positions, at::kInt).to(device_);
  ctx->state = &pool_;
  ctx->ops = policy_;
  const at::Tensor logits_nV = model_(nn::Flow{}, ctx).x_TD;
  pool_.commit();

  ops::SampleOptions options;
  for (const Sequence& s : running_) {
    const Sampling& p = s.request.sampling;
    options.rows.push_back({p.temperature, p.top_p, p.min_p, p.top_k,
                            rng::uniform(rng::mix(p.seed, static_cast<uint64_t>(s.request.id)), static_cast<uint64_t>(s.emitted))});
  }
  const auto [tokens_n, logprobs_n] = ops::sample(logits_nV, options, policy_);
  const at::Tensor host_tokens = tokens_n.cpu(), host_logprobs = logprobs_n.cpu();

  std::vector<Emission> out;
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& s = running_[i];
    const Sampling& p = s.request.sampling;
    const int32_t token = host_tokens.data_ptr<int32_t>()[i];
    const bool stop = std::find(p.stop_tokens.begin(), p.stop_tokens.end(), token) != p.stop_tokens.end();
    const bool last = ++s.emitted >= p.max_tokens || stop;
    out.push_back({s.request.id, token, host_logprobs.data_ptr<float>()[i], last});
    s.fresh = {token};
    if (last) pool_.close(s.slot);
  }
  std::erase_if(running_, [&](const Sequence& s) {
    return std::any_of(out.begin(), out.end(), [&](const Emission& e) { return e.id == s.request.id && e.last; });
  });
  return out;
}

}  // namespace weft::infer
