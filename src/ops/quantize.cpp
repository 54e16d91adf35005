#include "ops/aten.h"

#include "ops/quantize.h"

#include "kernels/cast/cast.h"
#include "ops/composed.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

double fmax_of(DType t) { return t == DType::kF8E4M3 ? 448.0 : 57344.0; }

bool is_fp8(DType t) { return t == DType::kF8E4M3 || t == DType::kF8E5M2; }

int64_t blocks_of(int64_t n) { return (n + 127) / 128; }

// Each scale where its block's elements are: [rows, cols] of a matrix cut in blocks of `r` rows and `c` columns.
at::Tensor spread(const at::Tensor& scales, int64_t rows, int64_t cols, int64_t r, int64_t c) {
  return scales.repeat_interleave(r, 0).narrow(0, 0, rows).repeat_interleave(c, 1).narrow(1, 0, cols);
}

// [blocks down, blocks across] of the maxima over blocks of r x c, edges included.
at::Tensor block_amax(const at::Tensor& x, int64_t r, int64_t c) {
  const int64_t rows = (x.size(0) + r - 1) / r, cols = (x.size(1) + c - 1) / c;
  const at::Tensor padded = at::constant_pad_nd(x.abs(), {0, cols * c - x.size(1), 0, rows * r - x.size(0)});
  return padded.view({rows, r, cols, c}).amax({1, 3});
}

struct Scaled {
  at::Tensor q, scale;
};

Scaled scale_blocks(const at::Tensor& x, const at::Tensor& amax, const QuantizeOptions& o, int64_t r, int64_t c) {
  const double fmax = fmax_of(o.to);
  at::Tensor mult = at::where((amax == 0).logical_or(amax.isfinite().logical_not()), at::ones_like(amax), at::full_like(amax, fmax) / amax);
  if (o.pow2) mult = mult.contiguous().view(at::kInt).bitwise_and(0x7f800000).view(at::kFloat);
  const at::Tensor q = (x * spread(mult, x.size(0), x.size(1), r, c)).clamp(-fmax, fmax).to(scalar_type(o.to));
  return {q, 1 / mult};
}

}  // namespace

namespace reference {

Quantized quantize(const at::Tensor& x_in, const at::Tensor& amax, const QuantizeOptions& o) {
  const at::Tensor x = x_in.to(at::kFloat);  // the rule is stated in fp32, whatever comes in
  const int64_t rows = std::max<int64_t>(x.size(0), 1), cols = std::max<int64_t>(x.size(1), 1);
  Quantized out;
  const auto put = [](Scaled s, at::Tensor& q, at::Tensor& scale) { q = s.q, scale = s.scale; };
  switch (o.block) {
    case QuantBlock::kTensor:
      put(scale_blocks(x, amax.to(at::kFloat).view({1, 1}), o, rows, cols), out.q, out.scale);
      out.scale = out.scale.view({1});
      if (o.transposed) out.q_t = out.q.view(at::kByte).t().contiguous().view(out.q.scalar_type());
      break;
    case QuantBlock::kRow:
      put(scale_blocks(x, block_amax(x, 1, cols), o, 1, cols), out.q, out.scale);
      out.scale = out.scale.view({x.size(0)});
      if (o.transposed) {
        const at::Tensor tops = x.size(0) > 0 ? block_amax(x.t(), 1, rows) : at::zeros({x.size(1), 1}, x.options());  // a row of nothing has a scale
        put(scale_blocks(x.t().contiguous(), tops, o, 1, rows), out.q_t, out.scale_t);
        out.scale_t = out.scale_t.view({x.size(1)});
      }
      break;
    case QuantBlock::k1x128:
      put(scale_blocks(x, block_amax(x, 1, 128), o, 1, 128), out.q, out.scale);
      if (o.transposed) put(scale_blocks(x.t().contiguous(), block_amax(x.t(), 1, 128), o, 1, 128), out.q_t, out.scale_t);
      break;
    case QuantBlock::k128x128:
      put(scale_blocks(x, block_amax(x, 128, 128), o, 128, 128), out.q, out.scale);
      if (o.transposed) {
        out.q_t = out.q.view(at::kByte).t().contiguous().view(out.q.scalar_type());
        out.scale_t = out.scale.t().contiguous();
      }
      break;
  }
  return out;
}

at::Tensor dequantize(const at::Tensor& q, const at::Tensor& scale, QuantBlock block) {
  const at::Tensor v = q.to(at::kFloat);
  switch (block) {
    case QuantBlock::kTensor: return v * scale;
    case QuantBlock::kRow: return v * scale.unsqueeze(1);
    case QuantBlock::k1x128: return v * spread(scale, q.size(0), q.size(1), 1, 128);
    case QuantBlock::k128x128: return v * spread(scale, q.size(0), q.size(1), 128, 128);
  }
  throw InternalError("dequantize: unknown block");
}

}  // namespace reference

