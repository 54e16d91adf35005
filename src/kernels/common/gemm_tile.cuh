// One 128 x kN output tile by three warpgroups: a producer that keeps kStages k-blocks of 64 in flight by TMA, two consumers of 64 rows
// each on wgmma. A persistent block calls produce/consume once a tile with the same sequence of k-blocks; the pipeline runs on across tiles.
// kOutlet: with room for an Outlet (below) at kOutletAt.
#pragma once
#include "kernels/common/wgmma.cuh"

namespace weft::kernels {

constexpr int kGemmThreads = 384, kGemmM = 128, kGemmK = 64;
constexpr int kOutletBox = 64 * 128, kOutletBytes = 4 * kOutletBox;

template <bool kATrans, bool kBTrans, int kN, bool kOutlet = false>
struct GemmTile {
  // A transposed B lies in boxes of 64 columns: where kN is no multiple, half of the last box is loaded and not multiplied.
  static constexpr int kB = kBTrans ? (kN + 63) / 64 * 64 : kN;
  static constexpr int kStages = kN > 192 ? 4 : kN > 128 ? (kOutlet ? 4 : 5) : 6;
  struct Smem {
    bf16 a[kStages][kGemmM * kGemmK];
    bf16 b[kStages][kB * kGemmK];
    uint64_t full[kStages], empty[kStages];
  };
  static constexpr size_t kOutletAt = (sizeof(Smem) + 1023) / 1024 * 1024;
  static constexpr size_t kSmemBytes = (kOutlet ? kOutletAt + kOutletBytes : sizeof(Smem)) + 1024;

  Smem& sm;
  int stage = 0, phase = 0;

  __device__ explicit GemmTile(Smem& s) : sm(s) {}
  static __device__ Smem& place(uint8_t* raw) { return *reinterpret_cast<Smem*>((reinterpret_cast<uintptr_t>(raw) + 1023) / 1024 * 1024); }

  __device__ uint8_t* outlet() const { return reinterpret_cast<uint8_t*>(&sm) + kOutletAt; }

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

// The way out for sums: through shared memory and the copy engine, 64 rows of 128 bytes of a consumer warpgroup at a time (an output map's
// box, 128-byte swizzle), while the next tile begins. From registers they would go out in rows of 32 bytes.
struct Outlet {
  uint8_t* buffers;  // two of kOutletBox bytes
  int number, turn = 0, row;  // row: the thread's first in the box; the second is 8 further

  __device__ Outlet(uint8_t* place, int consumer) : buffers(place + consumer * 2 * kOutletBox), number(consumer), row((warp_id() & 3) * 16 + (lane_id() >> 2)) {}
  __device__ uint8_t* open() {  // by the warpgroup: a buffer that has been read
    if (threadIdx.x % 128 == 0) bulk_wait<1>();
    group_barrier(2 + number, 128);
    return buffers + (turn ^= 1) * kOutletBox;
  }
  template <class Send>
  __device__ void close(Send send) {
    fence_async_proxy();
    group_barrier(2 + number, 128);
    if (threadIdx.x % 128 == 0) send(), bulk_commit();
  }
  __device__ void finish() {  // before the block ends
    if (threadIdx.x % 128 == 0) bulk_wait<0>();
  }
  // Where the thread's words of 16-byte unit `unit` of a row lie; h: its first or second row.
  __device__ uint8_t* at(uint8_t* buffer, int h, int unit) const { return buffer + (row + h * 8) * 128 + ((unit ^ (row & 7)) << 4); }

  // The tile's fp32 sums, added to out or stored.
  template <int kN>
  __device__ void send(const float (&acc)[kN / 2], const CUtensorMap* out, int col0, int row0, int batch, bool add) {
    static_assert(kN % 32 == 0);
    const int r = lane_id() & 3;
#pragma unroll
    for (int c = 0; c < kN / 32; ++c) {
      uint8_t* to = open();
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          *reinterpret_cast<float2*>(at(to, h, i * 2 + (r >> 1)) + (r & 1) * 8) = float2{acc[(c * 4 + i) * 4 + h * 2], acc[(c * 4 + i) * 4 + h * 2 + 1]};
      close([&] {
        if (add) tma_add(out, to, col0 + c * 32, row0, batch); else tma_store(out, to, col0 + c * 32, row0, batch);
      });
    }
  }
};

}  // namespace weft::kernels
