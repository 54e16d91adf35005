// One block a row for the statistics, each thread with a running (max, sum), joined in a fixed tree. The gradient is
// element-wise.
#include "kernels/common/flat.cuh"
#include "kernels/xent/xent.h"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr float kLog2e = 1.4426950408889634f;

struct State {
  float max, sum, logit_sum, best_value;
  int32_t best;
};

// exp(a - b), 0 where both are -inf.
__device__ __forceinline__ float exp_gap(float a, float b) { return a == b ? 1.0f : exp2f((a - b) * kLog2e); }

__device__ __forceinline__ State join(const State& a, const State& b) {
  State r;
  r.max = fmaxf(a.max, b.max);
  r.sum = r.max == -INFINITY ? a.sum + b.sum : a.sum * exp_gap(a.max, r.max) + b.sum * exp_gap(b.max, r.max);
  r.logit_sum = a.logit_sum + b.logit_sum;
  const bool take_b = b.best_value > a.best_value || (b.best_value == a.best_value && b.best < a.best);
  r.best_value = take_b ? b.best_value : a.best_value, r.best = take_b ? b.best : a.best;
  return r;
}

// Of a warp; the sums in one order.
__device__ __forceinline__ State warp_join(State s, bool logit_sums, bool best) {
  const float max = lanes_reduce(s.max, 32, [](float a, float b) { return fmaxf(a, b); });
  s.sum = lanes_reduce(s.max == max ? s.sum : s.sum * exp2_fast((s.max - max) * kLog2e));
  if (logit_sums) s.logit_sum = lanes_reduce(s.logit_sum);
  if (best) {
    const float value = lanes_reduce(s.best_value, 32, [](float a, float b) { return fmaxf(a, b); });
    s.best = static_cast<int32_t>(__reduce_min_sync(~0u, static_cast<unsigned>(s.best_value == value ? s.best : 0x7fffffff)));
    s.best_value = value;
  }
  s.max = max;
  return s;
}

template <class T>
__global__ void __launch_bounds__(512) xent_tile(XentTile a, bool aligned) {
  __shared__ State parts[16];
  const int64_t row = blockIdx.x;
  const T* logits = static_cast<const T*>(a.logits) + row * a.stride;
  State s{-INFINITY, 0.0f, 0.0f, -INFINITY, 0x7fffffff};
  constexpr int kAhead = 4;  // vectors asked for at once
  const int step = static_cast<int>(blockDim.x) * 8;
  for (int c0 = static_cast<int>(threadIdx.x) * 8; c0 < a.cols; c0 += kAhead * step) {
    Vec8<T> raw[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int c = c0 + k * step, count = a.cols - c < 8 ? a.cols - c : 8;
      if (count > 0) raw[k] = load_raw(logits + c, count, aligned && count == 8);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int c = c0 + k * step, count = a.cols - c < 8 ? a.cols - c : 8;
      if (count <= 0) continue;
      float f[8];
      unpack(raw[k], f);
      float top = -INFINITY;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (j >= count) f[j] = -INFINITY;
        top = fmaxf(top, f[j]);
      }
      if (a.logit_sum != nullptr) {
#pragma unroll
        for (int j = 0; j < 8; ++j)
          if (j < count) s.logit_sum += f[j];
      }
      if (a.best != nullptr && top > s.best_value) {
        s.best_value = top;
#pragma unroll
        for (int j = 7; j >= 0; --j)
          if (f[j] == top) s.best = c + j;
      }
      if (top > s.max) s.sum *= s.max == -INFINITY ? 0.0f : exp2f((s.max - top) * kLog2e), s.max = top;
      const float shift = s.max == -INFINITY ? 0.0f : s.max * kLog2e;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += exp2_fast(fmaf(f[j], kLog2e, -shift));
      s.sum += sum;
    }
  }
  const bool sums = a.logit_sum != nullptr, best = a.best != nullptr;
  s = warp_join(s, sums, best);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = static_cast<int>(blockDim.x >> 5);
  if (lane == 0) parts[warp] = s;
  __syncthreads();
  if (warp != 0) return;
  s = warp_join(lane < warps ? parts[lane] : State{-INFINITY, 0.0f, 0.0f, -INFINITY, 0x7fffffff}, sums, best);
  if (lane != 0) return;
  if (s.best != 0x7fffffff) s.best += static_cast<int32_t>(a.first_col);
  const int64_t label = a.labels[row] - a.first_col;
  const bool hit = label >= 0 && label < a.cols;
  if (a.first) {
    a.target[row] = hit ? to_f32(logits[label]) : -INFINITY;
  } else {
    const State before{a.max[row], a.sum[row], a.logit_sum == nullptr ? 0.0f : a.logit_sum[row], a.max[row],
                       a.best == nullptr ? 0 : a.best[row]};
    s = join(before, s);
    if (hit) a.target[row] = to_f32(logits[label]);
  }
  a.max[row] = s.max, a.sum[row] = s.sum;
  if (a.logit_sum != nullptr) a.logit_sum[row] = s.logit_sum;
  if (a.best != nullptr) a.best[row] = s.best;
}

