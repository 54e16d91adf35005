// Warpgroup matrix products (sm_90a): D[64, N] (+)= A[64, 16] B[16, N], bf16 operands in shared memory, fp32 sums in registers.
// Element e of lane l of warp w: row 16 w + l / 4 + 8 (e / 2 % 2), col 8 (e / 4) + 2 (l % 4) + e % 2.
#pragma once
#include "kernels/common/tma.cuh"

namespace weft::kernels {

// Operand descriptors for tiles in the 128-byte swizzle, 1024-byte aligned.
// K-major: rows of 64 k values (128 bytes), groups of 8 rows 1024 bytes apart; the next 16 k values are 32 bytes on.
__device__ __forceinline__ uint64_t k_major(const void* p) {
#if defined(WEFT_EMULATE)
  return smem_address(p) >> 4;
#else
  return static_cast<uint64_t>((smem_address(p) & 0x3ffff) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
#endif
}
// MN-major: rows (one k each) of 64 m or n values; blocks of 64 values 64 rows (8192 bytes) apart; the next 16 k are 2048 bytes on.
__device__ __forceinline__ uint64_t mn_major(const void* p) {
#if defined(WEFT_EMULATE)
  return smem_address(p) >> 4;
#else
  return static_cast<uint64_t>((smem_address(p) & 0x3ffff) >> 4) | (512ull << 16) | (64ull << 32) | (1ull << 62);
#endif
}
template <bool kTrans>
__device__ __forceinline__ uint64_t operand(const void* p) {
  if constexpr (kTrans) return mn_major(p); else return k_major(p);
}
template <bool kTrans>
constexpr int kStep16 = kTrans ? 128 : 2;  // 16 k values on, in the descriptor's units of 16 bytes
constexpr int kPanelStep = 512;            // one panel on

// A bf16 tile of 64 rows as panels of 64 columns, [kCols / 64][64][64], each 1024-byte aligned and in the 128-byte swizzle: any side of
// it is an operand.
template <int kCols>
struct Panels {
  static_assert(kCols % 64 == 0);
  bf16* data;
  __device__ __forceinline__ bf16* unit(int row, int col) const {  // 8 columns; col a multiple of 8
    return data + (col >> 6) * 4096 + row * 64 + ((((col >> 3) ^ row) & 7) << 3);
  }
  __device__ __forceinline__ bf16* at(int row, int col) const { return unit(row, col & ~7) + (col & 7); }
};

// Four words of each of four neighbouring lanes: word j of lane i becomes word i of lane j. Turns the pairs of columns that a lane holds of
// four 8-column blocks into the whole of one block, 16 bytes of bf16.
__device__ __forceinline__ void transpose_quad(uint32_t (&v)[4]) {
  const int r = lane_id() & 3;
#pragma unroll
  for (int o = 1; o < 4; o <<= 1) {
    const bool high = r & o;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j & o) continue;
      const uint32_t got = __shfl_xor_sync(0xffffffffu, high ? v[j] : v[j | o], o);
      if (high) v[j] = got; else v[j | o] = got;
    }
  }
}
#if defined(WEFT_EMULATE)
inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int pending>
void wgmma_wait(int line = __builtin_LINE()) { emulate::wgmma_wait(line); }
template <int n>
void wgmma_settle(float (&)[n]) {}
template <int regs>
void more_registers() {}
template <int regs>
void fewer_registers() {}
inline void fence_async_proxy() {}
inline void bulk_store(void* global, const void* smem, int bytes) {
  if ((reinterpret_cast<uintptr_t>(global) | reinterpret_cast<uintptr_t>(smem) | static_cast<uintptr_t>(bytes)) % 16 != 0) std::fprintf(stderr, "emulate: bulk copy is not 16-byte aligned\n"), std::abort();
  std::memcpy(global, smem, bytes);
}
using emulate::bulk_add;
using emulate::bulk_commit;
using emulate::bulk_wait;
inline void fence_async_proxy_global() {}
inline void bulk_wait_whole() { bulk_wait<0>(); }
inline void add_pair(float* p, float a, float b) { p[0] += a, p[1] += b; }
template <int N>
struct Wgmma {
  template <bool kATrans, bool kBTrans>
  static void run(float (&d)[N / 2], uint64_t a, uint64_t b, int keep) { emulate::wgmma<N>(d, nullptr, a, kATrans, b, kBTrans, keep); }
  template <bool kBTrans>
  static void run(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int keep) { emulate::wgmma<N>(d, a, 0, false, b, kBTrans, keep); }
};
#else
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory"); }
// After a wait: the sums are read from here on, not before.
template <int n>
__device__ __forceinline__ void wgmma_settle(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int regs>
__device__ __forceinline__ void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(regs)); }
template <int regs>
__device__ __forceinline__ void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(regs)); }

