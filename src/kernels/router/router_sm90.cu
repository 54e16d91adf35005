// A warp a token, the experts' scores in its registers; counts are added up per block first.
#include "kernels/router/router.h"

#include "kernels/router/topk.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr int kWarps = 8;

__device__ __forceinline__ float score_of(Score kind, float z) {
  if (kind == Score::kSigmoid) return 1.0f / (1.0f + expf(-z));
  return sqrtf(z > 20.0f ? z : log1pf(expf(z)));
}

// softmax over the warp's registers; returns logsumexp.
template <int NV>
__device__ __forceinline__ float softmax(const float (&z)[NV], float (&p)[NV], int experts) {
  const int lane = threadIdx.x & 31;
  float top = -INFINITY, sum = 0;
#pragma unroll
  for (int i = 0; i < NV; ++i)
    if (lane + i * 32 < experts) top = MaxOp{}(top, z[i]);
  top = lanes_reduce<MaxOp>(top);
#pragma unroll
  for (int i = 0; i < NV; ++i) {
    p[i] = lane + i * 32 < experts ? expf(z[i] - top) : 0.0f;
    sum += p[i];
  }
  sum = lanes_reduce(sum);
#pragma unroll
  for (int i = 0; i < NV; ++i) p[i] /= sum;
  return top + logf(sum);
}

template <int NV>
__global__ void __launch_bounds__(kWarps * 32) router_fwd(RouterFwd a) {
  WEFT_DYNAMIC_SMEM(router_smem);
  int32_t* counts = reinterpret_cast<int32_t*>(router_smem);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  float* choices = reinterpret_cast<float*>(counts + a.experts) + warp * a.experts;
  for (int e = threadIdx.x; e < a.experts; e += kWarps * 32) counts[e] = 0;
  __syncthreads();
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + warp; t < a.tokens;
       t += static_cast<int64_t>(gridDim.x) * kWarps) {
    if (a.valid != nullptr && a.valid[t] == 0) {
      if (lane < a.k) a.indices[t * a.k + lane] = -1, a.weights[t * a.k + lane] = 0;
      if (a.scores != nullptr)
        for (int e = lane; e < a.experts; e += 32) a.scores[t * a.experts + e] = 0;
      if (a.lse != nullptr && lane == 0) a.lse[t] = 0;
      continue;
    }
    float z[NV], s[NV], race[NV], p[NV], all = 0;
    bool nan = false;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int e = lane + i * 32;
      z[i] = e < a.experts ? a.logits[t * a.experts + e] : -INFINITY;
      nan = nan || z[i] != z[i];
    }
    nan = __any_sync(~0u, nan);
    const bool soft = a.score == Score::kSoftmaxPre || a.score == Score::kSoftmaxPost;
    float lse = 0;
    if (soft || a.lse != nullptr) lse = softmax(z, p, a.experts);
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int e = lane + i * 32;
      s[i] = e >= a.experts                   ? 0.0f
             : a.score == Score::kSoftmaxPre  ? p[i]
             : a.score == Score::kSoftmaxPost ? z[i]
                                              : score_of(a.score, z[i]);
      race[i] = e >= a.experts ? -INFINITY : s[i] + (a.bias == nullptr ? 0.0f : a.bias[e]);
      if (!soft) all += s[i];
    }
    if (!soft) all = lanes_reduce(all) + 1e-20f;
    if (a.scores != nullptr) {
#pragma unroll
      for (int i = 0; i < NV; ++i)
        if (lane + i * 32 < a.experts) a.scores[t * a.experts + lane + i * 32] = soft ? p[i] : s[i] / all;
    }
    if (a.lse != nullptr && lane == 0) a.lse[t] = lse;
    if (a.groups > 1) {
      const int size = a.experts / a.groups, best_of = a.k / a.group_topk;
#pragma unroll
      for (int i = 0; i < NV; ++i)
        if (lane + i * 32 < a.experts) choices[lane + i * 32] = race[i];
      __syncwarp();
      float group_race[1] = {-INFINITY};
      if (lane < a.groups) {  // sum of the best few, the lower index first on ties: the sum does not depend on it
        group_race[0] = 0;
        float bound = INFINITY;
        int taken = 0;
        while (taken < best_of) {  // the next value below `bound`, as often as it occurs
          float next = -INFINITY;
          for (int e = 0; e < size; ++e) {
            const float v = choices[lane * size + e];
            if (v < bound) next = fmaxf(next, v);
          }
          int times = 0;
          for (int e = 0; e < size; ++e) times += choices[lane * size + e] == next;
          if (times == 0) break;  // NaN: handled below
          for (int n = 0; n < times && taken < best_of; ++n, ++taken) group_race[0] += next;
          bound = next;
        }
      }
      uint32_t kept = 0;
      for (int g = 0; g < a.group_topk; ++g) {
        const Pick best = warp_best(group_race, a.groups);
        if (best.index >= a.groups) break;
        kept |= 1u << best.index;
        if (lane == best.index) group_race[0] = -INFINITY;
      }
#pragma unroll
      for (int i = 0; i < NV; ++i)
        if (lane + i * 32 < a.experts && !((kept >> ((lane + i * 32) / size)) & 1u)) race[i] = -INFINITY;
      __syncwarp();
    }
    float chosen = 0;  // lane j holds the j-th choice
    int32_t index = lane;
    if (!nan) {
      for (int j = 0; j < a.k; ++j) {
        const Pick best = warp_best(race, a.experts);
        const float value = take(race, s, best.index);
        if (lane == j) chosen = value, index = best.index == 0x7fffffff ? -1 : best.index;
      }
    }
    float weight;
    if (a.score == Score::kSoftmaxPost) {
      const float top = lanes_reduce<MaxOp>(lane < a.k ? chosen : -INFINITY);
      const float exponential = lane < a.k ? expf(chosen - top) : 0.0f;
      weight = exponential / lanes_reduce(exponential);
    } else if (a.score == Score::kSoftmaxPre || a.k == 1) {
      weight = chosen;
    } else {
      weight = chosen / (lanes_reduce(lane < a.k ? chosen : 0.0f) + 1e-20f);
    }
    if (lane < a.k) {
      a.indices[t * a.k + lane] = index;
      a.weights[t * a.k + lane] = nan ? NAN : weight * a.scaling;
      if (a.counts != nullptr && index >= 0) atomicAdd(&counts[index], 1);
    }
  }
  __syncthreads();
  if (a.counts != nullptr)
    for (int e = threadIdx.x; e < a.experts; e += kWarps * 32)
      if (counts[e] > 0) atomicAdd(&a.counts[e], counts[e]);
}

