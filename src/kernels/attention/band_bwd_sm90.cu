// Attention backward on wgmma for windows and packed documents: statistics of the queries, then dq and dk, dv by a pass each (band_bwd.cuh).
// Deterministic. delta is taken from the stored output, as in every flash kernel.
// Floor at 8 x 4096 tokens, 32 heads of 128, window 512: 138,240 tiles of 64 x 64 times seven products of 256 clocks: 1.03 ms at 1.83 GHz;
// the statistics read 0.54 GB.
#include "kernels/attention/band_bwd.cuh"
#include "kernels/attention/documents.cuh"
#include "kernels/common/packed.cuh"

namespace weft::kernels {
namespace band {
namespace {

constexpr int kHeads = 8;  // of a block

// A block writes 64 rows of a document, 8 heads; 8 lanes a row and head. Rows past the document's end get lse2 = inf, delta = 0: no p, no gradient.
template <int kV>
__global__ void __launch_bounds__(256) statistics_kernel(const bf16* o, const bf16* d_o, const float* lse, const int32_t* cu, int documents, int heads, float2* to, int64_t rows) {
  __shared__ float2 out[kHeads][kRows];
  const ChunkPlace at = place_of_slot(cu, documents, blockIdx.x, kRows);
  const int head0 = static_cast<int>(blockIdx.y) * kHeads, lane = static_cast<int>(threadIdx.x) % 8;
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x) / 8; i < kRows * kHeads; i += 32) {
    const int row = i / kHeads, head = head0 + i % kHeads;
    const bool real = row < at.count && head < heads;
    const int64_t place = (at.first + (real ? row : 0)) * heads + (real ? head : 0);
    float sum = 0;
    if (real) {
#pragma unroll
      for (int c = 0; c < kV / 64; ++c) {
        float x[8], y[8];
        dev::load8(o + place * kV + c * 64 + lane * 8, x), dev::load8(d_o + place * kV + c * 64 + lane * 8, y);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum += x[e] * y[e];
      }
    }
    sum = warp_sum<8>(sum);
    if (lane == 0) out[i % kHeads][row] = real ? float2{lse[place] * kLog2E, sum} : float2{INFINITY, 0};
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kHeads; i += 256) {
    const int head = head0 + i / kRows;
    if (head < heads) to[head * rows + static_cast<int64_t>(blockIdx.x) * kRows + i % kRows] = out[i / kRows][i % kRows];
  }
}

// d_sinks[h] -= sum_t exp(sink - lse) delta: a block a head.
__global__ void __launch_bounds__(256) sinks_kernel(const float* sinks, const float2* statistics, int64_t rows, float* d_sinks) {
  __shared__ float scratch[33];
  const float sink = sinks[blockIdx.x] * kLog2E;
  float sum = 0;
  for (int64_t t = threadIdx.x; t < rows; t += 256) {
    const float2 v = statistics[blockIdx.x * rows + t];
    sum += exp2_fast(sink - v.x) * v.y;
  }
  sum = dev::block_reduce(sum, scratch);
  if (threadIdx.x == 0) d_sinks[blockIdx.x] -= sum;
}

__global__ void __launch_bounds__(256) zero_kernel(uint4* p, int64_t count) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * 256) p[i] = uint4{0, 0, 0, 0};
}

size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }
int64_t statistics_rows(const AttentionShape& s) { return (s.tokens / kRows + s.documents) * kRows; }

struct Layout {  // of the workspace, in bytes
  size_t statistics, query_list, key_list, total;
  explicit Layout(const AttentionShape& s) {
    statistics = 0;
    query_list = rounded(static_cast<size_t>(s.heads) * static_cast<size_t>(statistics_rows(s)) * sizeof(float2));
    key_list = query_list + rounded(work_bytes(most_tiles(s, 2 * kRows)));
    total = key_list + rounded(work_bytes(s.key_rows / (2 * kRows) + s.documents));
  }
};

}  // namespace
}  // namespace band

Support supports_attention_bwd_wgmma(const AttentionBwd& a, const Device& d) {
  if (const Support s = band::takes(a.s, d, {a.q, a.k, a.v, a.o, a.d_o, a.dq, a.dk, a.dv}); !s) return s;
  const int dim = a.s.dim, dim_v = a.s.dim_v;
  if (!((dim == 64 && dim_v == 64) || (dim == 128 && (dim_v == 128 || dim_v == 64)))) return {"built for dims 64, 128 and 128/64"};
  if (a.s.heads > 8 * 65535) return {"more than 524280 heads"};
  return {};
}

size_t workspace_attention_bwd_wgmma(const AttentionBwd& a) { return band::Layout(a.s).total; }

void attention_bwd_wgmma(const AttentionBwd& a, const Launch& l) {
  const AttentionShape& s = a.s;
  const band::Layout at(s);
  auto* base = static_cast<uint8_t*>(l.workspace);
  auto* data = reinterpret_cast<float2*>(base + at.statistics);
  const band::Statistics statistics{data, band::statistics_rows(s)};
  launch_grid(s.dim_v == 64 ? band::statistics_kernel<64> : band::statistics_kernel<128>,
              dim3(static_cast<unsigned>(statistics.rows / band::kRows), static_cast<unsigned>(ceil_div(s.heads, band::kHeads))), dim3(256), 0, l.stream,
              static_cast<const bf16*>(a.o), static_cast<const bf16*>(a.d_o), a.lse, s.cu_q, s.documents, s.heads, data, statistics.rows);
  if (!covers_keys(s)) {
    launch_grid(band::zero_kernel, dim3(264), dim3(256), 0, l.stream, static_cast<uint4*>(a.dk), s.key_rows * s.groups * s.dim / 8);
    launch_grid(band::zero_kernel, dim3(264), dim3(256), 0, l.stream, static_cast<uint4*>(a.dv), s.key_rows * s.groups * s.dim_v / 8);
  }
  band::query_gradients(a, statistics, base + at.query_list, l.stream);
  band::key_gradients(a, statistics, base + at.key_list, l.stream);
  if (a.sinks != nullptr && a.d_sinks != nullptr)
    launch_grid(band::sinks_kernel, dim3(static_cast<unsigned>(s.heads)), dim3(256), 0, l.stream, a.sinks, statistics.data, statistics.rows, a.d_sinks);
}

}  // namespace weft::kernels