// Copies out of shared memory by the copy engine, after fence_async_proxy and a barrier; multiples of 16 bytes. A wait returns when all but
// `pending` of the thread's groups have been read.
__device__ __forceinline__ void bulk_store(void* global, const void* smem, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n" ::"l"(global), "r"(smem_address(smem)), "r"(bytes) : "memory");
}
// Adds instead of copying. Deterministic where one thread alone adds to an element in a launch, and waits for the whole of its last addition.
__device__ __forceinline__ void bulk_add(float* global, const float* smem, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;\n" ::"l"(global), "r"(smem_address(smem)), "r"(bytes) : "memory");
}
// Ordinary stores to memory before it are seen by bulk additions after the next barrier of the block.
__device__ __forceinline__ void fence_async_proxy_global() { asm volatile("fence.proxy.async.global;\n" ::: "memory"); }
__device__ __forceinline__ void bulk_wait_whole() { asm volatile("cp.async.bulk.wait_group 0;\n" ::: "memory"); }
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;\n" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void bulk_wait() { asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(pending) : "memory"); }
// p[0] += a, p[1] += b without waiting; 8-byte aligned. Deterministic where one thread adds to an element in a launch.
__device__ __forceinline__ void add_pair(float* p, float a, float b) {
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};\n" ::"l"(p), "f"(a), "f"(b) : "memory");
}

// The high word is the same for all operands: given as a constant, the low word alone is computed.
#define WEFT_HIGH "0x40000040"
__device__ __forceinline__ uint32_t low(uint64_t operand) { return static_cast<uint32_t>(operand); }

template <int N>
struct Wgmma;  // run<transposed A, transposed B>(d, a, b, keep): d = keep * d + A B; run<transposed B>: A from registers, as mma.sync's

// The register lists, eight at a time.
#define WEFT_P0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define WEFT_P1 "%8,%9,%10,%11,%12,%13,%14,%15"
#define WEFT_P2 "%16,%17,%18,%19,%20,%21,%22,%23"
#define WEFT_P3 "%24,%25,%26,%27,%28,%29,%30,%31"
#define WEFT_P4 "%32,%33,%34,%35,%36,%37,%38,%39"
#define WEFT_P5 "%40,%41,%42,%43,%44,%45,%46,%47"
#define WEFT_P6 "%48,%49,%50,%51,%52,%53,%54,%55"
#define WEFT_P7 "%56,%57,%58,%59,%60,%61,%62,%63"
#define WEFT_P8 "%64,%65,%66,%67,%68,%69,%70,%71"
#define WEFT_P9 "%72,%73,%74,%75,%76,%77,%78,%79"
#define WEFT_P10 "%80,%81,%82,%83,%84,%85,%86,%87"
#define WEFT_P11 "%88,%89,%90,%91,%92,%93,%94,%95"
#define WEFT_P12 "%96,%97,%98,%99,%100,%101,%102,%103"
#define WEFT_P13 "%104,%105,%106,%107,%108,%109,%110,%111"
#define WEFT_P14 "%112,%113,%114,%115,%116,%117,%118,%119"
#define WEFT_P15 "%120,%121,%122,%123,%124,%125,%126,%127"
#define WEFT_F0 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define WEFT_F1 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define WEFT_F2 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define WEFT_F3 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define WEFT_F4 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define WEFT_F5 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define WEFT_F6 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define WEFT_F7 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define WEFT_F8 "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define WEFT_F9 "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define WEFT_F10 "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define WEFT_F11 "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define WEFT_F12 "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define WEFT_F13 "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define WEFT_F14 "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define WEFT_F15 "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

