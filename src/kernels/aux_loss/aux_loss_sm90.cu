// Statistics: a block takes a fixed strip of one segment's tokens, a warp every eighth of them; warps, then strips, are added in
// order.
#include "kernels/aux_loss/aux_loss.h"

#include "kernels/router/topk.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr int kWarps = 8;

int64_t strips(int32_t segments) { return segments < 264 ? 264 / (segments > 0 ? segments : 1) : 1; }

struct Parts {
  float* sums;      // [segments, strips, experts]
  int32_t* counts;  // [segments, strips, experts]
  int32_t* tokens;  // [segments, strips]
};
Parts parts_in(void* workspace, const AuxStats& a) {
  const int64_t n = a.segments * strips(a.segments);
  float* sums = static_cast<float*>(workspace);
  int32_t* counts = reinterpret_cast<int32_t*>(sums + n * a.experts);
  return {sums, counts, counts + n * a.experts};
}

template <int NV>
__global__ void __launch_bounds__(kWarps * 32) stats(AuxStats a, Parts parts) {
  WEFT_DYNAMIC_SMEM(stats_smem);
  float* sums = reinterpret_cast<float*>(stats_smem);                       // [warps, experts]
  int32_t* counts = reinterpret_cast<int32_t*>(sums + kWarps * a.experts);  // [warps, experts], then [warps] tokens
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int64_t begin = a.cu == nullptr ? 0 : a.cu[blockIdx.y], end = a.cu == nullptr ? a.tokens : a.cu[blockIdx.y + 1];
  const int64_t strip = (end - begin + gridDim.x - 1) / gridDim.x, first = begin + blockIdx.x * strip,
                last = first + strip < end ? first + strip : end;
  float sum[NV] = {};
  int32_t count[NV] = {}, tokens = 0;
  for (int64_t t = first + warp; t < last; t += kWarps) {
    if (a.valid != nullptr && a.valid[t] == 0) continue;
    ++tokens;
    float race[NV];
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int e = lane + i * 32;
      race[i] = e < a.experts ? a.scores[t * a.experts + e] : -INFINITY;
      if (e < a.experts) sum[i] += race[i];
    }
    for (int j = 0; j < a.k; ++j) {
      const Pick best = warp_best(race, a.experts);
#pragma unroll
      for (int i = 0; i < NV; ++i)
        if (lane + i * 32 == best.index) race[i] = -INFINITY, ++count[i];
    }
  }
#pragma unroll
  for (int i = 0; i < NV; ++i)
    if (lane + i * 32 < a.experts)
      sums[warp * a.experts + lane + i * 32] = sum[i], counts[warp * a.experts + lane + i * 32] = count[i];
  if (lane == 0) counts[kWarps * a.experts + warp] = tokens;
  __syncthreads();
  const int64_t part = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  for (int e = threadIdx.x; e < a.experts; e += kWarps * 32) {
    float s = 0;
    int32_t c = 0;
    for (int w = 0; w < kWarps; ++w) s += sums[w * a.experts + e], c += counts[w * a.experts + e];
    parts.sums[part * a.experts + e] = s, parts.counts[part * a.experts + e] = c;
  }
  if (threadIdx.x == 0) {
    int32_t c = 0;
    for (int w = 0; w < kWarps; ++w) c += counts[kWarps * a.experts + w];
    parts.tokens[part] = c;
  }
}

__global__ void __launch_bounds__(128) add_strips(AuxStats a, Parts parts, int64_t num) {
  const int e = blockIdx.y * 128 + threadIdx.x;
  const int64_t first = blockIdx.x * num;
  if (e < a.experts) {
    float s = 0;
    int32_t c = 0;
    for (int64_t p = first; p < first + num; ++p) s += parts.sums[p * a.experts + e], c += parts.counts[p * a.experts + e];
    a.sums[static_cast<int64_t>(blockIdx.x) * a.experts + e] = s, a.counts[static_cast<int64_t>(blockIdx.x) * a.experts + e] = c;
  }
  if (e == 0 && a.tokens_in != nullptr) {
    int32_t c = 0;
    for (int64_t p = first; p < first + num; ++p) c += parts.tokens[p];
    a.tokens_in[blockIdx.x] = c;
  }
}

