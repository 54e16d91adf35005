// Backward of the projection in one pass over x. bf16: a warp owns 32 columns and walks down a strip of tokens 16 at a time on
// mma.sync: dx = dproj W and dw = dproj^T x with dproj and W as two bf16 addends each (the product of the small ones left out).
// Else: a thread two columns, their weights and weight gradients in registers. Strips are added up in order.
// Of a whole layer (mhc_layer.h): a block owns 64 columns of each of four streams, so that the gradients g that are mixed into a column
// are read once.
#include "kernels/common/column_sum.cuh"
#include "kernels/common/device.cuh"
#include "kernels/common/mma.cuh"
#include "kernels/mhc/mhc_layer.h"

namespace weft::kernels {
namespace {

constexpr int kOut = 24;       // outputs are padded to it
constexpr int kColumns = 256;  // of a block

using dev::to_f32;

__device__ __forceinline__ float coefficient_of(const MhcProjectBwd& a, int64_t t) {
  const float r = a.r[t], norm = a.norm[t];
  return norm > 0 ? a.dr[t] * r * r / (sqrtf(static_cast<float>(a.k)) * norm) : 0.0f;
}

__device__ __forceinline__ float addend(float v, bool second) {
  return second ? v - __bfloat162float(__float2bfloat16_rn(v)) : v;
}

// dproj of 16 tokens in the order in which lanes need it, both addends: A fragments [lane][4] of outputs 0..15 (first addend),
// 0..15 (second), 16..23 (first, then second); B fragments of dproj^T [3][lane][2 addends][2]; the coefficients of x.
constexpr int kTileWords = 3 * 128 + 3 * 128 + 16;

__global__ void __launch_bounds__(128) pack_dproj(MhcProjectBwd a, uint32_t* packed) {
  const int64_t t0 = static_cast<int64_t>(blockIdx.x) * 16;
  auto dproj = [&](int row, int out) {
    return t0 + row < a.tokens && out < a.num_out ? a.dproj[(t0 + row) * a.num_out + out] : 0.0f;
  };
  for (int i = threadIdx.x; i < kTileWords; i += 128) {
    const int part = i / 128, lane = i % 128 / 4, q = lane / 4, r = lane % 4, e = i % 4;
    uint32_t word;
    if (part < 3) {
      const int row = q + 8 * (e & 1), out = (part < 2 ? 8 * (e >> 1) : 16) + 2 * r;
      const bool second = part == 1 || (part == 2 && e >= 2);
      word = pack_bf16(addend(dproj(row, out), second), addend(dproj(row, out + 1), second));
    } else if (part < 6) {
      const int row = 2 * r + 8 * (e & 1), out = (part - 3) * 8 + q;
      word = pack_bf16(addend(dproj(row, out), e >> 1), addend(dproj(row + 1, out), e >> 1));
    } else {
      word = __float_as_uint(t0 + i % 128 < a.tokens ? coefficient_of(a, t0 + i % 128) : 0.0f);
    }
    packed[blockIdx.x * static_cast<int64_t>(kTileWords) + i] = word;
  }
}

enum Plus { kNothing, kIn, kLayer };  // what is added to dx: nothing, dx_in, or the rest of a layer
constexpr int kStages = 4, kRow = kColumns + 8;  // the padding keeps ldmatrix off one bank
constexpr int kStreams = 4, kShare = kColumns / kStreams, kMixing = kStreams * kStreams + kStreams;
template <Plus kPlus>
struct Stage {
  bf16 x[16][kRow];
  bf16 in[kPlus == kNothing ? 1 : 16][kPlus == kNothing ? 8 : kRow];  // dx_in, or g
  bf16 du[kPlus == kLayer ? 16 : 1][kPlus == kLayer ? kShare + 8 : 8];
  float mixing[kPlus == kLayer ? 16 : 1][kMixing];  // h, then pre
  uint32_t packed[kTileWords];
};

template <Plus kPlus>
__global__ void __launch_bounds__(256, 2)
    project_bwd_tiles(MhcLayerBwd layer, const uint32_t* packed, int64_t strip, float* parts) {
  WEFT_DYNAMIC_SMEM(project_smem);
  Stage<kPlus>* ring = reinterpret_cast<Stage<kPlus>*>(project_smem);
  const MhcProjectBwd& a = layer.project;
  const int lane = threadIdx.x & 31, q = lane / 4, r = lane % 4, own = static_cast<int>(threadIdx.x >> 5) * 32;
  const auto column = [&](int local) {  // of K, of this block's column `local`
    if constexpr (kPlus == kLayer) return local / kShare * layer.dim + static_cast<int>(blockIdx.y) * kShare + local % kShare;
    else return static_cast<int>(blockIdx.y) * kColumns + local;
  };
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  uint32_t w[2][4][3];  // addends; outputs 2r.. of every eight
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int o = 0; o < 3; ++o) {
      const int col = column(own + n * 8 + q);
      float v[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int out = o * 8 + 2 * r + k;
        v[k] = out < a.num_out && col < a.k ? a.w[static_cast<int64_t>(out) * a.k + col] : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < 2; ++k) w[k][n][o] = pack_bf16(addend(v[0], k), addend(v[1], k));
    }
  auto fetch = [&](int64_t t0, int at) {
    Stage<kPlus>& stage = ring[at];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int i = static_cast<int>(threadIdx.x) + 256 * k, row = i / 32, col = i % 32 * 8;
      const bool here = t0 + row < last && column(col) < a.k;
      const int64_t from = (t0 + row) * a.k + column(col);
      cp_async16(&stage.x[row][col], static_cast<const bf16*>(a.x) + (here ? from : 0), here);
      if constexpr (kPlus == kIn) cp_async16(&stage.in[row][col], static_cast<const bf16*>(a.dx_in) + (here ? from : 0), here);
      if constexpr (kPlus == kLayer) cp_async16(&stage.in[row][col], static_cast<const bf16*>(layer.g) + (here ? from : 0), here);
    }
    if constexpr (kPlus == kLayer) {
      const int i = static_cast<int>(threadIdx.x);
      if (i < 128) {
        const int row = i / 8, col = i % 8 * 8;
        const bool here = t0 + row < last;
        cp_async16(&stage.du[row][col], static_cast<const bf16*>(layer.du) + (here ? (t0 + row) * layer.dim + static_cast<int64_t>(blockIdx.y) * kShare + col : 0), here);
      } else if (i < 128 + 16 * 5) {
        const int row = (i - 128) / 5, part = (i - 128) % 5;
        const bool here = t0 + row < last;
        const int64_t t = here ? t0 + row : 0;
        cp_async16(&stage.mixing[row][part * 4], part < 4 ? layer.h + t * 16 + part * 4 : layer.pre + t * 4, here);
      }
    }
    if (threadIdx.x < kTileWords / 4)
      cp_async16(&stage.packed[threadIdx.x * 4], packed + (t0 < last ? t0 / 16 * kTileWords : 0) + threadIdx.x * 4, t0 < last);
    cp_async_commit();
  };
  float dw[2][3][4] = {};
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) fetch(first + 16 * s, s);
  int at = 0;
  for (int64_t t0 = first; t0 < last; t0 += 16) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // this tile has come, and every warp is done with the one before
    fetch(t0 + 16 * (kStages - 1), (at + kStages - 1) % kStages);
    Stage<kPlus>& stage = ring[at];
    at = (at + 1) % kStages;
    uint32_t d[3][4], dx[4][2];
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const uint4 v = *reinterpret_cast<const uint4*>(&stage.packed[k * 128 + lane * 4]);
      d[k][0] = v.x, d[k][1] = v.y, d[k][2] = v.z, d[k][3] = v.w;
    }
    const float* coefficient = reinterpret_cast<const float*>(&stage.packed[6 * 128]);
    const float coefficients[2] = {coefficient[q], coefficient[q + 8]};
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float acc[4] = {};
      const uint32_t first_half[4] = {d[2][0], d[2][1], 0, 0};
      mma_bf16(acc, first_half, w[1][n][2], 0);
      mma_bf16(acc, d[0], w[1][n][0], w[1][n][1]);
      mma_bf16(acc, d[1], w[0][n][0], w[0][n][1]);
      mma_bf16(acc, d[2], w[0][n][2], w[0][n][2]);
      mma_bf16(acc, d[0], w[0][n][0], w[0][n][1]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int col = own + n * 8 + 2 * r;
        const float2 x = unpack_bf16(*reinterpret_cast<const uint32_t*>(&stage.x[q + 8 * h][col]));
        float low = acc[2 * h] - coefficients[h] * x.x, high = acc[2 * h + 1] - coefficients[h] * x.y;
        if constexpr (kPlus == kIn) {
          const float2 in = unpack_bf16(*reinterpret_cast<const uint32_t*>(&stage.in[q + 8 * h][col]));
          low += in.x, high += in.y;
        }
        if constexpr (kPlus == kLayer) {
          const float* mixing = stage.mixing[q + 8 * h];
          const int stream = own / kShare, c = col % kShare;
          const float2 du = unpack_bf16(*reinterpret_cast<const uint32_t*>(&stage.du[q + 8 * h][c]));
          low += mixing[16 + stream] * du.x, high += mixing[16 + stream] * du.y;
#pragma unroll
          for (int i = 0; i < kStreams; ++i) {
            const float m = mixing[layer.transposed ? stream * 4 + i : i * 4 + stream];
            const float2 g = unpack_bf16(*reinterpret_cast<const uint32_t*>(&stage.in[q + 8 * h][i * kShare + c]));
            low += m * g.x, high += m * g.y;
          }
        }
        dx[n][h] = pack_bf16(low, high);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      uint32_t x[4];
      ldmatrix_x4_trans(x, smem_address(&stage.x[(lane & 7) + (lane >> 4) * 8][own + m * 16 + ((lane >> 3) & 1) * 8]));
#pragma unroll
      for (int n = 0; n < 3; ++n) {
        const uint4 v = *reinterpret_cast<const uint4*>(&stage.packed[(3 + n) * 128 + lane * 4]);
        mma_bf16(dw[m][n], x, v.z, v.w);
        mma_bf16(dw[m][n], x, v.x, v.y);
      }
    }
    __syncwarp();  // a warp's columns of x are its own: dx takes their place on its way out
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h) *reinterpret_cast<uint32_t*>(&stage.x[q + 8 * h][own + n * 8 + 2 * r]) = dx[n][h];
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = q + 8 * h, col = own + r * 8;
      if (t0 + row < last && column(col) < a.k)
        *reinterpret_cast<uint4*>(static_cast<bf16*>(a.dx) + (t0 + row) * a.k + column(col)) =
            *reinterpret_cast<const uint4*>(&stage.x[row][col]);
    }
  }
  cp_async_wait<0>();
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < 3; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int out = n * 8 + 2 * r + (e & 1), col = column(own + m * 16 + q + 8 * (e >> 1));
        if (out < a.num_out && col < a.k) parts[(blockIdx.x * static_cast<int64_t>(a.num_out) + out) * a.k + col] = dw[m][n][e];
      }
}