template <int NV>
__global__ void __launch_bounds__(kWarps * 32) router_bwd(RouterBwd a) {
  const int lane = threadIdx.x & 31;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  if (t >= a.tokens) return;
  const int32_t mine = lane < a.k ? a.indices[t * a.k + lane] : -1;
  if (__shfl_sync(~0u, mine, 0) < 0) {
    for (int e = lane; e < a.experts; e += 32) a.dlogits[t * a.experts + e] = 0;
    return;
  }
  const bool soft = a.score == Score::kSoftmaxPre || a.score == Score::kSoftmaxPost;
  float z[NV], s[NV], ds[NV], dz[NV], p[NV];
#pragma unroll
  for (int i = 0; i < NV; ++i) {
    const int e = lane + i * 32;
    z[i] = e < a.experts ? a.logits[t * a.experts + e] : -INFINITY;
    ds[i] = e < a.experts && a.dscores != nullptr ? a.dscores[t * a.experts + e] : 0.0f;
    dz[i] = 0;
  }
  if (soft || a.dlse != nullptr) softmax(z, p, a.experts);
#pragma unroll
  for (int i = 0; i < NV; ++i) s[i] = lane + i * 32 >= a.experts ? 0.0f : soft ? p[i] : score_of(a.score, z[i]);
  if (!soft && a.dscores != nullptr) {  // scores = s / all
    float all = 0, dot = 0;
#pragma unroll
    for (int i = 0; i < NV; ++i) all += s[i], dot += ds[i] * s[i];
    all = lanes_reduce(all) + 1e-20f, dot = lanes_reduce(dot) / all;
#pragma unroll
    for (int i = 0; i < NV; ++i) ds[i] = (ds[i] - dot) / all;
  }
  if (a.dweights != nullptr) {
    const float dw = lane < a.k ? a.dweights[t * a.k + lane] * a.scaling : 0.0f;
    float chosen = 0, back;  // the score of lane j's choice; the gradient it receives
    for (int j = 0; j < a.k; ++j) {
      const int index = __shfl_sync(~0u, mine, j);
      float v = 0;
#pragma unroll
      for (int i = 0; i < NV; ++i)
        if (lane + i * 32 == index) v = a.score == Score::kSoftmaxPost ? z[i] : s[i];
      v = __shfl_sync(~0u, v, index & 31);
      if (lane == j) chosen = v;
    }
    if (a.score == Score::kSoftmaxPost) {
      const float top = lanes_reduce<MaxOp>(lane < a.k ? chosen : -INFINITY);
      float q = lane < a.k ? expf(chosen - top) : 0.0f;
      q /= lanes_reduce(q);
      back = q * (dw - lanes_reduce(q * dw));
    } else if (a.score == Score::kSoftmaxPre || a.k == 1) {
      back = dw;
    } else {
      const float sum = lanes_reduce(lane < a.k ? chosen : 0.0f) + 1e-20f;
      back = (dw - lanes_reduce(dw * (lane < a.k ? chosen : 0.0f)) / sum) / sum;
    }
    for (int j = 0; j < a.k; ++j) {
      const int index = __shfl_sync(~0u, mine, j);
      const float v = __shfl_sync(~0u, back, j);
#pragma unroll
      for (int i = 0; i < NV; ++i)
        if (lane + i * 32 == index) (a.score == Score::kSoftmaxPost ? dz[i] : ds[i]) += v;
    }
  }
  float dot = 0;
  if (soft) {
#pragma unroll
    for (int i = 0; i < NV; ++i) dot += ds[i] * s[i];
    dot = lanes_reduce(dot);
  }
  const float dlse = a.dlse == nullptr ? 0.0f : a.dlse[t];
#pragma unroll
  for (int i = 0; i < NV; ++i) {
    const int e = lane + i * 32;
    if (e >= a.experts) continue;
    if (soft) {
      dz[i] += s[i] * (ds[i] - dot);
    } else if (a.score == Score::kSigmoid) {
      dz[i] += ds[i] * s[i] * (1 - s[i]);
    } else {
      dz[i] += ds[i] * (1.0f / (1.0f + expf(-z[i]))) / fmaxf(2 * s[i], 1e-30f);
    }
    if (a.dlse != nullptr) dz[i] += dlse * p[i];
    a.dlogits[t * a.experts + e] = dz[i];
  }
}

