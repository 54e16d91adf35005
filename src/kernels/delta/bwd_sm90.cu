// Delta rules token by token, backward: a block walks a document of one head from its end, a warp for every eight columns. The states
// before the tokens are made again: from the forward's chunk edges to every eighth token, from there to every token of eight.
//   G += scale q do^T    dr = G^T k    dq = scale S do    dk = G r + b * d(bk), d(bk) = -S' dr    db = k * d(bk)    dv = w * dr    dw = v * dr
//   G <- G - (bk) dr^T   dg = rows of G * S'    G <- e^g G
// Sums over columns go through shared memory, warp by warp in order.
#include <algorithm>

#include "kernels/delta/scan.cuh"

namespace weft::kernels {
namespace delta {
namespace {

constexpr int kColumns = 8, kMaxWarps = 16, kSub = 8, kBlocks = 264;  // kBlocks: two a processor

struct Smem {
  float part[kMaxWarps][4][128];  // dq, G r, d(bk), dg of a warp's columns
  float gates[kMaxWarps][2];      // sums of dg and db over rows and a warp's columns, without channels
};

template <class T, int kRows, bool kChannels>
__global__ void __launch_bounds__(32 * kMaxWarps) bwd_kernel(const DeltaBwd a, float* stash, float* dq_heads, float* dk_heads) {
  __shared__ Smem sm;
  const DeltaInputs& in = a.in;
  const int warps = blockDim.x / 32, warp = warp_id(), lane = lane_id();
  const int64_t state = static_cast<int64_t>(in.key_dim) * in.value_dim, kept = static_cast<int64_t>(blockDim.x) * kRows * kColumns;
  stash += blockIdx.x * (2 * kSub * kept) + threadIdx.x;
  Scan<kRows, kColumns> s;
  s.col0 = warp * kColumns;
  auto put = [&](int place) {
#pragma unroll
    for (int e = 0; e < kRows * kColumns; ++e) stash[place * kept + static_cast<int64_t>(e) * blockDim.x] = s.S[e / kColumns][e % kColumns];
  };
  auto take = [&](int place) {
#pragma unroll
    for (int e = 0; e < kRows * kColumns; ++e) s.S[e / kColumns][e % kColumns] = stash[place * kept + static_cast<int64_t>(e) * blockDim.x];
  };
  for (int64_t pair = blockIdx.x; pair < in.documents * in.value_heads; pair += gridDim.x) {
    const int64_t document = pair / in.value_heads;
    s.head = static_cast<int>(pair % in.value_heads), s.key_head = s.head / (in.value_heads / in.key_heads);
    const int64_t start = in.cu_seqlens[document], end = in.cu_seqlens[document + 1], slot = start / kDeltaChunk + document;
    float G[kRows][kColumns];
    s.each(in, [&](int e, int c, int at, bool exists) { G[e][c] = a.d_final_state && exists ? a.d_final_state[pair * state + at] : 0.f; });
    for (int64_t chunk = (end - start + kDeltaChunk - 1) / kDeltaChunk - 1; chunk >= 0; --chunk) {
      const int64_t first = start + chunk * kDeltaChunk, last = first + kDeltaChunk < end ? first + kDeltaChunk : end;
      s.read(in, a.states + ((slot + chunk) * in.value_heads + s.head) * state);
      for (int64_t t = first; t < last; ++t) {
        if ((t - first) % kSub == 0) put(static_cast<int>((t - first) / kSub));
        s.template load<T, kChannels>(in, t);
        s.step();
      }
      for (int sub = static_cast<int>((last - first - 1) / kSub); sub >= 0; --sub) {
        const int64_t from = first + sub * kSub, to = from + kSub < last ? from + kSub : last;
        take(sub);
        for (int64_t t = from; t < to; ++t) {
          put(kSub + static_cast<int>(t - from));
          if (t + 1 == to) break;
          s.template load<T, kChannels>(in, t);
          s.step();
        }
        for (int64_t t = to - 1; t >= from; --t) {
          take(kSub + static_cast<int>(t - from));
          s.template load<T, kChannels>(in, t);
          float before[kRows][kColumns];  // S'
#pragma unroll
          for (int e = 0; e < kRows; ++e)
#pragma unroll
            for (int c = 0; c < kColumns; ++c) before[e][c] = s.decay[e] * s.S[e][c];
          s.step();
          const int64_t gate = t * in.value_heads + s.head, value = gate * in.value_dim + s.col0;
          float dq[kRows] = {}, dk[kRows] = {}, dbk[kRows] = {}, dg[kRows] = {}, write = 0;
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            const bool exists = s.col0 + c < in.value_dim;
            const float d_o = exists ? in.scale * dev::to_f32(static_cast<const T*>(a.d_o)[value + c]) : 0.f;
            float dr = 0;
#pragma unroll
            for (int e = 0; e < kRows; ++e) {
              dq[e] += s.S[e][c] * d_o;
              G[e][c] += s.q[e] * d_o;
              dk[e] += G[e][c] * s.r[c], dr += G[e][c] * s.k[e];
            }
            dr = warp_sum(dr);
#pragma unroll
            for (int e = 0; e < kRows; ++e) {
              dbk[e] -= before[e][c] * dr;
              G[e][c] -= s.bk[e] * dr;
              dg[e] += G[e][c] * before[e][c];
              G[e][c] *= s.decay[e];
            }
            write += s.v[c] * dr;
            if (exists && lane == c) {
              static_cast<T*>(a.dv)[value + c] = dev::from_f32<T>(s.w[c] * dr);
              if (kChannels) a.dw[value + c] = s.v[c] * dr;
            }
          }
          float sum_g = 0, sum_b = 0;
#pragma unroll
          for (int e = 0; e < kRows; ++e) {
            const int i = e * 32 + lane;
            sm.part[warp][0][i] = dq[e], sm.part[warp][1][i] = dk[e], sm.part[warp][2][i] = dbk[e], sm.part[warp][3][i] = dg[e];
            sum_g += dg[e], sum_b += s.k[e] * dbk[e];
          }
          if (!kChannels) {
            sum_g = warp_sum(sum_g), sum_b = warp_sum(sum_b) + write;
            if (lane == 0) sm.gates[warp][0] = sum_g, sm.gates[warp][1] = sum_b;
          }
          __syncthreads();
          for (int i = threadIdx.x; i < in.key_dim; i += blockDim.x) {
            float total[4] = {};
            for (int w = 0; w < warps; ++w)
#pragma unroll
              for (int x = 0; x < 4; ++x) total[x] += sm.part[w][x][i];
            const int64_t key = (t * in.key_heads + s.key_head) * in.key_dim + i;
            const float k = dev::to_f32(static_cast<const T*>(in.k)[key]), b = kChannels ? in.b[gate * in.key_dim + i] : in.b[gate];
            const float sum_k = total[1] + b * total[2];
            if (dq_heads) {
              dq_heads[gate * in.key_dim + i] = total[0], dk_heads[gate * in.key_dim + i] = sum_k;
            } else {
              static_cast<T*>(a.dq)[key] = dev::from_f32<T>(total[0]), static_cast<T*>(a.dk)[key] = dev::from_f32<T>(sum_k);
            }
            if (kChannels) a.dg[gate * in.key_dim + i] = total[3], a.db[gate * in.key_dim + i] = k * total[2];
          }
          if (!kChannels && threadIdx.x < 2) {
            float total = 0;
            for (int w = 0; w < warps; ++w) total += sm.gates[w][threadIdx.x];
            (threadIdx.x == 0 ? a.dg : a.db)[gate] = total;
          }
          __syncthreads();
        }
      }
    }
    if (a.d_initial_state) s.each(in, [&](int e, int c, int at, bool exists) { if (exists) a.d_initial_state[pair * state + at] = G[e][c]; });
  }
}

template <class T>
__global__ void __launch_bounds__(256) sum_heads_kernel(const DeltaBwd a, const float* dq_heads, const float* dk_heads) {
  const DeltaInputs& in = a.in;
  const int share = in.value_heads / in.key_heads;
  const int64_t all = in.tokens * in.key_heads * in.key_dim;
  for (int64_t x = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; x < all; x += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t head = x / in.key_dim, i = x % in.key_dim;  // value heads of key head h of token t are those of t Hk + h, times share
    float q = 0, k = 0;
    for (int h = 0; h < share; ++h) q += dq_heads[(head * share + h) * in.key_dim + i], k += dk_heads[(head * share + h) * in.key_dim + i];
    static_cast<T*>(a.dq)[x] = dev::from_f32<T>(q), static_cast<T*>(a.dk)[x] = dev::from_f32<T>(k);
  }
}

int warps_of(const DeltaInputs& in) { return (in.value_dim + kColumns - 1) / kColumns; }
int64_t blocks_of(const DeltaInputs& in) { return std::min<int64_t>(in.documents * in.value_heads, kBlocks); }
size_t stash_floats(const DeltaInputs& in) { return static_cast<size_t>(blocks_of(in)) * 2 * kSub * 32 * warps_of(in) * (in.key_dim <= 32 ? 1 : 4) * kColumns; }
size_t head_floats(const DeltaInputs& in) { return in.key_heads == in.value_heads ? 0 : static_cast<size_t>(in.tokens) * in.value_heads * in.key_dim; }

}  // namespace
}  // namespace delta