constexpr int kTokens = 32;  // of dproj in shared memory at a time

// What a layer adds to dx at column `col` of token t.
template <class T>
__device__ __forceinline__ float mixed(const MhcLayerBwd& l, int64_t t, int col) {
  const int stream = col / l.dim, c = col % l.dim;
  float sum = l.pre[t * l.n + stream] * to_f32(static_cast<const T*>(l.du)[t * l.dim + c]);
  for (int i = 0; i < l.n; ++i)
    sum += l.h[(t * l.n + (l.transposed ? stream : i)) * l.n + (l.transposed ? i : stream)] * to_f32(static_cast<const T*>(l.g)[(t * l.n + i) * l.dim + c]);
  return sum;
}

template <class T>
__global__ void __launch_bounds__(128) project_bwd(MhcLayerBwd layer, int64_t strip, float* parts) {
  const MhcProjectBwd& a = layer.project;
  __shared__ float dproj[kTokens][kOut];
  __shared__ float coefficient[kTokens];
  const int col = (blockIdx.y * 128 + threadIdx.x) * 2;
  const bool two = col + 1 < a.k, one = col < a.k;
  float w[kOut][2], dw[kOut][2] = {};
#pragma unroll
  for (int o = 0; o < kOut; ++o) {
    w[o][0] = one && o < a.num_out ? a.w[static_cast<int64_t>(o) * a.k + col] : 0.0f;
    w[o][1] = two && o < a.num_out ? a.w[static_cast<int64_t>(o) * a.k + col + 1] : 0.0f;
  }
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  for (int64_t t0 = first; t0 < last; t0 += kTokens) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTokens * kOut; i += 128) {
      const int64_t t = t0 + i / kOut;
      dproj[i / kOut][i % kOut] = t < last && i % kOut < a.num_out ? a.dproj[t * a.num_out + i % kOut] : 0.0f;
    }
    if (threadIdx.x < kTokens && t0 + threadIdx.x < last) {
      coefficient[threadIdx.x] = coefficient_of(a, t0 + threadIdx.x);
    }
    __syncthreads();
    const int count = last - t0 < kTokens ? static_cast<int>(last - t0) : kTokens;
