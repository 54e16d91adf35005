// Bulk tensor copies and the barriers they complete on (sm_90).
#pragma once
#if !defined(WEFT_EMULATE)
#include <cuda.h>
#endif

#include "kernels/common/mma.cuh"

#if defined(WEFT_EMULATE)
#include <emulate_tma.h>
#else
namespace weft::kernels {

__device__ __forceinline__ void barrier_expect(uint64_t* b, int bytes) {  // one arrival, and `bytes` to come
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(smem_address(b)), "r"(bytes) : "memory");
}
// Makes barrier_init visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory"); }
// Ordinary shared-memory stores before it are seen by tensor cores and the copy engine after the next barrier.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

__device__ __forceinline__ void tma_load(void* smem, const CUtensorMap* map, uint64_t* barrier, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];\n" ::"r"(smem_address(smem)),
               "l"(reinterpret_cast<uint64_t>(map)), "r"(smem_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
// Neighbouring bytes; addresses and count multiples of 16.
__device__ __forceinline__ void bulk_load(void* smem, const void* global, int bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(smem_address(smem)), "l"(global), "r"(bytes),
               "r"(smem_address(barrier))
               : "memory");
}
// A box out of shared memory, as bulk_store of wgmma.cuh; what lies outside the tensor is left out. add: fp32, to what is there.
__device__ __forceinline__ void tma_store(const CUtensorMap* map, const void* smem, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];\n" ::"l"(reinterpret_cast<uint64_t>(map)), "r"(smem_address(smem)), "r"(c0),
               "r"(c1), "r"(c2)
               : "memory");
}
__device__ __forceinline__ void tma_add(const CUtensorMap* map, const void* smem, int c0, int c1, int c2) {
  asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4}], [%1];\n" ::"l"(reinterpret_cast<uint64_t>(map)), "r"(smem_address(smem)),
               "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(reinterpret_cast<uint64_t>(map)) : "memory");
}

// Host: a bf16 tensor [batch][rows][cols], contiguous but for row_stride elements, read in boxes [box_rows][64] with the 128-byte swizzle.
// Parts of a box outside the tensor arrive as zeros. Throws CudaError. cols and row_stride multiples of 8, data 16-byte aligned.
CUtensorMap tensor_map(const void* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows);
// The same of fp32 in boxes [box_rows][32]; cols and row_stride multiples of 4.
CUtensorMap tensor_map_f32(const float* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows);
int sm_count();  // of the current device

}  // namespace weft::kernels
#endif
