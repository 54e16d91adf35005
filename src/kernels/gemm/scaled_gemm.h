// C[m, n] (+)= sum over k of sa a[m, k] sb b[n, k]: FP8 factors, both with the contraction along their rows, fp32 sums and scales.
// Bound: flops, twice the bf16 rate.
//   kTensor  : one scale a factor                         kRow: one a row of the factor
//   k1x128   : one for 128 neighbours of a row            k128x128: one for a square; partial sums over 128 k are scaled and added in fp32
// Scales lie as the library reads them: kTensor [1]; kRow [rows]; k1x128 [ceil(k / 128), rows]; k128x128 [ceil(rows / 128), blocks],
// blocks = ceil(k / 128) rounded up to a multiple of 4.
#pragma once
#include "kernels/gemm/gemm.h"
#include "kernels/quantize/quantize.h"

namespace weft::kernels {

struct ScaledGemm {
  const void* a;         // [m, k] a_dtype, contiguous, 16-byte aligned
  const void* b;         // [n, k] b_dtype, contiguous, 16-byte aligned
  void* c;               // [m, n], rows ldc apart; out_dtype
  const float *a_scale, *b_scale;
  int64_t m, n, k, ldc;
  QuantBlock a_block, b_block;
  DType a_dtype, b_dtype;  // f8e4m3, or one of them f8e5m2
  DType out_dtype;         // bf16 or f32
  bool accumulate;         // f32 only
  bool fast;               // kTensor and kRow: sums stay in the tensor core's 14 bits (forward passes); blocks are always promoted
  bool deterministic = false;
};

Support supports_scaled_gemm_cublaslt(const ScaledGemm&, const Device&);
size_t workspace_scaled_gemm_cublaslt(const ScaledGemm&);
void scaled_gemm_cublaslt(const ScaledGemm&, const Launch&);
int count_scaled_gemm_algorithms(const ScaledGemm&, int most);
void scaled_gemm_algorithm(const ScaledGemm&, int index, const Launch&);

}  // namespace weft::kernels
