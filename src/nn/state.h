// What a mixer keeps between calls, and how it reaches it. While training there is no store: a call sees its own batch only.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace weft::nn {

struct StateSpec {  // asked after the cut, so shapes are local; the engine sizes its pools from these alone
  std::string name;  // global: "layers.3.attn.k"
  enum Grows : uint8_t { kPerToken, kPerWindow, kPerSequence } grows;
  int64_t window;              // kPerWindow: tokens kept
  std::vector<int64_t> shape;  // of one token (kPerToken, kPerWindow) or one sequence
  DType dtype;
  bool can_roll_back;  // speculative decoding, chunk boundaries
};

// The states of the sequences in a batch; document i of the batch is sequence i of the store's current plan.
class StateStore {
 public:
  virtual ~StateStore() = default;
  // Writes this call's tokens ([T, ...], the batch's packing) behind what sequence i has, and returns all kept tokens of every
  // sequence in a row: [sum(kv_lens), ...]. The batch's Packing has the matching kv_lens.
  virtual at::Tensor append(const std::string& name, const at::Tensor& tokens) = 0;
  // The per-sequence state, [n, ...]; zeros for a sequence that starts.
  virtual at::Tensor load(const std::string& name) = 0;
  virtual void store(const std::string& name, const at::Tensor& state) = 0;
};

}  // namespace weft::nn
