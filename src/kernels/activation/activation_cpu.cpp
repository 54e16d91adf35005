#include "kernels/activation/act.h"

namespace weft::kernels {
namespace {

template <Act kAct>
WEFT_CLONES void fwd_block(const float* x, float prob, float* y, int32_t n) {
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) y[c] = act_f32<kAct>(x[c]).value * prob;
}

template <Act kAct>
WEFT_CLONES float bwd_block(const float* dy, const float* x, float prob, float* dx, int32_t n) {
  float dprob = 0;
#pragma omp simd reduction(+ : dprob)
  for (int32_t c = 0; c < n; ++c) {
    const ValueAndSlope v = act_f32<kAct>(x[c]);
    const float g = dy[c];
    dprob += g * v.value;
    dx[c] = g * prob * v.slope;
  }
  return dprob;
}

template <class T, Act kAct>
void fwd_row(const T* x, float prob, T* y, int32_t cols) {
  Block<T> in, out;
  in_blocks(cols, [&](int32_t c, int32_t n) {
    fwd_block<kAct>(in.read(x + c, n), prob, out.room(y + c), n);
    out.write(y + c, n);
  });
}

template <class T, Act kAct>
float bwd_row(const T* dy, const T* x, float prob, T* dx, int32_t cols) {
  Block<T> in_dy, in_x, out;
  float dprob = 0;
  in_blocks(cols, [&](int32_t c, int32_t n) {
    dprob += bwd_block<kAct>(in_dy.read(dy + c, n), in_x.read(x + c, n), prob, out.room(dx + c), n);
    out.write(dx + c, n);
  });
  return dprob;
}

template <class T, Act kAct>
void run_fwd(const ActFwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      fwd_row<T, kAct>(static_cast<const T*>(a.x) + r * a.cols, a.prob == nullptr ? 1.0f : a.prob[r], static_cast<T*>(a.y) + r * a.cols, a.cols);
  });
}

template <class T, Act kAct>
void run_bwd(const ActBwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float dprob = bwd_row<T, kAct>(static_cast<const T*>(a.dy) + r * a.cols, static_cast<const T*>(a.x) + r * a.cols,
                                           a.prob == nullptr ? 1.0f : a.prob[r], static_cast<T*>(a.dx) + r * a.cols, a.cols);
      if (a.dprob != nullptr) a.dprob[r] = dprob;
    }
  });
}

template <Act kAct>
void fwd(const ActFwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_fwd<float, kAct>(a, launch) : run_fwd<bf16, kAct>(a, launch);
}
template <Act kAct>
void bwd(const ActBwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_bwd<float, kAct>(a, launch) : run_bwd<bf16, kAct>(a, launch);
}

}  // namespace

Support supports_act_fwd_cpu(const ActFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_act_bwd_cpu(const ActBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

void act_fwd_cpu(const ActFwd& a, const Launch& launch) {
  switch (a.kind) {
    case Act::kGeluExact: return fwd<Act::kGeluExact>(a, launch);
    case Act::kGeluTanh: return fwd<Act::kGeluTanh>(a, launch);
    case Act::kQuickGelu: return fwd<Act::kQuickGelu>(a, launch);
    case Act::kSilu: return fwd<Act::kSilu>(a, launch);
    case Act::kRelu: return fwd<Act::kRelu>(a, launch);
    case Act::kReluSquared: return fwd<Act::kReluSquared>(a, launch);
  }
}

void act_bwd_cpu(const ActBwd& a, const Launch& launch) {
  switch (a.kind) {
    case Act::kGeluExact: return bwd<Act::kGeluExact>(a, launch);
    case Act::kGeluTanh: return bwd<Act::kGeluTanh>(a, launch);
    case Act::kQuickGelu: return bwd<Act::kQuickGelu>(a, launch);
    case Act::kSilu: return bwd<Act::kSilu>(a, launch);
    case Act::kRelu: return bwd<Act::kRelu>(a, launch);
    case Act::kReluSquared: return bwd<Act::kReluSquared>(a, launch);
  }
}

}  // namespace weft::kernels
