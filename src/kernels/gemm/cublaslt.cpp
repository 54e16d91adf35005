// Our row-major products in the library's column-major terms: C^T = op(B)^T op(A)^T, so the factors change places.
#include <cuda_runtime_api.h>

#include <vector>

#include "kernels/cuda_check.h"
#include "kernels/gemm/plan.h"
#include "kernels/gemm/scaled_gemm.h"

namespace weft::kernels {
namespace {

cudaDataType_t type(DType t) {
  switch (t) {
    case DType::kF32: return CUDA_R_32F;
    case DType::kBf16: return CUDA_R_16BF;
    case DType::kF8E4M3: return CUDA_R_8F_E4M3;
    default: return CUDA_R_8F_E5M2;
  }
}

lt::Problem problem(const Gemm& g) {
  lt::Problem p{};
  p.rows = g.n, p.cols = g.m, p.depth = g.k, p.lda = g.ldb, p.ldb = g.lda, p.ldd = g.ldc;
  p.transpose_a = g.b_transposed, p.transpose_b = g.a_transposed;
  p.a = p.b = type(g.dtype), p.d = type(g.out_dtype);
  p.compute = g.tf32 && g.dtype == DType::kF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  p.accumulate = g.accumulate, p.deterministic = g.deterministic;
  switch (g.epilogue) {
    case GemmEpilogue::kNone: p.epilogue = CUBLASLT_EPILOGUE_DEFAULT; break;
    case GemmEpilogue::kBias: p.epilogue = CUBLASLT_EPILOGUE_BIAS; break;
    case GemmEpilogue::kGeluBias: p.epilogue = g.bias != nullptr ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX, p.ld_aux = g.ldc; break;
    case GemmEpilogue::kDgelu: p.epilogue = CUBLASLT_EPILOGUE_DGELU, p.ld_aux = g.ldc; break;
    case GemmEpilogue::kBiasGrad: p.epilogue = CUBLASLT_EPILOGUE_BGRADB; break;
  }
  return p;
}

lt::Pointers pointers(const Gemm& g) {
  return {g.b, g.a, g.c, nullptr, nullptr, g.epilogue == GemmEpilogue::kBiasGrad ? g.bias_grad : g.bias, g.aux};
}

cublasLtMatmulMatrixScale_t scaling(QuantBlock b) {
  switch (b) {
    case QuantBlock::kTensor: return CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
    case QuantBlock::kRow: return CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    case QuantBlock::k1x128: return CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
    default: return CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
  }
}

lt::Problem problem(const ScaledGemm& g) {
  lt::Problem p{};
  p.rows = g.n, p.cols = g.m, p.depth = g.k, p.lda = g.k, p.ldb = g.k, p.ldd = g.ldc;
  p.transpose_a = true;
  p.a = type(g.b_dtype), p.b = type(g.a_dtype), p.d = type(g.out_dtype);
  p.a_scaling = scaling(g.b_block), p.b_scaling = scaling(g.a_block), p.scaled = true;
  p.fast = g.fast, p.accumulate = g.accumulate, p.deterministic = g.deterministic;
  return p;
}

lt::Pointers pointers(const ScaledGemm& g) { return {g.b, g.a, g.c, g.b_scale, g.a_scale}; }

bool sm90(const Device& d) { return d.kind == Device::kCuda && d.sm == 90; }

// c of a sum over nothing.
void clear(void* c, int64_t rows, int64_t cols, int64_t ld, DType t, cudaStream_t stream) {
  const size_t element = static_cast<size_t>(bits(t) / 8);
  const cudaError_t e = cudaMemset2DAsync(c, static_cast<size_t>(ld) * element, 0, static_cast<size_t>(cols) * element, static_cast<size_t>(rows), stream);
  if (e != cudaSuccess) throw_cuda("cudaMemset2DAsync", e);
}

template <class G>
int count(const G& g, int most) {
  std::vector<lt::Plan> plans(static_cast<size_t>(most));
  return lt::propose(problem(g), pointers(g), most, plans.data());
}
template <class G>
void run_one(const G& g, int index, const Launch& l) {
  std::vector<lt::Plan> plans(static_cast<size_t>(index) + 1);
  lt::propose(problem(g), pointers(g), index + 1, plans.data());
  lt::run(plans[static_cast<size_t>(index)], problem(g), pointers(g), l);
}

}  // namespace

Support supports_gemm_cublaslt(const Gemm& g, const Device& device) {
  if (device.kind != Device::kCuda) return {"runs on CUDA only"};
  if (g.dtype != DType::kF32 && g.dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
  if (g.out_dtype != g.dtype && g.out_dtype != DType::kF32) return {"the result's dtype is neither that of the factors nor f32"};
  if (g.m == 0 || g.n == 0 || g.k == 0) return g.epilogue == GemmEpilogue::kNone ? Support{} : Support{"an epilogue over a product of no elements"};
  if (cuda_present() && lt::find(problem(g), pointers(g)).status != CUBLAS_STATUS_SUCCESS) return {"cuBLASLt has no algorithm for this shape, alignment and epilogue"};
  return {};
}

size_t workspace_gemm_cublaslt(const Gemm& g) { return g.m == 0 || g.n == 0 || g.k == 0 ? 0 : lt::find(problem(g), pointers(g)).workspace; }

void gemm_cublaslt(const Gemm& g, const Launch& l) {
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) {
    if (!g.accumulate) clear(g.c, g.m, g.n, g.ldc, g.out_dtype, l.stream);
    return;
  }
  const lt::Problem p = problem(g);
  const lt::Pointers x = pointers(g);
  lt::run(lt::find(p, x), p, x, l);
}

int count_gemm_algorithms(const Gemm& g, int most) { return count(g, most); }
void gemm_algorithm(const Gemm& g, int index, const Launch& l) { run_one(g, index, l); }

Support supports_scaled_gemm_cublaslt(const ScaledGemm& g, const Device& device) {
  if (!sm90(device)) return {"needs a GPU of compute capability 9.0"};
  const auto fp8 = [](DType t) { return t == DType::kF8E4M3 || t == DType::kF8E5M2; };
  if (!fp8(g.a_dtype) || !fp8(g.b_dtype)) return {"a factor is not FP8"};
  if (g.a_dtype == DType::kF8E5M2 && g.b_dtype == DType::kF8E5M2) return {"both factors are f8e5m2"};
  if (g.out_dtype != DType::kBf16 && g.out_dtype != DType::kF32) return {"the result is not bf16 or f32"};
  if (g.accumulate && g.out_dtype != DType::kF32) return {"accumulates into f32 only"};
  const bool outer = g.a_block == QuantBlock::kTensor || g.a_block == QuantBlock::kRow;
  if (outer ? g.a_block != g.b_block : g.b_block != QuantBlock::k1x128 && g.b_block != QuantBlock::k128x128) return {"the factors' scalings do not go together"};
  if (g.a_block == QuantBlock::k128x128 && g.b_block == QuantBlock::k128x128) return {"both factors are scaled by squares: one must be 1x128"};
  if (!outer && g.fast) return {"blocks are always promoted: no fast sums"};
  if (g.k % 16 != 0) return {"k is not a multiple of 16"};
  if (g.n % 16 != 0 || g.m % 16 != 0) return {"m or n is not a multiple of 16"};
  if (cuda_present() && lt::find(problem(g), pointers(g)).status != CUBLAS_STATUS_SUCCESS) return {"cuBLASLt has no algorithm for this shape and scaling"};
  return {};
}

size_t workspace_scaled_gemm_cublaslt(const ScaledGemm& g) { return lt::find(problem(g), pointers(g)).workspace; }

void scaled_gemm_cublaslt(const ScaledGemm& g, const Launch& l) {
  const lt::Problem p = problem(g);
  const lt::Pointers x = pointers(g);
  lt::run(lt::find(p, x), p, x, l);
}

int count_scaled_gemm_algorithms(const ScaledGemm& g, int most) { return count(g, most); }
void scaled_gemm_algorithm(const ScaledGemm& g, int index, const Launch& l) { run_one(g, index, l); }

}  // namespace weft::kernels
