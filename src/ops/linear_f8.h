// Linear layers whose products take FP8 factors (training.md D2, D3), with the scales of the tensors at hand (current scaling).
//   forward  y  = Q(x) Q(w)^T            kF8Tensor, kF8Row: x, w in E4M3, dy in E5M2; sums of the forward stay in the tensor core
//   backward dx = Q(dy) Q(w)             kF8Block: all in E4M3, scales are powers of two; x and dy in 1x128 along the contraction, w in
//            dw += Q(dy)^T Q(x)                    squares of 128; every 128 terms are promoted to fp32
// Q rounds to FP8 and back. The product over tokens has quantisations of its own (blocks and rows run along the tokens there), made
// from the same tensors. The backward treats Q as the identity (straight through). K and N are multiples of 16; tokens may be any number
// (up to 15 rows of zeros are added).
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/gemm_recipe.h"
#include "ops/quantize.h"
#include "ops/weight.h"
#include "ops/wgrad_queue.h"

namespace weft::ops {

struct WeightCopies {  // good while recipe, version and data are those of the weight
  GemmRecipe::Kind kind = GemmRecipe::kBf16;
  uint64_t version = 0;
  const void* data = nullptr;
  Quantized f8;
};

// The rest of ops/linear's contract holds; it calls this for FP8 recipes.
at::Tensor linear_f8(const at::Tensor& x, Weight& w, const GemmRecipe&, WgradQueue*, const Policy&, Weight* b);

struct Factor {  // of a product: [rows, k], the contraction along the rows
  at::Tensor q, scale;
  QuantBlock block = QuantBlock::kTensor;
  at::Tensor exact;  // stands for q and scale where nothing is rounded
};
// c (+)= a b^T. c [a.rows, b.rows]. `fast`: see kernels/gemm/scaled_gemm.h.
void scaled_gemm(const char* op, const Factor& a, const Factor& b, at::Tensor c, bool accumulate, bool fast, const Policy&);

}  // namespace weft::ops