Support supports_delta_bwd_sm90(const DeltaBwd& a, const Device& device) { return delta::supports(a.in, device); }

size_t workspace_delta_bwd_sm90(const DeltaBwd& a) { return (delta::stash_floats(a.in) + 2 * delta::head_floats(a.in)) * sizeof(float); }

void delta_bwd_sm90(const DeltaBwd& a, const Launch& l) {
  if (a.in.documents == 0) return;
  float* stash = static_cast<float*>(l.workspace);
  const size_t heads = delta::head_floats(a.in);
  float *dq = heads ? stash + delta::stash_floats(a.in) : nullptr, *dk = heads ? dq + heads : nullptr;
  delta::with_kind(a.in, [&](auto type, auto rows, auto channels) {
    using T = typename decltype(type)::type;
    launch_grid(delta::bwd_kernel<T, decltype(rows)::value, decltype(channels)::value>, dim3(static_cast<unsigned>(delta::blocks_of(a.in))), dim3(32 * delta::warps_of(a.in)), 0, l.stream, a, stash, dq, dk);
    if (heads) launch_grid(delta::sum_heads_kernel<T>, dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(a.in.tokens * a.in.key_heads * a.in.key_dim, 256), 4096))), dim3(256), 0, l.stream, a, dq, dk);
  });
}

}  // namespace weft::kernels
