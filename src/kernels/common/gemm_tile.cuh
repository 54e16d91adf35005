// One 128 x kN output tile by three warpgroups: a producer that keeps kStages k-blocks of 64 in flight by TMA, two consumers of 64 rows
// each on wgmma. A persistent block calls produce/consume once a tile with the same sequence of k-blocks; the pipeline runs on across tiles.
#pragma once
#include "kernels/common/wgmma.cuh"

namespace weft::kernels {

constexpr int kGemmThreads = 384, kGemmM = 128, kGemmK = 64;

template <bool kATrans, bool kBTrans, int kN>
struct GemmTile {
  // A transposed B lies in boxes of 64 columns: where kN is no multiple, half of the last box is loaded and not multiplied.
  static constexpr int kB = kBTrans ? (kN + 63) / 64 * 64 : kN;
  static constexpr int kStages = kN > 192 ? 4 : kN > 128 ? 5 : 6;
  struct Smem {
    bf16 a[kStages][kGemmM * kGemmK];
    bf16 b[kStages][kB * kGemmK];
    uint64_t full[kStages], empty[kStages];
  };
  static constexpr size_t kSmemBytes = sizeof(Smem) + 1024;

  Smem& sm;
  int stage = 0, phase = 0;

  __device__ explicit GemmTile(Smem& s) : sm(s) {}
  static __device__ Smem& place(uint8_t* raw) { return *reinterpret_cast<Smem*>((reinterpret_cast<uintptr_t>(raw) + 1023) / 1024 * 1024); }

  __device__ void init() {  // by all threads; ends with a barrier
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) barrier_init(&sm.full[i], 1), barrier_init(&sm.empty[i], 2);
      fence_barrier_init();
    }
    __syncthreads();
  }
  __device__ void next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
  // One thread. A tile starts at row or column m of the a tensor, B at n, of batches ab and bb; k-blocks from k on.
  __device__ void produce(const CUtensorMap* a, const CUtensorMap* b, int m, int n, int ab, int bb, int k, int blocks) {
    for (int i = 0; i < blocks; ++i, k += kGemmK) {
      barrier_wait(&sm.empty[stage], phase ^ 1);
      barrier_expect(&sm.full[stage], (kGemmM + kB) * kGemmK * 2);
      if constexpr (kATrans) {
#pragma unroll
        for (int j = 0; j < kGemmM / 64; ++j) tma_load(sm.a[stage] + j * 4096, a, &sm.full[stage], m + j * 64, k, ab);
      } else {
        tma_load(sm.a[stage], a, &sm.full[stage], k, m, ab);
      }
      if constexpr (kBTrans) {
#pragma unroll
        for (int j = 0; j < kB / 64; ++j) tma_load(sm.b[stage] + j * 4096, b, &sm.full[stage], n + j * 64, k, bb);
      } else {
        tma_load(sm.b[stage], b, &sm.full[stage], k, n, bb);
      }
      next();
    }
  }
  // The two consumer warpgroups (number 0 and 1). last_k: k values of the last block that count, when both operands are transposed.
  __device__ void consume(float (&acc)[kN / 2], int number, int blocks, int last_k = kGemmK) {
    int before = 0;
    for (int i = 0; i < blocks; ++i) {
      barrier_wait(&sm.full[stage], phase);
      if constexpr (kATrans && kBTrans) {
        if (i + 1 == blocks && last_k < kGemmK) clear_rows(last_k);
      }
      const uint64_t a = operand<kATrans>(sm.a[stage] + number * 4096), b = operand<kBTrans>(sm.b[stage]);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kGemmK / 16; ++k)
        Wgmma<kN>::template run<kATrans, kBTrans>(acc, a + k * kStep16<kATrans>, b + k * kStep16<kBTrans>, i > 0 || k > 0);
      wgmma_commit();
      if (i > 0) {
        wgmma_wait<1>();
        if (threadIdx.x % 128 == 0) barrier_arrive(&sm.empty[before]);
      }
      before = stage;
      next();
    }
    wgmma_wait<0>();
    if (blocks > 0 && threadIdx.x % 128 == 0) barrier_arrive(&sm.empty[before]);
  }

 private:
  // Rows (k) from `first` on of both tiles become zero: they belong to the next group.
  __device__ void clear_rows(int first) {
    constexpr int kBoxes = (kGemmM + kB) / 64;
    const int units = (kGemmK - first) * 8;
    for (int u = threadIdx.x % 256; u < units * kBoxes; u += 256) {
      const int box = u / units, in = u % units;
      bf16* base = box < kGemmM / 64 ? sm.a[stage] + box * 4096 : sm.b[stage] + (box - kGemmM / 64) * 4096;
      reinterpret_cast<uint4*>(base + first * 64)[in] = uint4{0, 0, 0, 0};
    }
    fence_async_proxy();
    group_barrier(1, 256);
  }
};

}  // namespace weft::kernels
