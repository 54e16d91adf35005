// Warp-level tensor core pieces: mma.sync m16n8k16 (bf16 in, fp32 sums), ldmatrix, cp.async, and the swizzle that goes with them.
// Fragments of a lane (q = lane / 4, r = lane % 4), rows x cols:
//   A 16x16: a[0] (q, 2r..) a[1] (q + 8, 2r..) a[2] (q, 2r + 8..) a[3] (q + 8, 2r + 8..)      B 16x8: b[0] (k 2r.., n q) b[1] (k 2r + 8.., n q)
//   C 16x8:  c[0], c[1] (q, 2r..)   c[2], c[3] (q + 8, 2r..)
#pragma once
#include "kernels/common/grid.cuh"

namespace weft::kernels {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&v);
}
__device__ __forceinline__ float2 unpack_bf16(uint32_t v) { return {__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)}; }

#if defined(WEFT_EMULATE)
using SmemAddress = uintptr_t;
inline SmemAddress smem_address(const void* p) { return reinterpret_cast<uintptr_t>(p); }
using emulate::barrier_arrive;
using emulate::barrier_init;
using emulate::barrier_wait;
using emulate::cp_async16;
using emulate::cp_async4;
using emulate::cp_async_commit;
using emulate::cp_async_wait;
using emulate::group_arrive;
using emulate::group_barrier;
using emulate::ldmatrix_x4;
using emulate::ldmatrix_x4_trans;
using emulate::mma_bf16;
using emulate::mma_tf32;
using emulate::stmatrix_x4;
using emulate::stmatrix_x4_trans;
using emulate::transpose_8x8;
#else
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// A 16x8 (a[0] (q, r) a[1] (q + 8, r) a[2] (q, r + 4) a[3] (q + 8, r + 4)) times B 8x8 (b0 (k r, n q) b1 (k r + 4, n q)); the low 13 bits
// of fp32 operands are not read.
__device__ __forceinline__ void mma_tf32(float (&c)[4], float a0, float a1, float a2, float a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)), "r"(b0), "r"(b1));
}
using SmemAddress = uint32_t;
__device__ __forceinline__ SmemAddress smem_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Lane l gives the address of row l % 8 of 8x8 matrix l / 8 (16 bytes, 16-byte aligned).
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], SmemAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], SmemAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
// Stores four 8x8 matrices held as C fragments (packed pairs): lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void stmatrix_x4(void* row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(smem_address(row)), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}
// The same of their transposes.
__device__ __forceinline__ void stmatrix_x4_trans(void* row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(smem_address(row)), "r"(r0), "r"(r1), "r"(r2),
               "r"(r3) : "memory");
}
// 16 bytes from global to shared memory; zeros where `valid` is false (the address is not read then).
__device__ __forceinline__ void cp_async16(void* smem, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(smem_address(smem)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void cp_async4(void* smem, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(smem_address(smem)), "l"(global), "r"(valid ? 4 : 0) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// The transpose of an 8x8 bf16 matrix held as one word of a fragment (row lane / 4, columns 2 (lane % 4)..).
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t v) {
  uint32_t r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(r) : "r"(v));
  return r;
}
// Barrier of a part of the block's warps; id 1 to 15. Those that wait at one do so in the same instruction: roles have one each.
__device__ __forceinline__ void group_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory"); }
// Counts this warp at such a barrier without waiting there.
__device__ __forceinline__ void group_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory"); }
// A barrier in shared memory, of as many arrivals as given: initialised by one thread before a barrier of the block. Any role may wait for it;
// phase: 0, 1, 0, ... of the arrivals waited for.
__device__ __forceinline__ void barrier_init(uint64_t* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(smem_address(b)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(smem_address(b)) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t* b, int phase) {
  asm volatile(
      "{\n.reg .pred p;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra wait;\ndone:\n}\n" ::"r"(smem_address(b)),
      "r"(phase)
      : "memory");
}
template <int pending>
__device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory"); }
#endif

// A bf16 tile [rows][kCols] in shared memory, kCols a multiple of 64. 16-byte units of a row are XORed with row % 8, so that
// ldmatrix, straight or transposed, and 16-byte stores meet no bank conflict.
template <int kCols>
struct Tile {
  static_assert(kCols % 64 == 0);
  static constexpr int kStride = kCols;
  bf16* data;
  __device__ __forceinline__ SmemAddress address() const { return smem_address(data); }
  __device__ __forceinline__ bf16* unit(int row, int col) const {  // col a multiple of 8
    return data + row * kCols + ((((col >> 3) ^ row) & 7) << 3) + (col & ~63);
  }
  __device__ __forceinline__ bf16* at(int row, int col) const { return unit(row, col & ~7) + (col & 7); }
};

// A tile's address, fresh in the compiler's eyes where it is made: fragment addresses are then not all computed ahead of a long loop and
// spilled, which costs more than the additions.
template <int kCols>
struct FreshTile {
  static constexpr int kStride = kCols;
  SmemAddress at;
  __device__ __forceinline__ SmemAddress address() const { return at; }
};
template <int kCols>
__device__ __forceinline__ FreshTile<kCols> fresh(const Tile<kCols>& tile) {
  SmemAddress a = tile.address();
#if !defined(WEFT_EMULATE)
  asm volatile("" : "+r"(a));
#endif
  return {a};
}

// Fragments out of a tile; rows and columns are multiples of 16. The swizzle is an XOR of the address bits 4 to 6 with the row's low bits,
// so that a fragment's address is (lane's part XOR column bits) + constants: tiles are 1024-byte aligned.
template <class T>
__device__ __forceinline__ SmemAddress fragment(const T& tile, int lane_row, int lane_unit, int row0, int col0) {
  const SmemAddress lane = tile.address() + lane_row * (T::kStride * 2) + ((lane_unit ^ (lane_row & 7)) << 4);
  return (lane ^ ((col0 >> 4 & 3) << 5)) + row0 * (T::kStride * 2) + (col0 >> 6) * 128;
}
// A fragment (16 x 16) of tile[row0.., col0..].
template <class T>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const T& tile, int row0, int col0) {
  const int l = lane_id();
  ldmatrix_x4(a, fragment(tile, l & 15, l >> 4, row0, col0));
}
// A fragment of the transpose: A[i, k] = tile[k0 + k, i0 + i].
template <class T>
__device__ __forceinline__ void load_a_trans(uint32_t (&a)[4], const T& tile, int i0, int k0) {
  const int l = lane_id();
  ldmatrix_x4_trans(a, fragment(tile, (l & 7) + (l >> 4) * 8, (l >> 3) & 1, k0, i0));
}
// Two B fragments (16 x 8 each) for n0 and n0 + 8, B[k, n] = tile[n0 + n, k0 + k]: b[0], b[1] and b[2], b[3].
template <class T>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const T& tile, int n0, int k0) {
  const int l = lane_id();
  ldmatrix_x4(b, fragment(tile, (l & 7) + (l >> 4) * 8, (l >> 3) & 1, n0, k0));
}
// The same from the transpose: B[k, n] = tile[k0 + k, n0 + n].
template <class T>
__device__ __forceinline__ void load_b_trans(uint32_t (&b)[4], const T& tile, int k0, int n0) {
  const int l = lane_id();
  ldmatrix_x4_trans(b, fragment(tile, l & 15, l >> 4, k0, n0));
}
// Eight sums rounded to bf16.
__device__ __forceinline__ uint4 add_bf16x8(const uint4& a, const uint4& b) {
  const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
  uint32_t r[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#if defined(WEFT_EMULATE)
    const float2 u = unpack_bf16(x[i]), v = unpack_bf16(y[i]);
    r[i] = pack_bf16(u.x + v.x, u.y + v.y);
#else
    asm("add.rn.bf16x2 %0, %1, %2;\n" : "=r"(r[i]) : "r"(x[i]), "r"(y[i]));
#endif
  }
  return {r[0], r[1], r[2], r[3]};
}
// One thread alone adds to *p in a launch; it does not wait.
__device__ __forceinline__ void add_alone(float* p, float v) {
#if defined(WEFT_EMULATE)
  *p += v;
#else
  asm volatile("red.global.add.f32 [%0], %1;\n" ::"l"(p), "f"(v) : "memory");
#endif
}
constexpr float kLog2E = 1.4426950408889634f;

// Rows [0, kRows) of a global matrix (row stride in elements, kCols used) into a tile by all threads of the block; rows from `valid`
// on become zeros. The caller commits and waits.
template <int kRows, int kCols, int kThreads>
__device__ __forceinline__ void load_tile_async(const Tile<kCols>& tile, const bf16* global, int64_t stride, int valid) {
  constexpr int kUnits = kCols / 8;
  static_assert(kRows * kUnits % kThreads == 0 || kThreads % (kRows * kUnits) == 0);
#pragma unroll
  for (int i = 0; i < (kRows * kUnits + kThreads - 1) / kThreads; ++i) {
    const int u = i * kThreads + static_cast<int>(threadIdx.x), row = u / kUnits, col = u % kUnits * 8;
    if (kRows * kUnits < kThreads && u >= kRows * kUnits) break;
    const bool ok = row < valid;
    cp_async16(tile.unit(row, col), global + (ok ? row * stride + col : 0), ok);
  }
}

}  // namespace weft::kernels