Support fits(int experts, int k, const Device& d) {
  if (experts < 1 || experts > 1024) return {"experts is not in 1 .. 1024"};
  if (k < 1 || k > 32 || k > experts) return {"k is not in 1 .. min(32, experts)"};
  return on_sm90(d);
}

}  // namespace

Support supports_router_fwd_sm90(const RouterFwd& a, const Device& d) {
  if (a.groups > 1) {
    if (a.groups > 32 || a.experts % a.groups != 0) return {"groups does not divide experts, or is above 32"};
    if (a.group_topk < 1 || a.group_topk > a.groups || a.k % a.group_topk != 0)
      return {"group_topk does not divide k, or is above groups"};
    if (a.k > a.group_topk * (a.experts / a.groups)) return {"the kept groups hold fewer than k experts"};
  }
  return fits(a.experts, a.k, d);
}
Support supports_router_bwd_sm90(const RouterBwd& a, const Device& d) { return fits(a.experts, a.k, d); }

void router_fwd_sm90(const RouterFwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  with_expert_registers(a.experts, [&](auto registers) {
    const auto kernel = router_fwd<decltype(registers)::value>;
    const size_t smem = static_cast<size_t>(a.experts) * 4 * (1 + (a.groups > 1 ? kWarps : 0));
    launch_grid(kernel, dim3(persistent_grid(kernel, kWarps * 32, smem, ceil_div(a.tokens, kWarps))), dim3(kWarps * 32), smem,
                launch.stream, a);
  });
}

void router_bwd_sm90(const RouterBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  with_expert_registers(a.experts, [&](auto registers) {
    launch_grid(router_bwd<decltype(registers)::value>, dim3(static_cast<unsigned>(ceil_div(a.tokens, kWarps))),
                dim3(kWarps * 32), 0, launch.stream, a);
  });
}

}  // namespace weft::kernels