#pragma unroll 2
    for (int i = 0; i < count; ++i) {
      const int64_t at = (t0 + i) * a.k + col;
      const float x0 = one ? to_f32(static_cast<const T*>(a.x)[at]) : 0.0f,
                  x1 = two ? to_f32(static_cast<const T*>(a.x)[at + 1]) : 0.0f;
      float d0 = -coefficient[i] * x0, d1 = -coefficient[i] * x1;
      if (a.dx_in != nullptr) {
        if (one) d0 += to_f32(static_cast<const T*>(a.dx_in)[at]);
        if (two) d1 += to_f32(static_cast<const T*>(a.dx_in)[at + 1]);
      }
      if (layer.g != nullptr) {
        if (one) d0 += mixed<T>(layer, t0 + i, col);
        if (two) d1 += mixed<T>(layer, t0 + i, col + 1);
      }
#pragma unroll
      for (int o = 0; o < kOut; ++o) {
        const float g = dproj[i][o];
        d0 += g * w[o][0], d1 += g * w[o][1];
        dw[o][0] += g * x0, dw[o][1] += g * x1;
      }
      if (one) static_cast<T*>(a.dx)[at] = dev::from_f32<T>(d0);
      if (two) static_cast<T*>(a.dx)[at + 1] = dev::from_f32<T>(d1);
    }
  }
