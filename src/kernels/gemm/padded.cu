// Rows whose length in bytes is odd keep the library off the tensor copy engine: five to seven times the time. Here such matrices are
// copied to and from rows of a multiple of 16 bytes, which costs one pass over each.
#include <cuda_bf16.h>

#include "kernels/common/device.cuh"
#include "kernels/gemm/gemm.h"

namespace weft::kernels {
namespace {

constexpr int kUnroll = 4;

struct Copy {  // to[r, c] = from[r, c], or +=; beyond from's rows and columns zeros
  const void* from;
  void* to;
  int64_t from_stride, from_rows, from_cols, to_stride, rows, cols;
};

template <class T, bool kAdd>
__global__ void __launch_bounds__(256) copy_rows(Copy a) {
  const int64_t c0 = static_cast<int64_t>(blockIdx.x) * 256 * kUnroll + threadIdx.x;
  for (int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
    const T* from = static_cast<const T*>(a.from) + r * a.from_stride;
    T* to = static_cast<T*>(a.to) + r * a.to_stride;
    T v[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) v[j] = r < a.from_rows && c0 + j * 256 < a.from_cols ? from[c0 + j * 256] : T{};
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      if (c0 + j * 256 >= a.cols) continue;
      if constexpr (kAdd) to[c0 + j * 256] += v[j]; else to[c0 + j * 256] = v[j];
    }
  }
}

void copy(const Copy& a, DType t, bool add, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((a.cols + 256 * kUnroll - 1) / (256 * kUnroll));
  const dim3 grid(blocks, static_cast<unsigned>(a.rows < 32768 ? a.rows : 32768));
  if (t == DType::kBf16)
    launch_grid(copy_rows<uint16_t, false>, grid, dim3(256), 0, stream, a);
  else if (add)
    launch_grid(copy_rows<float, true>, grid, dim3(256), 0, stream, a);
  else
    launch_grid(copy_rows<float, false>, grid, dim3(256), 0, stream, a);
}

int64_t eights(int64_t n) { return (n + 7) / 8 * 8; }
bool odd(int64_t ld, const void* p) { return ld % 8 != 0 || reinterpret_cast<uintptr_t>(p) % 16 != 0; }
size_t bytes_of(int64_t rows, int64_t cols, DType t) { return (static_cast<size_t>(rows * cols) * static_cast<size_t>(bits(t) / 8) + 255) / 256 * 256; }

// The sizes that some matrix has along its rows become multiples of 8, and the matrices that have them are copied.
struct Layout {
  int64_t m, n, k;
  bool a, b, c;
  size_t b_at, c_at, library_at;  // in the workspace; a lies at 0
};
Layout layout(const Gemm& g) {
  Layout l{};
  l.m = g.a_transposed ? eights(g.m) : g.m, l.n = eights(g.n), l.k = g.a_transposed && !g.b_transposed ? g.k : eights(g.k);
  l.a = l.m != g.m || l.k != g.k || odd(g.lda, g.a), l.b = l.n != g.n || l.k != g.k || odd(g.ldb, g.b), l.c = l.m != g.m || l.n != g.n || odd(g.ldc, g.c);
  l.b_at = l.a ? bytes_of(l.m, l.k, g.dtype) : 0;
  l.c_at = l.b_at + (l.b ? bytes_of(l.n, l.k, g.dtype) : 0);
  l.library_at = l.c_at + (l.c ? bytes_of(l.m, l.n, g.out_dtype) : 0);
  return l;
}

// The product on padded matrices at `base`, which only has to be aligned for the library to choose.
Gemm inner(const Gemm& g, const Layout& l, uint8_t* base) {
  Gemm p = g;
  p.m = l.m, p.n = l.n, p.k = l.k;
  if (l.a) p.a = base, p.lda = g.a_transposed ? l.m : l.k;
  if (l.b) p.b = base + l.b_at, p.ldb = g.b_transposed ? l.k : l.n;
  if (l.c) p.c = base + l.c_at, p.ldc = l.n, p.accumulate = false;
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
  if (g.epilogue == GemmEpilogue::kGeluBias || g.epilogue == GemmEpilogue::kDgelu) return {"aux has rows of no multiple of 16 bytes"};
  if (g.epilogue == GemmEpilogue::kBias && l.n != g.n) return {"n, along which the bias lies, is not a multiple of 8"};
  if (g.epilogue == GemmEpilogue::kBiasGrad && l.m != g.m) return {"m, along which the bias gradient lies, is not a multiple of 8"};
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
  const auto in = [&](const void* from, int64_t ld, const void* to, int64_t to_ld, bool transposed, int64_t rows, int64_t cols, int64_t to_rows, int64_t to_cols) {
    if (transposed)
      copy({from, const_cast<void*>(to), ld, cols, rows, to_ld, to_cols, to_rows}, g.dtype, false, launch.stream);
    else
      copy({from, const_cast<void*>(to), ld, rows, cols, to_ld, to_rows, to_cols}, g.dtype, false, launch.stream);
  };
  if (l.a) in(g.a, g.lda, p.a, p.lda, g.a_transposed, g.m, g.k, l.m, l.k);
  if (l.b) in(g.b, g.ldb, p.b, p.ldb, !g.b_transposed, g.n, g.k, l.n, l.k);
  Launch library = launch;
  library.workspace = base + l.library_at;
  gemm_cublaslt(p, library);
  if (l.c) copy({p.c, g.c, p.ldc, g.m, g.n, g.ldc, g.m, g.n}, g.out_dtype, g.accumulate, launch.stream);
}

}  // namespace weft::kernels