template <>
struct Wgmma<64> {
  template <bool kATrans, bool kBTrans>
  static __device__ __forceinline__ void run(float (&d)[32], uint64_t a, uint64_t b, int keep) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 da, db;\nmov.b64 da, {%32, " WEFT_HIGH "};\nmov.b64 db, {%33, " WEFT_HIGH "};\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WEFT_P0 "," WEFT_P1 "," WEFT_P2 "," WEFT_P3
        "}, da, db, p, 1, 1, %35, %36;\n}\n"
        : WEFT_F0, WEFT_F1, WEFT_F2, WEFT_F3
        : "r"(low(a)), "r"(low(b)), "r"(keep), "n"(kATrans), "n"(kBTrans));
  }
  template <bool kBTrans>
  static __device__ __forceinline__ void run(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int keep) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 db;\nmov.b64 db, {%36, " WEFT_HIGH "};\nsetp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WEFT_P0 "," WEFT_P1 "," WEFT_P2 "," WEFT_P3
        "}, {%32,%33,%34,%35}, db, p, 1, 1, %38;\n}\n"
        : WEFT_F0, WEFT_F1, WEFT_F2, WEFT_F3
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(low(b)), "r"(keep), "n"(kBTrans));
  }
};
template <>
struct Wgmma<128> {
  template <bool kBTrans>
  static __device__ __forceinline__ void run(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int keep) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 db;\nmov.b64 db, {%68, " WEFT_HIGH "};\nsetp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WEFT_P0 "," WEFT_P1 "," WEFT_P2 "," WEFT_P3 "," WEFT_P4 "," WEFT_P5 "," WEFT_P6 "," WEFT_P7
        "}, {%64,%65,%66,%67}, db, p, 1, 1, %70;\n}\n"
        : WEFT_F0, WEFT_F1, WEFT_F2, WEFT_F3, WEFT_F4, WEFT_F5, WEFT_F6, WEFT_F7
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(low(b)), "r"(keep), "n"(kBTrans));
  }
  template <bool kATrans, bool kBTrans>
  static __device__ __forceinline__ void run(float (&d)[64], uint64_t a, uint64_t b, int keep) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 da, db;\nmov.b64 da, {%64, " WEFT_HIGH "};\nmov.b64 db, {%65, " WEFT_HIGH "};\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WEFT_P0 "," WEFT_P1 "," WEFT_P2 "," WEFT_P3 "," WEFT_P4 "," WEFT_P5 "," WEFT_P6 "," WEFT_P7
        "}, da, db, p, 1, 1, %67, %68;\n}\n"
        : WEFT_F0, WEFT_F1, WEFT_F2, WEFT_F3, WEFT_F4, WEFT_F5, WEFT_F6, WEFT_F7
        : "r"(low(a)), "r"(low(b)), "r"(keep), "n"(kATrans), "n"(kBTrans));
  }
};
template <>
struct Wgmma<192> {
  template <bool kATrans, bool kBTrans>
  static __device__ __forceinline__ void run(float (&d)[96], uint64_t a, uint64_t b, int keep) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 da, db;\nmov.b64 da, {%96, " WEFT_HIGH "};\nmov.b64 db, {%97, " WEFT_HIGH "};\nsetp.ne.b32 p, %98, 0;\nwgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" WEFT_P0 "," WEFT_P1 "," WEFT_P2 "," WEFT_P3 "," WEFT_P4 "," WEFT_P5 "," WEFT_P6 "," WEFT_P7 "," WEFT_P8 "," WEFT_P9 "," WEFT_P10 "," WEFT_P11
        "}, da, db, p, 1, 1, %99, %100;\n}\n"
        : WEFT_F0, WEFT_F1, WEFT_F2, WEFT_F3, WEFT_F4, WEFT_F5, WEFT_F6, WEFT_F7, WEFT_F8, WEFT_F9, WEFT_F10, WEFT_F11
        : "r"(low(a)), "r"(low(b)), "r"(keep), "n"(kATrans), "n"(kBTrans));
  }
};
template <>
struct Wgmma<224> {
  template <bool kATrans, bool kBTrans>
  static __device__ __forceinline__ void run(float (&d)[112], uint64_t a, uint64_t b, int keep) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 da, db;\nmov.b64 da, {%112, " WEFT_HIGH "};\nmov.b64 db, {%113, " WEFT_HIGH "};\nsetp.ne.b32 p, %114, 0;\nwgmma.mma_async.sync.aligned.m64n224k16.f32.bf16.bf16 {" WEFT_P0 "," WEFT_P1 "," WEFT_P2 "," WEFT_P3 "," WEFT_P4 "," WEFT_P5 "," WEFT_P6 "," WEFT_P7 "," WEFT_P8 "," WEFT_P9 "," WEFT_P10 "," WEFT_P11 "," WEFT_P12 "," WEFT_P13
        "}, da, db, p, 1, 1, %115, %116;\n}\n"
        : WEFT_F0, WEFT_F1, WEFT_F2, WEFT_F3, WEFT_F4, WEFT_F5, WEFT_F6, WEFT_F7, WEFT_F8, WEFT_F9, WEFT_F10, WEFT_F11, WEFT_F12, WEFT_F13
        : "r"(low(a)), "r"(low(b)), "r"(keep), "n"(kATrans), "n"(kBTrans));
  }
};
template <>
struct Wgmma<256> {
  template <bool kATrans, bool kBTrans>
  static __device__ __forceinline__ void run(float (&d)[128], uint64_t a, uint64_t b, int keep) {
    asm volatile(
        "{\n.reg .pred p;\n.reg .b64 da, db;\nmov.b64 da, {%128, " WEFT_HIGH "};\nmov.b64 db, {%129, " WEFT_HIGH "};\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WEFT_P0 "," WEFT_P1 "," WEFT_P2 "," WEFT_P3 "," WEFT_P4 "," WEFT_P5 "," WEFT_P6 "," WEFT_P7 "," WEFT_P8 "," WEFT_P9 "," WEFT_P10 "," WEFT_P11 "," WEFT_P12 "," WEFT_P13 "," WEFT_P14 "," WEFT_P15
        "}, da, db, p, 1, 1, %131, %132;\n}\n"
        : WEFT_F0, WEFT_F1, WEFT_F2, WEFT_F3, WEFT_F4, WEFT_F5, WEFT_F6, WEFT_F7, WEFT_F8, WEFT_F9, WEFT_F10, WEFT_F11, WEFT_F12, WEFT_F13, WEFT_F14, WEFT_F15
        : "r"(low(a)), "r"(low(b)), "r"(keep), "n"(kATrans), "n"(kBTrans));
  }
};

#undef WEFT_HIGH
#undef WEFT_P0
#undef WEFT_F0
#undef WEFT_P1
#undef WEFT_F1
#undef WEFT_P2
#undef WEFT_F2
#undef WEFT_P3
#undef WEFT_F3
#undef WEFT_P4
#undef WEFT_F4
#undef WEFT_P5
#undef WEFT_F5
#undef WEFT_P6
#undef WEFT_F6
#undef WEFT_P7
#undef WEFT_F7
#undef WEFT_P8
#undef WEFT_F8
#undef WEFT_P9
#undef WEFT_F9
#undef WEFT_P10
#undef WEFT_F10
#undef WEFT_P11
#undef WEFT_F11
#undef WEFT_P12
#undef WEFT_F12
#undef WEFT_P13
#undef WEFT_F13
#undef WEFT_P14
#undef WEFT_F14
#undef WEFT_P15
#undef WEFT_F15

#endif

}  // namespace weft::kernels