// coeff * experts / (k * T^2) / segments, 0 for an empty segment.
__device__ __forceinline__ float factor(float coeff, int experts, int k, int segments, int32_t domain) {
  const float t = static_cast<float>(domain);
  return domain > 0 ? coeff * static_cast<float>(experts) / (static_cast<float>(k) * t * t * static_cast<float>(segments)) : 0.0f;
}

__global__ void __launch_bounds__(256) loss(AuxLoss a) {
  __shared__ float scratch[33];
  float sum = 0;
  for (int64_t i = threadIdx.x; i < static_cast<int64_t>(a.segments) * a.experts; i += 256)
    sum += factor(a.coeff, a.experts, a.k, a.segments, a.domain[i / a.experts]) * a.sums[i] * static_cast<float>(a.counts[i]);
  sum = block_reduce(sum, scratch);
  if (threadIdx.x == 0) *a.loss = sum;
}

__global__ void __launch_bounds__(256) loss_bwd(AuxLossBwd a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= a.tokens * a.experts) return;
  const int64_t t = i / a.experts;
  const int e = static_cast<int>(i - t * a.experts);
  int low = 0, high = a.cu == nullptr ? 0 : a.segments - 1;
  while (low < high) {
    const int mid = (low + high + 1) / 2;
    if (a.cu[mid] <= t)
      low = mid;
    else
      high = mid - 1;
  }
  const bool here = a.valid == nullptr || a.valid[t] != 0;
  a.dscores[i] = here ? *a.dloss * factor(a.coeff, a.experts, a.k, a.segments, a.domain[low]) *
                            static_cast<float>(a.counts[static_cast<int64_t>(low) * a.experts + e])
                      : 0.0f;
}

Support fits(int experts, int k, int segments, const Device& d) {
  if (experts < 1 || experts > 1024) return {"experts is not in 1 .. 1024"};
  if (k < 1 || k > experts) return {"k is not in 1 .. experts"};
  if (segments < 1 || segments > 65535) return {"segments is not in 1 .. 65535"};
  return on_sm90(d);
}

}  // namespace

Support supports_aux_stats_sm90(const AuxStats& a, const Device& d) { return fits(a.experts, a.k, a.segments, d); }
Support supports_aux_loss_sm90(const AuxLoss& a, const Device& d) { return fits(a.experts, a.k, a.segments, d); }
Support supports_aux_loss_bwd_sm90(const AuxLossBwd& a, const Device& d) { return fits(a.experts, a.k, a.segments, d); }
size_t workspace_aux_stats_sm90(const AuxStats& a) {
  return static_cast<size_t>(a.segments * strips(a.segments)) * (static_cast<size_t>(a.experts) * 8 + 4);
}

void aux_stats_sm90(const AuxStats& a, const Launch& launch) {
  const Parts parts = parts_in(launch.workspace, a);
  const dim3 grid(static_cast<unsigned>(strips(a.segments)), static_cast<unsigned>(a.segments));
  const size_t smem = static_cast<size_t>(kWarps) * (static_cast<size_t>(a.experts) * 8 + 4);
  with_expert_registers(a.experts, [&](auto registers) {
    launch_grid(stats<decltype(registers)::value>, grid, dim3(kWarps * 32), smem, launch.stream, a, parts);
  });
  launch_grid(add_strips, dim3(static_cast<unsigned>(a.segments), static_cast<unsigned>(ceil_div(a.experts, 128))), dim3(128), 0,
              launch.stream, a, parts, static_cast<int64_t>(grid.x));
}

void aux_loss_sm90(const AuxLoss& a, const Launch& launch) { launch_grid(loss, dim3(1), dim3(256), 0, launch.stream, a); }

void aux_loss_bwd_sm90(const AuxLossBwd& a, const Launch& launch) {
  if (a.tokens > 0)
    launch_grid(loss_bwd, dim3(static_cast<unsigned>(ceil_div(a.tokens * a.experts, 256))), dim3(256), 0, launch.stream, a);
}

}  // namespace weft::kernels
