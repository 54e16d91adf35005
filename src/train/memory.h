// What a run takes of memory, before it starts: what is there is counted, what a micro-batch needs is measured on short ones.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "train/trainer.h"

namespace weft::train {

struct MemoryEstimate {
  int64_t weights = 0, masters_and_moments = 0, gradients = 0, buffers = 0, microbatch = 0;  // bytes of tensors
  int64_t program = 0;  // resident before the first micro-batch and none of the above: code, vocabulary, corpus tables, the library
  int64_t total() const { return weights + masters_and_moments + gradients + buffers + microbatch + program; }
};

// Runs forward and backward on two short micro-batches and extends their peaks along a straight line to the full size (layers
// whose memory grows faster than the tokens make it a lower bound). CPU. Leaves no trace in the training state.
MemoryEstimate estimate_memory(Trainer&, const data::Dataset&, int64_t micro_batch, int64_t seq_len);

std::string memory_text(const MemoryEstimate&);  // "weights 1.2 MiB, ... = 40 MiB"
// OutOfMemoryError with the table, and the micro_batch that would fit, when the total is above `available`.
void check_memory(const MemoryEstimate&, int64_t micro_batch, uint64_t available);

}  // namespace weft::train
