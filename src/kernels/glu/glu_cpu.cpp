#include "kernels/activation/act.h"
#include "kernels/glu/glu.h"

namespace weft::kernels {
namespace {

struct Form {
  float clamp, offset;
};

template <Act kAct>
WEFT_CLONES void fwd_block(const float* gate, const float* up, float prob, float* y, int32_t n, Form f) {
  const float most = f.clamp > 0 ? f.clamp : 3.0e38f;
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) {
    float g = gate[c], u = up[c];
    g = g > most ? most : g;
    u = u > most ? most : u;
    u = u < -most ? -most : u;
    y[c] = act_f32<kAct>(g).value * (u + f.offset) * prob;
  }
}

template <Act kAct>
WEFT_CLONES float bwd_block(const float* dy, const float* gate, const float* up, float prob, float* dgate, float* dup, int32_t n, Form f) {
  const float most = f.clamp > 0 ? f.clamp : 3.0e38f;
  float dprob = 0;
#pragma omp simd reduction(+ : dprob)
  for (int32_t c = 0; c < n; ++c) {
    const float g0 = gate[c], u0 = up[c], d = dy[c];
    const float g = g0 > most ? most : g0;
    float u = u0 > most ? most : u0;
    u = u < -most ? -most : u;
    const ValueAndSlope v = act_f32<kAct>(g);
    dprob += d * v.value * (u + f.offset);
    const float dg = d * prob * v.slope * (u + f.offset), du = d * prob * v.value;
    dgate[c] = g0 > most ? 0.0f : dg;
    dup[c] = u0 > most || u0 < -most ? 0.0f : du;
  }
  return dprob;
}

template <class T, Act kAct>
void fwd_row(const T* gate, const T* up, float prob, T* y, int32_t cols, Form f) {
  Block<T> in_gate, in_up, out;
  in_blocks(cols, [&](int32_t c, int32_t n) {
    fwd_block<kAct>(in_gate.read(gate + c, n), in_up.read(up + c, n), prob, out.room(y + c), n, f);
    out.write(y + c, n);
  });
}

template <class T, Act kAct>
float bwd_row(const T* dy, const T* gate, const T* up, float prob, T* dgate, T* dup, int32_t cols, Form f) {
  Block<T> in_dy, in_gate, in_up, out_gate, out_up;
  float dprob = 0;
  in_blocks(cols, [&](int32_t c, int32_t n) {
    dprob += bwd_block<kAct>(in_dy.read(dy + c, n), in_gate.read(gate + c, n), in_up.read(up + c, n), prob, out_gate.room(dgate + c), out_up.room(dup + c), n, f);
    out_gate.write(dgate + c, n), out_up.write(dup + c, n);
  });
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