__global__ void __launch_bounds__(256) xent_loss(XentLoss a) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (row >= a.rows) return;
  const float lse = a.max[row] + logf(a.sum[row]), target = a.target[row];
  float loss = lse - target;
  if (a.smoothing > 0) loss = lse - (1 - a.smoothing) * target - a.smoothing * (a.logit_sum[row] / static_cast<float>(a.vocab));
  a.lse[row] = lse;
  a.loss[row] = a.labels[row] == a.ignore_index ? 0.0f : loss;
}

template <class T>
__global__ void __launch_bounds__(256) xent_grad(XentGrad a, bool aligned) {
  constexpr int kUnroll = 4;
  const int64_t row = blockIdx.x;
  const T* logits = static_cast<const T*>(a.logits) + row * a.stride;
  T* out = static_cast<T*>(a.dlogits) + row * a.stride;
  const int64_t id = a.labels[row], label = id - a.first_col;
  const float g = a.g[row], total = g + (a.glse == nullptr ? 0.0f : a.glse[row]), lse = a.lse[row];
  const bool ignored = id == a.ignore_index || (g == 0 && total == 0);  // gives nothing: logits that are NaN must not show
  const float at_label = g * (1 - a.smoothing), everywhere = g * a.smoothing / static_cast<float>(a.vocab);
  Vec8<T> raw[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int c = ((static_cast<int>(blockIdx.y) * kUnroll + k) * 256 + static_cast<int>(threadIdx.x)) * 8, count = a.cols - c;
    if (count > 0) raw[k] = load_raw(logits + c, count < 8 ? count : 8, aligned && count >= 8);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int c = ((static_cast<int>(blockIdx.y) * kUnroll + k) * 256 + static_cast<int>(threadIdx.x)) * 8, count = a.cols - c;
    if (count <= 0) continue;
    float f[8];
    unpack(raw[k], f);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float p = exp2_fast((f[j] - lse) * kLog2e);
      f[j] = ignored ? 0.0f : total * p - everywhere - (label == c + j ? at_label : 0.0f);
    }
    store_some(out + c, count < 8 ? count : 8, aligned && count >= 8, f);
  }
}

template <class Args>
Support fits(const Args& a, const Device& d) {
  if (a.rows >= int64_t{1} << 31) return {"more than 2^31 rows"};
  return on_sm90(d, a.dtype);
}

}  // namespace

Support supports_xent_tile_sm90(const XentTile& a, const Device& d) {
  if (a.first_col + a.cols >= int64_t{1} << 31) return {"more than 2^31 columns"};
  return fits(a, d);
}
Support supports_xent_loss_sm90(const XentLoss& a, const Device& d) {
  if (a.smoothing > 0 && a.logit_sum == nullptr) return {"label smoothing needs logit_sum"};
  return on_sm90(d);
}
Support supports_xent_grad_sm90(const XentGrad& a, const Device& d) { return fits(a, d); }

void xent_tile_sm90(const XentTile& a, const Launch& launch) {
  if (a.rows == 0) return;
  const bool aligned = is_aligned(a.logits, 16) && a.stride % 8 == 0;
  const int threads = a.cols >= 8192 ? 512 : a.cols >= 1024 ? 128 : 32;
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(xent_tile<typename decltype(type)::type>, dim3(static_cast<unsigned>(a.rows)), dim3(threads), 0, launch.stream, a,
                aligned);
  });
}

void xent_loss_sm90(const XentLoss& a, const Launch& launch) {
  if (a.rows > 0) launch_grid(xent_loss, dim3(static_cast<unsigned>(ceil_div(a.rows, 256))), dim3(256), 0, launch.stream, a);
}

void xent_grad_sm90(const XentGrad& a, const Launch& launch) {
  if (a.rows == 0 || a.cols == 0) return;
  const bool aligned = is_aligned(a.logits, 16) && is_aligned(a.dlogits, 16) && a.stride % 8 == 0;
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(xent_grad<typename decltype(type)::type>,
                dim3(static_cast<unsigned>(a.rows), static_cast<unsigned>(ceil_div(a.cols, 8192))), dim3(256), 0, launch.stream,
                a, aligned);
  });
}

}  // namespace weft::kernels
