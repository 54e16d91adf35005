// Plans of cuBLASLt calls and the process-wide cache that holds them. Sources of gemm/ only.
//
// Goals: the library's heuristic is asked once for a key; a hit is one lookup under a shared lock; a plan is immutable, so threads share
// it (each call sets its pointers in a copy, half a KiB on the stack).
// Non-goals: timing at run time, eviction (a model has tens of shapes; a plan takes under 1 KiB).
#pragma once
#include <cublasLt.h>

#include <array>
#include <cstdint>

#include "kernels/launch.h"

namespace weft::kernels::lt {

struct Problem {  // in the library's terms: column-major D[rows, cols] = op(A) op(B)
  int64_t rows, cols, depth, lda, ldb, ldd, ld_aux = 0;
  bool transpose_a = false, transpose_b = false, fast = false, deterministic = false;
  cudaDataType_t a, b, d;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  cublasLtMatmulMatrixScale_t a_scaling = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, b_scaling = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
  bool scaled = false, accumulate = false;
};
struct Pointers {
  const void *a, *b;
  void* d;
  const void *a_scale = nullptr, *b_scale = nullptr;
  const void* bias = nullptr;  // or the bias gradient
  void* aux = nullptr;
};

struct Plan {
  cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
  cublasLtMatmulDescOpaque_t desc;
  cublasLtMatrixLayoutOpaque_t a, b, d;
  cublasLtMatmulAlgo_t algorithm;
  size_t workspace = 0;
};

const Plan& find(const Problem&, const Pointers&);  // kept for ever; `status` says whether the library takes the call
int propose(const Problem&, const Pointers&, int most, Plan* plans);  // asks the library, keeps nothing; returns how many
void run(const Plan&, const Problem&, const Pointers&, const Launch&);

}  // namespace weft::kernels::lt
