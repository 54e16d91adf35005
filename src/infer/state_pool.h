// Where sequences keep their keys, values and recurrent states: pages of tokens and slots of sequences, sized from the
// model's StateSpecs alone. One block table serves every per-token state of a sequence.
#pragma once
#include <map>
#include <span>

#include "nn/module.h"
#include "ops/packing.h"

namespace weft::infer {

struct PoolSize { int64_t pages = 0; int page_tokens = 16; int sequences = 1; };

class StatePool final : public nn::StateStore {
 public:
  StatePool(std::span<const nn::StateSpec>, const PoolSize&, at::Device);

  int open();             // a sequence with nothing kept; OutOfMemoryError when all slots are taken
  void close(int sequence);  // its pages are free again
  int64_t length(int sequence) const { return sequences_[static_cast<size_t>(sequence)].length; }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  int64_t pages_for(int64_t tokens) const { return (tokens + page_tokens_ - 1) / page_tokens_; }

  // The next forward: document i of the batch is `sequences[i]` and brings lengths[i] new tokens. Takes pages, and returns the
  // batch's Packing (kv_lens include what is kept). OutOfMemoryError when pages run out; nothing is taken then.
  ops::Packing plan(std::span<const int> sequences, const std::vector<int32_t>& lengths);
  void commit();  // after the forward: the new tokens are kept

  at::Tensor append(const std::string& name, const at::Tensor& tokens) override;
  at::Tensor load(const std::string& name) override;
  void store(const std::string& name, const at::Tensor& state) override;

  static int64_t bytes(std::span<const nn::StateSpec>, const PoolSize&);

 private:
  struct Sequence {
    bool open = false;
    int64_t length = 0;
    std::vector<int64_t> pages;
  };
  int page_tokens_;
  at::Device device_;
  std::map<std::string, at::Tensor> pools_;  // [pages * page_tokens, ...] or [sequences, ...]
  std::vector<Sequence> sequences_;
  std::vector<int64_t> free_;
  std::vector<int> planned_;
  std::vector<int32_t> planned_lengths_;
  at::Tensor write_index_, read_index_, slot_index_;  // int64
};

}  // namespace weft::infer
