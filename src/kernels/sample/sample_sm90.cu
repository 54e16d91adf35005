// A block a row; the row stays in L2 over the passes. Thresholds are found digit by digit (radix selection) on order-preserving
// keys: by count for top-k, by integer mass for top-p. The last pass walks the row in index order. With a top-k that a block can bound (the
// k-th largest of its threads' maxima is no higher than the k-th largest of the row) the row is read twice: once for its top and sum, once for
// the few values from that bound on, which are then all there is.
#include "kernels/sample/sample.h"

#include "kernels/common/device.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr int kThreads = 512, kTile = kThreads * 8, kMostCandidates = 2048;
using Mass = unsigned long long;

struct Row {  // one row's settings
  float temperature, repetition, presence, frequency;
  const int32_t* counts;
  const uint8_t* in_prompt;
};

// Logits of eight neighbouring columns after penalties and temperature; -inf past the end.
template <class T>
__device__ __forceinline__ void adjusted(const Sample& a, const Row& r, const T* logits, int c, bool aligned, float (&z)[8]) {
  const int count = a.vocab - c < 8 ? a.vocab - c : 8;
  load_some(logits + c, count, aligned && count == 8, z);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    if (j >= count) {
      z[j] = -INFINITY;
      continue;
    }
    const int32_t seen = r.counts == nullptr ? 0 : r.counts[c + j];
    if (r.repetition != 1.0f && (seen > 0 || (r.in_prompt != nullptr && r.in_prompt[c + j] != 0)))
      z[j] = z[j] > 0 ? z[j] / r.repetition : z[j] * r.repetition;
    if (seen > 0) z[j] -= r.frequency * static_cast<float>(seen) + r.presence;
    z[j] = z[j] / r.temperature + 0.0f;  // no -0: equal values have equal keys
  }
}

template <class T>
struct WholeRow {
  const Sample& a;
  const Row& r;
  const T* logits;
  bool aligned;
  __device__ __forceinline__ int count() const { return a.vocab; }
  __device__ __forceinline__ void load(int c, float (&z)[8]) const { adjusted(a, r, logits, c, aligned, z); }
  __device__ __forceinline__ int index(int c) const { return c; }
};
struct Candidates {  // of a row, in the order of their indices
  const float* values;
  const int* indices;
  int n;
  __device__ __forceinline__ int count() const { return n; }
  __device__ __forceinline__ void load(int c, float (&z)[8]) const {
#pragma unroll
    for (int j = 0; j < 8; ++j) z[j] = c + j < n ? values[c + j] : -INFINITY;
  }
  __device__ __forceinline__ int index(int c) const { return indices[c]; }
};

__device__ __forceinline__ uint32_t key_of(float z) {
  const uint32_t u = __float_as_uint(z);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__device__ __forceinline__ float value_of(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }
__device__ __forceinline__ Mass mass_of(float z, float top) {
  return static_cast<Mass>(static_cast<double>(expf(z - top)) * 1099511627776.0 + 0.5);
}

__device__ __forceinline__ Mass block_sum(Mass v, Mass* scratch) {
#pragma unroll
  for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
  __syncthreads();
  Mass sum = 0;
  for (int w = 0; w < kThreads / 32; ++w) sum += scratch[w];
  return sum;
}
// Exclusive prefix over the block; `total` for all.
__device__ __forceinline__ Mass block_prefix(Mass v, Mass* scratch, Mass& total) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  Mass sum = v;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const Mass left = __shfl_up_sync(~0u, sum, o);
    if (lane >= o) sum += left;
  }
  __syncthreads();
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  Mass before = 0;
  total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w < warp) before += scratch[w];
    total += scratch[w];
  }
  return before + sum - v;
}

// Walks the bins from the highest: the bin where the running weight reaches `target`, and the weight above it. Thread 0 decides.
__device__ __forceinline__ int find_bin(const Mass* bins, Mass target, Mass& above, int* shared_bin, Mass* shared_above) {
  __syncthreads();
  if (threadIdx.x == 0) {
    Mass sum = 0;
    int b = 255;
    while (b > 0 && sum + bins[b] < target) sum += bins[b--];
    *shared_bin = b, *shared_above = sum;
  }
  __syncthreads();
  above += *shared_above;
  return *shared_bin;
}

struct Shared {
  Mass bins[256], scratch[kThreads / 32], above;
  float fscratch[33];
  int number;
  float values[kMostCandidates];
  int indices[kMostCandidates];
};