#pragma unroll
  for (int o = 0; o < kOut; ++o) {
    if (o >= a.num_out) continue;
    float* part = parts + (blockIdx.x * static_cast<int64_t>(a.num_out) + o) * a.k + col;
    if (one) part[0] = dw[o][0];
    if (two) part[1] = dw[o][1];
  }
}

// Tokens of a strip, a multiple of 16: three rounds of two blocks an SM.
int64_t strip_of(const MhcProjectBwd& a) {
  const int64_t tiles = ceil_div(a.tokens, 16), strips = 792 / ceil_div(a.k, kColumns);
  return ceil_div(tiles, strips < 1 ? 1 : strips > tiles ? tiles : strips) * 16;
}
size_t parts_bytes(const MhcProjectBwd& a) {
  const size_t bytes = sizeof(float) * static_cast<size_t>(ceil_div(a.tokens, strip_of(a))) * static_cast<size_t>(a.num_out) *
                       static_cast<size_t>(a.k);
  return (bytes + 255) / 256 * 256;
}

}  // namespace

Support supports_mhc_project_bwd_sm90(const MhcProjectBwd& a, const Device& d) {
  if (a.num_out < 1 || a.num_out > kOut) return {"num_out is not in 1 .. 24"};
  return on_sm90(d, a.dtype);
}

