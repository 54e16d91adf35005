// Batches for a trainer: samples of a dataset side by side in one row of tokens, where documents never see each other.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "data/dataset.h"
#include "data/order.h"
#include "ops/packing.h"

namespace weft::data {

struct Batch {  // T = micro_batch * seq_len tokens in one row, on the CPU
  at::Tensor tokens, targets;  // [T] int64
  at::Tensor loss_weights;     // [T] fp32; 0 where there is nothing to predict
  at::Tensor positions;        // [T] int32, from 0 in each document
  at::Tensor streams;          // [kNumStreams, T] int32, -1 where absent; undefined when no sample of the batch has side streams
  ops::Packing packing;        // cu_q: the documents; every sample begins a new one
};

struct Cursor {
  int64_t consumed_samples = 0;  // over all data-parallel ranks
  uint64_t seed = 0;
};

class BatchStream {
 public:
  virtual ~BatchStream() = default;
  // Endless; past the end of a finite order all weights are 0. Memory of a batch whose tensors nobody else holds any more is used
  // again for a later one.
  virtual Batch next() = 0;
  virtual Cursor cursor() const = 0;  // behind the batches that next() gave, whatever was read ahead
};

struct BatchConfig {
  int64_t micro_batch = 1;  // samples of this rank in one batch
  int64_t rank = 0, ranks = 1;  // data parallel: place = consumed + rank * micro_batch + i, then consumed += ranks * micro_batch
  int read_ahead = 2;       // batches made by a background thread before they are asked for; 0: none, made in next()
  bool pin_memory = false;  // for copies to a GPU; needs CUDA
  int64_t vocab_size = 0;   // an id at or above it is an InputError that names the sample; 0: not looked at
};

Batch make_batch(const Dataset&, const std::vector<int64_t>& indices, bool pin_memory = false, int64_t vocab_size = 0);  // -1: a padding sample
std::unique_ptr<BatchStream> make_stream(std::shared_ptr<const Dataset>, std::shared_ptr<const SampleOrder>, const BatchConfig&, Cursor from = {});
// Batches that one pass over `samples` takes.
inline int64_t batches_in_pass(int64_t samples, const BatchConfig& c) { return (samples + c.micro_batch * c.ranks - 1) / (c.micro_batch * c.ranks); }

}  // namespace weft::data
