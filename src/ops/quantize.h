// FP8 quantisers, bit-exact (kernels/quantize/quantize.h has the rule): amax of each block, mult = fmax / amax, q = fp8(x * mult), scale
// = 1 / mult, so that x is about q * scale. And the plain cast. Nothing here is differentiable.
#pragma once
#include <ATen/core/Tensor.h>

#include "base/dtype.h"
#include "kernels/quantize/quantize.h"
#include "ops/policy.h"

namespace weft::ops {

using kernels::QuantBlock;

struct QuantizeOptions {
  QuantBlock block = QuantBlock::kTensor;
  DType to = DType::kF8E4M3;
  bool pow2 = false;       // scales are powers of two
  bool transposed = false;  // also the copy [cols, rows] that the weight gradient's product reads
};
struct Quantized {
  at::Tensor q, scale;      // [rows, cols] fp8; fp32 scales, shapes by block
  at::Tensor q_t, scale_t;  // [cols, rows]; undefined unless asked for, scale_t undefined for kTensor
};

at::Tensor amax(const at::Tensor& x, const Policy&);  // [1] fp32: max |x|; NaN gives NaN
// x [rows, cols] f32 or bf16 contiguous. amax [1] fp32 on the device for kTensor (delayed or current scaling), else undefined.
Quantized quantize(const at::Tensor& x, const at::Tensor& amax, const QuantizeOptions&, const Policy&);
// y = to(x * scale), saturating to FP8; scale [1] fp32 or undefined.
at::Tensor cast(const at::Tensor& x, DType to, const at::Tensor& scale, const Policy&);

namespace reference {
Quantized quantize(const at::Tensor& x, const at::Tensor& amax, const QuantizeOptions&);
at::Tensor dequantize(const at::Tensor& q, const at::Tensor& scale, QuantBlock);  // fp32
}  // namespace reference
}  // namespace weft::ops
