// Requests in, tokens out: prefill what waits, decode what runs, one packed batch a step. Speaks token ids only.
#pragma once
#include <deque>
#include <memory>

#include "infer/state_pool.h"
#include "nn/module.h"

namespace weft::infer {

struct Sampling {
  double temperature = 1, top_p = 1, min_p = 0;
  int top_k = 0;  // 0: all
  int max_tokens = 16;
  uint64_t seed = 0;
  std::vector<int32_t> stop_tokens;
};
struct Request {
  int64_t id;
  std::vector<int32_t> prompt;  // at least one token
  Sampling sampling;
};
struct Emission {
  int64_t id;
  int32_t token;
  float logprob;  // under the softmax at the temperature, before top-k, top-p and min-p
  bool last;
};

struct EngineConfig { int64_t max_tokens = 4096; int sequences = 8; int page_tokens = 16; };  // tokens kept, over all sequences

class Engine {
 public:
  Engine(nn::Module& model, const ops::Policy&, at::Device, const EngineConfig&);

  void submit(Request);        // InputError: empty prompt, or prompt + max_tokens above what the pool can keep
  void abort(int64_t id);      // frees its state; nothing more is emitted for it
  std::vector<Emission> step();  // empty when nothing is left to do
  bool idle() const { return waiting_.empty() && running_.empty(); }

 private:
  struct Sequence {
    Request request;
    int slot;
    std::vector<int32_t> fresh;  // tokens that the model has not seen: the prompt, then the token just sampled
    int emitted = 0;
  };
  void admit();

  nn::Module& model_;
  ops::Policy policy_;
  at::Device device_;
  EngineConfig config_;
  StatePool pool_;
  std::deque<Request> waiting_;
  std::deque<Sequence> running_;
};

}  // namespace weft::infer
