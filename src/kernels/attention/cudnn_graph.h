// cuDNN's attention behind plain arguments: a plan is compiled once for a shape and kept for the life of the process. Only
// cudnn_graph.cpp knows the library's front end; the library itself is loaded when the first plan is asked for.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/launch.h"

namespace weft::kernels {

// All that a plan depends on. Compared by its bytes: 8-byte members first, no padding.
struct CudnnShape {
  int64_t documents, max_q, max_kv;      // upper bounds where ragged; exact where dense
  int64_t tokens, key_rows;              // backward of ragged rows: upper bounds of all rows, they size its workspace; else 0
  int64_t q_stride, k_stride, v_stride;  // elements between tokens; heads contiguous
  int32_t heads, groups, dim, dim_v;     // heads and groups of this call: a slice of all of them
  int32_t all_heads, all_groups;         // rows of o, d_o, dq, lse and of dk, dv hold these, contiguous
  int32_t left, right;                   // as in AttentionShape
  float scale;
  int32_t device;
  DType dtype;                           // kBf16 or kF16
  bool dense;                            // every document has max_q queries and max_kv keys, rows without gaps; lse is [documents, heads, max_q]
  bool bottom_right, backward, deterministic, sinks, max_logit;
  uint8_t zero = 0;
};

struct CudnnPlan {
  const char* refusal = nullptr;  // why there is none; lives as long as the process
  size_t workspace = 0;
  void* graph = nullptr;
};

// Thread-safe. The first call for a shape compiles (some 0.1 s); a shape that the library refuses is remembered too.
const CudnnPlan& cudnn_plan(const CudnnShape&);

// Addresses on the device. Ragged shapes: offsets are [documents + 1] int64 elements from the tensor's start, lengths [documents] int32.
struct CudnnCall {
  const void *q, *k, *v, *o, *d_o;
  const void* sinks;     // [heads] fp32
  const void* lse;       // fp32: written by the forward; [tokens, all_heads] where ragged
  const void *row_max, *row_sum;  // like lse, in its place where max_logit: lse = row_max + ln(row_sum)
  const void *dq, *dk, *dv, *d_sinks;
  const void *offset_q, *offset_k, *offset_v, *offset_o, *offset_lse, *offset_dq, *offset_dk, *offset_dv;
  const void *len_q, *len_kv;
};
void cudnn_run(const CudnnPlan&, const CudnnCall&, int device, const Launch&);  // launch.workspace: the plan's

}  // namespace weft::kernels