size_t workspace_mhc_project_bwd_sm90(const MhcProjectBwd& a) {
  if (a.tokens == 0 || a.k == 0) return 0;
  return parts_bytes(a) + sizeof(uint32_t) * kTileWords * static_cast<size_t>(ceil_div(a.tokens, 16));
}

namespace {

void run(const MhcLayerBwd& layer, bool tiles, const Launch& launch) {
  const MhcProjectBwd& a = layer.project;
  const int64_t strip = strip_of(a), strips = ceil_div(a.tokens, strip);
  float* parts = static_cast<float*>(launch.workspace);
  const dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(ceil_div(a.k, kColumns)));
  if (tiles) {
    uint32_t* packed = reinterpret_cast<uint32_t*>(static_cast<char*>(launch.workspace) + parts_bytes(a));
    launch_grid(pack_dproj, dim3(static_cast<unsigned>(ceil_div(a.tokens, 16))), dim3(128), 0, launch.stream, a, packed);
    const auto go = [&](auto kernel, size_t stage) {
      launch_grid(kernel, grid, dim3(256), kStages * stage, launch.stream, layer, static_cast<const uint32_t*>(packed), strip, parts);
    };
    if (layer.g != nullptr)
      go(project_bwd_tiles<kLayer>, sizeof(Stage<kLayer>));
    else if (a.dx_in != nullptr)
      go(project_bwd_tiles<kIn>, sizeof(Stage<kIn>));
    else
      go(project_bwd_tiles<kNothing>, sizeof(Stage<kNothing>));
  } else if (a.dtype == DType::kBf16) {
    launch_grid(project_bwd<bf16>, grid, dim3(128), 0, launch.stream, layer, strip, parts);
  } else {
    launch_grid(project_bwd<float>, grid, dim3(128), 0, launch.stream, layer, strip, parts);
  }
  if (a.dw != nullptr) add_column_sums(parts, strips, static_cast<int64_t>(a.num_out) * a.k, a.dw, launch.stream);
}

}  // namespace

void mhc_project_bwd_sm90(const MhcProjectBwd& a, const Launch& launch) {
  if (a.tokens == 0 || a.k == 0) return;
  const bool tiles = a.dtype == DType::kBf16 && a.k % 8 == 0 && is_aligned(a.x, 16) && is_aligned(a.dx, 16) && is_aligned(a.dx_in, 16);
  run({a, nullptr, nullptr, nullptr, nullptr, 1, a.k, false}, tiles, launch);
}

Support supports_mhc_layer_bwd_sm90(const MhcLayerBwd& a, const Device& d) { return supports_mhc_project_bwd_sm90(a.project, d); }
size_t workspace_mhc_layer_bwd_sm90(const MhcLayerBwd& a) { return workspace_mhc_project_bwd_sm90(a.project); }

void mhc_layer_bwd_sm90(const MhcLayerBwd& layer, const Launch& launch) {
  if (layer.project.tokens == 0 || layer.project.k == 0) return;
  MhcLayerBwd a = layer;
  a.project.dx_in = nullptr;
  bool tiles = a.project.dtype == DType::kBf16 && a.n == kStreams && a.dim % kShare == 0;
  for (const void* p : {a.project.x, static_cast<const void*>(a.project.dx), a.g, a.du, static_cast<const void*>(a.h), static_cast<const void*>(a.pre)})
    tiles = tiles && is_aligned(p, 16);
  run(a, tiles, launch);
}

}  // namespace weft::kernels
