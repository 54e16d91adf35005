// Documents in a row of tokens, and decode rows, in one description.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace weft::ops {

struct Packing {
  at::Tensor cu_q;                 // [n + 1] int32 on the device: query tokens of document i are [cu_q[i], cu_q[i + 1])
  at::Tensor kv_lens;              // [n] int32 on the device: keys each document sees, at least its queries (more while decoding)
  std::vector<int32_t> host_cu_q, host_kv_lens;  // the same on the host: no sync to learn a length
  int32_t max_q = 0, max_kv = 0;

  int64_t documents() const { return host_cu_q.empty() ? 0 : static_cast<int64_t>(host_cu_q.size()) - 1; }
  int64_t tokens() const { return host_cu_q.empty() ? 0 : host_cu_q.back(); }
  // From document lengths (each >= 0); kv_lens are the same lengths.
  static Packing of(const std::vector<int32_t>& lengths, at::Device device = at::kCPU);
};

}  // namespace weft::ops