namespace {

constexpr Candidate<kernels::Amax> kAmax[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_amax_sm90>, nullptr, kernels::amax_sm90},
#endif
    kAtenOnCpu<kernels::Amax>,
};
constexpr Candidate<kernels::Quantize> kQuantize[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_quantize_sm90>,
     kernels::workspace_quantize_sm90, kernels::quantize_sm90},
#endif
    kAtenOnCpu<kernels::Quantize>,
};
constexpr Candidate<kernels::Cast> kCast[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_cast_sm90>, nullptr, kernels::cast_sm90},
#endif
    kAtenOnCpu<kernels::Cast>,
};

}  // namespace

at::Tensor amax(const at::Tensor& x, const Policy& policy) {
  const at::NoGradGuard no_grad;
  check_shape(x.is_contiguous(), "amax", "layout of x", describe(x), "contiguous");
  kernels::Amax a{x.data_ptr(), nullptr, x.numel(), false, dtype_of(x)};
  const auto* c = select<kernels::Amax>("amax", kAmax, a, policy);
  if (composed(c)) return x.numel() == 0 ? at::zeros({1}, x.options().dtype(at::kFloat)) : x.abs().amax().to(at::kFloat).view({1});
  const at::Tensor out = at::empty({1}, x.options().dtype(at::kFloat).requires_grad(false));
  a.amax = out.data_ptr<float>();
  run(*c, a, x);
  return out;
}

Quantized quantize(const at::Tensor& x, const at::Tensor& amax, const QuantizeOptions& o, const Policy& policy) {
  const at::NoGradGuard no_grad;
  check_shape(x.dim() == 2 && x.is_contiguous(), "quantize", "x", describe(x), "[rows, cols] contiguous");
  check_shape(is_fp8(o.to), "quantize", "result", name(o.to), "f8e4m3 or f8e5m2");
  const bool by_tensor = o.block == QuantBlock::kTensor;
  check_shape(by_tensor == amax.defined() && (!by_tensor || amax.numel() == 1), "quantize", "amax", describe(amax), by_tensor ? "[1] f32" : "none: blocks have their own");
  const int64_t rows = x.size(0), cols = x.size(1);
  kernels::Quantize a{x.data_ptr(), by_tensor ? floats(amax) : nullptr, nullptr, nullptr, nullptr, nullptr, rows,
                      static_cast<int32_t>(cols), o.block, o.pow2, dtype_of(x), o.to};
  const auto* c = select<kernels::Quantize>("quantize", kQuantize, a, policy);
  if (composed(c)) return reference::quantize(x, amax, o);
  const auto f8 = x.options().dtype(scalar_type(o.to)).requires_grad(false), f32 = f8.dtype(at::kFloat);
  Quantized out;
  const auto scales = [&](int64_t r, int64_t n) {
    switch (o.block) {
      case QuantBlock::kTensor: return at::empty({1}, f32);
      case QuantBlock::kRow: return at::empty({r}, f32);
      case QuantBlock::k1x128: return at::empty({r, blocks_of(n)}, f32);
      default: return at::empty({blocks_of(r), blocks_of(n)}, f32);
    }
  };
  out.q = at::empty({rows, cols}, f8), out.scale = scales(rows, cols);
  a.q = out.q.data_ptr(), a.scale = out.scale.data_ptr<float>();
  if (o.transposed) {
    out.q_t = at::empty({cols, rows}, f8), a.q_t = out.q_t.data_ptr();
    if (!by_tensor) out.scale_t = scales(cols, rows), a.scale_t = out.scale_t.data_ptr<float>();
  }
  run(*c, a, x);
  return out;
}

at::Tensor cast(const at::Tensor& x, DType to, const at::Tensor& scale, const Policy& policy) {
  const at::NoGradGuard no_grad;
  check_shape(x.is_contiguous(), "cast", "layout of x", describe(x), "contiguous");
  check_shape(!scale.defined() || (scale.numel() == 1 && scale.scalar_type() == at::kFloat), "cast", "scale", describe(scale), "[1] f32");
  kernels::Cast a{x.data_ptr(), nullptr, floats(scale), x.numel(), dtype_of(x), to};
  const auto* c = select<kernels::Cast>("cast", kCast, a, policy);
  if (composed(c)) {
    at::Tensor v = x.to(at::kFloat);
    if (scale.defined()) v = v * scale;
    if (is_fp8(to)) v = v.clamp(-fmax_of(to), fmax_of(to));
    return v.to(scalar_type(to));
  }
  const at::Tensor y = at::empty(x.sizes(), x.options().dtype(scalar_type(to)).requires_grad(false));
  a.y = y.data_ptr();
  run(*c, a, x);
  return y;
}

}  // namespace weft::ops
