// Rows whose length in bytes is odd keep the library off the tensor copy engine: five to seven times the time. Here such matrices are
// copied to and from rows of a multiple of 16 bytes, which costs one pass over each.
#include <cuda_bf16.h>

#include "kernels/common/device.cuh"
#include "kernels/gemm/gemm.h"

namespace weft::kernels {
namespace {

constexpr int kUnroll = 4;

// to[r, c] = from[r, c], or += ; rows `to_stride` and `from_stride` elements apart.
template <class T, bool kAdd>
__global__ void __launch_bounds__(256) copy_rows(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t cols) {
  const int64_t c0 = static_cast<int64_t>(blockIdx.x) * 256 * kUnroll + threadIdx.x;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    T v[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j)
      if (c0 + j * 256 < cols) v[j] = from[r * from_stride + c0 + j * 256];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      if (c0 + j * 256 >= cols) continue;
      T& out = to[r * to_stride + c0 + j * 256];
      if constexpr (kAdd) out += v[j]; else out = v[j];
    }
  }
}

template <class T, bool kAdd>
void launch_copy(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t rows, int64_t cols, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((cols + 256 * kUnroll - 1) / (256 * kUnroll)), static_cast<unsigned>(rows < 32768 ? rows : 32768));
  launch_grid(copy_rows<T, kAdd>, grid, dim3(256), 0, stream, static_cast<const T*>(from), from_stride, static_cast<T*>(to), to_stride, rows, cols);
}

void copy(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t rows, int64_t cols, DType t, bool add, cudaStream_t stream) {
  if (t == DType::kBf16)
    launch_copy<uint16_t, false>(from, from_stride, to, to_stride, rows, cols, stream);
  else if (add)
    launch_copy<float, true>(from, from_stride, to, to_stride, rows, cols, stream);
  else
    launch_copy<float, false>(from, from_stride, to, to_stride, rows, cols, stream);
}

int64_t width(DType t) { return 16 / (bits(t) / 8); }  // elements in 16 bytes
bool odd(int64_t ld, const void* p, DType t) { return ld % width(t) != 0 || reinterpret_cast<uintptr_t>(p) % 16 != 0; }
int64_t padded(int64_t cols, DType t) { return (cols + width(t) - 1) / width(t) * width(t); }
size_t padded_bytes(int64_t rows, int64_t cols, DType t) {
  return (static_cast<size_t>(rows * padded(cols, t)) * static_cast<size_t>(bits(t) / 8) + 255) / 256 * 256;
}

struct Layout {  // which matrices are copied, and where in the workspace they lie
  bool a, b, c;
  int64_t a_rows, a_cols, b_rows, b_cols;
  size_t a_at, b_at, c_at, library_at;
};
Layout layout(const Gemm& g) {
  Layout l{odd(g.lda, g.a, g.dtype), odd(g.ldb, g.b, g.dtype), odd(g.ldc, g.c, g.out_dtype), g.a_transposed ? g.k : g.m, g.a_transposed ? g.m : g.k,
           g.b_transposed ? g.n : g.k, g.b_transposed ? g.k : g.n, 0, 0, 0, 0};
  l.b_at = l.a ? padded_bytes(l.a_rows, l.a_cols, g.dtype) : 0;
  l.c_at = l.b_at + (l.b ? padded_bytes(l.b_rows, l.b_cols, g.dtype) : 0);
  l.library_at = l.c_at + (l.c ? padded_bytes(g.m, g.n, g.out_dtype) : 0);
  return l;
}

// The product on padded matrices at `base`, which only has to be aligned for the library to choose.
Gemm inner(const Gemm& g, const Layout& l, uint8_t* base) {
  Gemm p = g;
  if (l.a) p.a = base + l.a_at, p.lda = padded(l.a_cols, g.dtype);
  if (l.b) p.b = base + l.b_at, p.ldb = padded(l.b_cols, g.dtype);
  if (l.c) p.c = base + l.c_at, p.ldc = padded(g.n, g.out_dtype), p.accumulate = false;
  return p;
}

uint8_t* stand_in() { return reinterpret_cast<uint8_t*>(uintptr_t{1} << 20); }  // an aligned address that nothing reads

}  // namespace

Support supports_gemm_padded(const Gemm& g, const Device& device) {
  if (device.kind != Device::kCuda) return {"runs on CUDA only"};
  if (g.dtype != DType::kBf16) return {"dtype is not bf16"};
  if (g.out_dtype != DType::kBf16 && g.out_dtype != DType::kF32) return {"the result is not bf16 or f32"};
  const Layout l = layout(g);
  if (!l.a && !l.b && !l.c) return {"all rows are multiples of 16 bytes"};
  if (static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k) < 1e9) return {"too small to be worth copies"};
  if (g.m < 64 || g.n < 64 || g.k < 64) return {"too narrow to be worth copies"};
  if (l.c && g.epilogue != GemmEpilogue::kNone && g.epilogue != GemmEpilogue::kBias && g.epilogue != GemmEpilogue::kBiasGrad) return {"aux has rows of no multiple of 16 bytes"};
  return supports_gemm_cublaslt(inner(g, l, stand_in()), device);
}

size_t workspace_gemm_padded(const Gemm& g) {
  const Layout l = layout(g);
  return l.library_at + workspace_gemm_cublaslt(inner(g, l, stand_in()));
}

void gemm_padded(const Gemm& g, const Launch& launch) {
  const Layout l = layout(g);
  uint8_t* base = static_cast<uint8_t*>(launch.workspace);
  const Gemm p = inner(g, l, base);
  if (l.a) copy(g.a, g.lda, base + l.a_at, p.lda, l.a_rows, l.a_cols, g.dtype, false, launch.stream);
  if (l.b) copy(g.b, g.ldb, base + l.b_at, p.ldb, l.b_rows, l.b_cols, g.dtype, false, launch.stream);
  Launch library = launch;
  library.workspace = base + l.library_at;
  gemm_cublaslt(p, library);
  if (l.c) copy(p.c, p.ldc, g.c, g.ldc, g.m, g.n, g.out_dtype, g.accumulate, launch.stream);
}

}  // namespace weft::kernels
