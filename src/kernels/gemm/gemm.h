// C[m, n] (+)= op(A) op(B), all row-major; sums in fp32. Bound: flops.
//   y = x w^T:    m tokens, n out, k in,      b_transposed        dx = dy w: m tokens, n in, k out
//   dw += dy^T x: m out, n in, k tokens,      a_transposed, accumulate, fp32 out
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

// What happens to a product P on its way to c; gelu is the tanh form, g' its slope.
enum class GemmEpilogue : uint8_t {
  kNone,      // c = P
  kBias,      // c = P + bias[n]
  kGeluBias,  // aux = P + bias[n], c = gelu(aux); bias may be null
  kDgelu,     // c = P g'(aux)
  kBiasGrad,  // c = P, bias_grad[m] = sum_k op(A)[m, k]: with a weight gradient, where op(A) is dy^T
};

struct Gemm {
  const void* a;  // [m, k], or [k, m] when a_transposed; rows lda elements apart; dtype
  const void* b;  // [k, n], or [n, k] when b_transposed; rows ldb apart; dtype
  void* c;        // [m, n], rows ldc apart; out_dtype
  int64_t m, n, k, lda, ldb, ldc;
  bool a_transposed, b_transposed;
  bool accumulate;  // true: added to c
  DType dtype, out_dtype;
  bool tf32 = false;           // fp32 factors may be rounded to 11 bits (TF32)
  bool deterministic = false;  // no algorithm whose order of sums may change from run to run
  GemmEpilogue epilogue = GemmEpilogue::kNone;
  const void* bias = nullptr;  // [n] out_dtype
  void* aux = nullptr;         // [m, n] out_dtype, rows ldc apart
  void* bias_grad = nullptr;   // [m] out_dtype, written, never added to
  bool varying = false;        // the number of rows comes from the data: the next call has another shape
};

// bf16 factors, fp32 result, on AVX512-BF16. Sums go in the order of k.
Support supports_gemm_cpu(const Gemm&, const Device&);
void gemm_cpu(const Gemm&, const Launch&);

// sum[r, c] += x[r, c]: what follows a library's product that has no fp32 result. Bound: memory.
struct Accumulate {
  const void* x;  // [rows, cols] dtype, contiguous
  float* sum;     // [rows, cols] fp32, rows `stride` elements apart
  int64_t rows, cols, stride;
  DType dtype;
};

Support supports_accumulate_cpu(const Accumulate&, const Device&);
void accumulate_cpu(const Accumulate&, const Launch&);

// cuBLASLt. The first call of a shape, layout, dtype and epilogue asks the library's heuristic once; its answer is kept for the life of
// the process, so later calls only launch, also into a graph that is captured. Nothing is timed at call time.
Support supports_gemm_cublaslt(const Gemm&, const Device&);
size_t workspace_gemm_cublaslt(const Gemm&);
void gemm_cublaslt(const Gemm&, const Launch&);

// The same on copies of the matrices whose rows are no multiple of 16 bytes: bf16, and large enough to pay for a pass over each.
Support supports_gemm_padded(const Gemm&, const Device&);
size_t workspace_gemm_padded(const Gemm&);
void gemm_padded(const Gemm&, const Launch&);

// For measuring: how many algorithms (`most` at most) the library proposes for a call, best guess first, and one of them run. They may
// need kGemmWorkspace bytes.
constexpr size_t kGemmWorkspace = size_t{32} << 20;
int count_gemm_algorithms(const Gemm&, int most);
void gemm_algorithm(const Gemm&, int index, const Launch&);

}  // namespace weft::kernels
