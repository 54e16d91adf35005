// A layer's own rotary table, made as long as the longest document seen.
#pragma once
#include "ops/rope_table.h"

namespace weft::nn {

class Rope {
 public:
  // A table for positions below `length`. Grows by doubling, so that decoding does not make one a token.
  const ops::RopeTable& covering(int64_t length, int64_t rotated, double base, at::Device device) {
    if (!table_.defined() || table_.cos_PF.size(0) < length || table_.cos_PF.device() != device) {
      int64_t rows = 256;
      while (rows < length) rows *= 2;
      table_ = ops::rope_table({rotated, base}, rows, device);
    }
    return table_;
  }

 private:
  ops::RopeTable table_;
};

}  // namespace weft::nn
