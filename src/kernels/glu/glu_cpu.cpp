#include "kernels/activation/act.h"
#include "kernels/glu/glu.h"

namespace weft::kernels {
namespace {

struct Form {
  float clamp, offset;
};

template <class T, Act kAct>
WEFT_CLONES void fwd_row(const T* gate, const T* up, float prob, T* y, int32_t cols, Form f) {
  const float most = f.clamp > 0 ? f.clamp : 3.0e38f;
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) {
    float g = to_f32(gate[c]), u = to_f32(up[c]);
    g = g > most ? most : g;
    u = u > most ? most : u;
    u = u < -most ? -most : u;
    y[c] = from_f32<T>(act_f32<kAct>(g).value * (u + f.offset) * prob);
  }
}

template <class T, Act kAct>
WEFT_CLONES float bwd_row(const T* dy, const T* gate, const T* up, float prob, T* dgate, T* dup, int32_t cols, Form f) {
  const float most = f.clamp > 0 ? f.clamp : 3.0e38f;
  float dprob = 0;
#pragma omp simd reduction(+ : dprob)
  for (int32_t c = 0; c < cols; ++c) {
    const float g0 = to_f32(gate[c]), u0 = to_f32(up[c]), d = to_f32(dy[c]);
    const float g = g0 > most ? most : g0;
    float u = u0 > most ? most : u0;
    u = u < -most ? -most : u;
    const ValueAndSlope v = act_f32<kAct>(g);
    dprob += d * v.value * (u + f.offset);
    const float dg = d * prob * v.slope * (u + f.offset), du = d * prob * v.value;
    dgate[c] = from_f32<T>(g0 > most ? 0.0f : dg);
    dup[c] = from_f32<T>(u0 > most || u0 < -most ? 0.0f : du);
  }
  return dprob;
}

template <class T, Act kAct>
void run_fwd(const GluFwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      fwd_row<T, kAct>(static_cast<const T*>(a.gate) + r * a.in_stride, static_cast<const T*>(a.up) + r * a.in_stride,
                       a.prob == nullptr ? 1.0f : a.prob[r], static_cast<T*>(a.y) + r * a.cols, a.cols, {a.clamp, a.offset});
  });
}

template <class T, Act kAct>
void run_bwd(const GluBwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float dprob = bwd_row<T, kAct>(static_cast<const T*>(a.dy) + r * a.cols, static_cast<const T*>(a.gate) + r * a.in_stride,
                                           static_cast<const T*>(a.up) + r * a.in_stride, a.prob == nullptr ? 1.0f : a.prob[r],
                                           static_cast<T*>(a.dgate) + r * a.dx_stride, static_cast<T*>(a.dup) + r * a.dx_stride, a.cols,
                                           {a.clamp, a.offset});
      if (a.dprob != nullptr) a.dprob[r] = dprob;
    }
  });
}

template <Act kAct>
void fwd(const GluFwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_fwd<float, kAct>(a, launch) : run_fwd<bf16, kAct>(a, launch);
}
template <Act kAct>
void bwd(const GluBwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_bwd<float, kAct>(a, launch) : run_bwd<bf16, kAct>(a, launch);
}

}  // namespace

Support supports_glu_fwd_cpu(const GluFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_glu_bwd_cpu(const GluBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

void glu_fwd_cpu(const GluFwd& a, const Launch& launch) {
  switch (a.kind) {
    case Glu::kSwiglu: return fwd<Act::kSilu>(a, launch);
    case Glu::kQuickGeglu: return fwd<Act::kQuickGelu>(a, launch);
    case Glu::kGegluExact: return fwd<Act::kGeluExact>(a, launch);
    case Glu::kGegluTanh: return fwd<Act::kGeluTanh>(a, launch);
    case Glu::kReglu: return fwd<Act::kRelu>(a, launch);
  }
}

void glu_bwd_cpu(const GluBwd& a, const Launch& launch) {
  switch (a.kind) {
    case Glu::kSwiglu: return bwd<Act::kSilu>(a, launch);
    case Glu::kQuickGeglu: return bwd<Act::kQuickGelu>(a, launch);
    case Glu::kGegluExact: return bwd<Act::kGeluExact>(a, launch);
    case Glu::kGegluTanh: return bwd<Act::kGeluTanh>(a, launch);
    case Glu::kReglu: return bwd<Act::kRelu>(a, launch);
  }
}

}  // namespace weft::kernels