// The draw, among the values of `from`, which hold all that top-k keeps.
template <class Source>
__device__ __forceinline__ void choose(const Sample& a, int64_t row, const Source& from, Shared& sm, float row_top, float lse) {
  float z[8];
  // Kept: keys above `threshold`, and the first `ties` of those that equal it.
  uint32_t threshold = key_of(-INFINITY);
  Mass ties = ~Mass{0};
  const int32_t k = a.top_k == nullptr ? 0 : a.top_k[row];
  if (k > 0 && k < from.count()) {
    Mass above = 0;
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      __syncthreads();
      if (threadIdx.x < 256) sm.bins[threadIdx.x] = 0;
      __syncthreads();
      for (int c = threadIdx.x * 8; c < from.count(); c += kTile) {
        from.load(c, z);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const uint32_t key = key_of(z[j]);
          if (c + j < from.count() && (shift == 24 || key >> (shift + 8) == prefix)) atomicAdd(&sm.bins[(key >> shift) & 255u], Mass{1});
        }
      }
      prefix =
          prefix << 8 | static_cast<uint32_t>(find_bin(sm.bins, static_cast<Mass>(k) - above, above, &sm.number, &sm.above));
    }
    threshold = prefix, ties = static_cast<Mass>(k) - above;
  }
  const float p = a.top_p == nullptr ? 1.0f : a.top_p[row];
  if (p < 1.0f) {
    Mass mine = 0;
    for (int c = threadIdx.x * 8; c < from.count(); c += kTile) {
      from.load(c, z);
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (key_of(z[j]) > threshold) mine += mass_of(z[j], row_top);
    }
    const Mass at_threshold = ties == ~Mass{0} ? 0 : ties * mass_of(value_of(threshold), row_top),
               total = block_sum(mine, sm.scratch) + at_threshold;
    const double wanted = ceil(static_cast<double>(p) * static_cast<double>(total));
    const Mass target = wanted < 1 ? 1 : static_cast<Mass>(wanted);
    Mass above = 0;
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      __syncthreads();
      if (threadIdx.x < 256) sm.bins[threadIdx.x] = 0;
      __syncthreads();
      for (int c = threadIdx.x * 8; c < from.count(); c += kTile) {
        from.load(c, z);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const uint32_t key = key_of(z[j]);
          if (key > threshold && (shift == 24 || key >> (shift + 8) == prefix))
            atomicAdd(&sm.bins[(key >> shift) & 255u], mass_of(z[j], row_top));
        }
      }
      if (threadIdx.x == 0 && at_threshold > 0 && (shift == 24 || threshold >> (shift + 8) == prefix))
        atomicAdd(&sm.bins[(threshold >> shift) & 255u], at_threshold);
      prefix = prefix << 8 | static_cast<uint32_t>(find_bin(sm.bins, target - above, above, &sm.number, &sm.above));
    }
    const Mass one = mass_of(value_of(prefix), row_top), needed = one > 0 ? (target - above + one - 1) / one : 1;
    if (prefix > threshold)
      threshold = prefix, ties = needed;
    else if (needed < ties)
      ties = needed;
  }
  const float min_p = a.min_p == nullptr ? 0.0f : a.min_p[row];
  auto stays = [&](float v) { return expf(v - row_top) >= min_p; };
  // Mass of those kept, then the walk.
  Mass mine = 0, equal = 0;
  for (int c = threadIdx.x * 8; c < from.count(); c += kTile) {
    from.load(c, z);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const uint32_t key = key_of(z[j]);
      if (key > threshold && stays(z[j])) mine += mass_of(z[j], row_top);
      equal += c + j < from.count() && key == threshold;
    }
  }
  equal = block_sum(equal, sm.scratch);
  if (equal < ties) ties = equal;
  const float edge = value_of(threshold);
  const Mass edge_mass = edge > -INFINITY && stays(edge) ? mass_of(edge, row_top) : 0,
             total = block_sum(mine, sm.scratch) + ties * edge_mass;
  const double at = static_cast<double>(a.uniform[row]) * static_cast<double>(total);
  Mass target = static_cast<Mass>(at < 0 ? 0 : at), passed = 0, ties_passed = 0;
  if (target >= total) target = total - 1;
  if (threadIdx.x == 0) sm.number = 0x7fffffff;
  for (int base = 0; base < from.count(); base += kTile) {
    const int c = base + threadIdx.x * 8;
    Mass own = 0, own_ties = 0, all, all_ties;
    if (c < from.count()) from.load(c, z);
#pragma unroll
    for (int j = 0; j < 8; ++j) own_ties += c + j < from.count() && key_of(z[j]) == threshold;
    const Mass tie = ties_passed + block_prefix(own_ties, sm.scratch, all_ties);
    Mass rank = tie;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (c + j >= from.count()) continue;
      const uint32_t key = key_of(z[j]);
      if (key > threshold ? stays(z[j]) : (key == threshold && rank++ < ties && edge_mass > 0)) own += mass_of(z[j], row_top);
    }
    Mass running = passed + block_prefix(own, sm.scratch, all);
    if (own > 0 && running <= target && target < running + own) {  // one thread only
      rank = tie;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (c + j >= from.count()) continue;
        const uint32_t key = key_of(z[j]);
        if (!(key > threshold ? stays(z[j]) : (key == threshold && rank++ < ties && edge_mass > 0))) continue;
        const Mass m = mass_of(z[j], row_top);
        if (running <= target && target < running + m) {
          a.token[row] = from.index(c + j);
          if (a.logprob != nullptr) a.logprob[row] = z[j] - lse;
        }
        running += m;
      }
    }
    passed += all, ties_passed += all_ties;
    if (passed > target) break;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) sample(Sample a, bool aligned) {
  __shared__ Shared sm;
  const int64_t row = blockIdx.x;
  const T* logits = static_cast<const T*>(a.logits) + row * a.stride;
  const float temperature = a.temperature == nullptr ? 1.0f : a.temperature[row];
  const Row r{temperature > 0 ? temperature : 1.0f,
              a.repetition == nullptr ? 1.0f : a.repetition[row],
              a.presence == nullptr ? 0.0f : a.presence[row],
              a.frequency == nullptr ? 0.0f : a.frequency[row],
              a.counts == nullptr ? nullptr : a.counts + row * a.vocab,
              a.in_prompt == nullptr ? nullptr : a.in_prompt + row * a.vocab};
  // Highest value, sum of exponentials, lowest index of the highest.
  float top = -INFINITY, sum = 0, z[8];
  int bad = 0, best = 0x7fffffff;
  for (int c = threadIdx.x * 8; c < a.vocab; c += kTile) {
    adjusted(a, r, logits, c, aligned, z);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      bad |= z[j] != z[j] || z[j] == INFINITY;
      if (z[j] > top) sum = top == -INFINITY ? 0.0f : sum * expf(top - z[j]), top = z[j], best = c + j;
      if (z[j] > -INFINITY) sum += expf(z[j] - top);
    }
  }
  bad = __syncthreads_or(bad);
  const float row_top = block_reduce<MaxOp>(top, sm.fscratch, -INFINITY);
  sum = block_reduce(top == -INFINITY ? 0.0f : sum * expf(top - row_top), sm.fscratch);
  if (threadIdx.x == 0) sm.number = 0x7fffffff;
  __syncthreads();
  if (top == row_top && best != 0x7fffffff) atomicMin(&sm.number, best);
  __syncthreads();
  const int row_best = sm.number;
  if (bad || row_best == 0x7fffffff) {
    if (threadIdx.x == 0) {
      a.token[row] = -1;
      if (a.logprob != nullptr) a.logprob[row] = NAN;
    }
    return;
  }
  const float lse = row_top + logf(sum);
  if (!(temperature > 0)) {
    if (threadIdx.x == 0) {
      a.token[row] = row_best;
      if (a.logprob != nullptr) a.logprob[row] = row_top - lse;
    }
    return;
  }
  const int32_t k = a.top_k == nullptr ? 0 : a.top_k[row];
  if (k > 0 && k <= kThreads && k < a.vocab) {
    uint32_t bound = 0;  // the k-th largest of the threads' highest keys
    const uint32_t own = key_of(top);
    for (int bit = 31; bit >= 0; --bit)
      if (__syncthreads_count(own >= (bound | 1u << bit)) >= k) bound |= 1u << bit;
    const float least = value_of(bound);
    int n = 0;
    for (int base = 0; base < a.vocab && n <= kMostCandidates; base += kTile) {
      const int c = base + threadIdx.x * 8;
      int mine = 0;
      if (c < a.vocab) {
        adjusted(a, r, logits, c, aligned, z);
#pragma unroll
        for (int j = 0; j < 8; ++j) mine += c + j < a.vocab && z[j] >= least;
      }
      if (__syncthreads_or(mine) == 0) continue;
      Mass all;
      int at = n + static_cast<int>(block_prefix(static_cast<Mass>(mine), sm.scratch, all));
      n += static_cast<int>(all);
      if (mine == 0 || n > kMostCandidates) continue;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (c + j < a.vocab && z[j] >= least) sm.values[at] = z[j], sm.indices[at] = c + j, ++at;
    }
    __syncthreads();
    if (n <= kMostCandidates) return choose(a, row, Candidates{sm.values, sm.indices, n}, sm, row_top, lse);
  }
  choose(a, row, WholeRow<T>{a, r, logits, aligned}, sm, row_top, lse);
}

}  // namespace

Support supports_sample_sm90(const Sample& a, const Device& d) {
  if (a.vocab < 1 || a.vocab > (1 << 24)) return {"vocab is not in 1 .. 2^24"};
  if (a.rows >= int64_t{1} << 31) return {"more than 2^31 rows"};
  return on_sm90(d, a.dtype);
}

void sample_sm90(const Sample& a, const Launch& launch) {
  if (a.rows == 0) return;
  const bool aligned = is_aligned(a.logits, 16) && a.stride % 8 == 0;
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(sample<typename decltype(type)::type>, dim3(static_cast<unsigned>(a.rows)), dim3(kThreads), 0, launch.stream, a,
                aligned);
  });
}

}  // namespace weft::kernels
