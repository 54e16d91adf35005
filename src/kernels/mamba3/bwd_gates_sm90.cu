// Mamba-3 backward at ranks 1 and 2, the gates: y and dv, both short of their skip, to x, z and the mimo weights; with u = z mimo_z, sg = sigmoid(u):
//   dx = sum_r (dv + D dY) mimo_x    du = d_o mimo_o (y + D v) sg (1 + u (1 - sg))    dz = sum_r du mimo_z
//   d_mimo_x = sum_t (dv + D dY) x   d_mimo_z = sum_t du z   d_mimo_o = sum_t d_o (y + D v) u sg
// dY is made again rather than read. Floor at b8 s4096 H128 R1: y and dv 1.1 GB, x, z, d_o, dx, dz 2.7 GB (0.9 ms at 4.3 TB/s).
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {
namespace {

// Two neighbouring values.
__device__ __forceinline__ float2 read2(const bf16* p) { return unpack_bf16(__ldg(reinterpret_cast<const uint32_t*>(p))); }
__device__ __forceinline__ void write2(bf16* p, const float (&v)[2]) { *reinterpret_cast<uint32_t*>(p) = pack_bf16(v[0], v[1]); }

// A block takes one head of kChunksPerBlock chunks. A lane always has the same two columns of all ranks, whose sums it keeps, so that sums over
// ranks stay in a thread; a warp every eighth step, two at once.
template <int R, bool gated>
__global__ void __launch_bounds__(256, 2) gates_kernel(const Mamba3Bwd args, const BwdWorkspace w, const Piece piece, const int64_t slots) {
  __shared__ float sums[3][8][R][kP];
  constexpr int kSteps = kRows / R, kBoth = 2;
  const Mamba3Inputs& a = args.in;
  const int head = piece.head0 + static_cast<int>(blockIdx.x % piece.heads), warp = warp_id(), col = lane_id() * 2;
  const int64_t part = blockIdx.x / piece.heads, H = a.heads;
  const float D = a.D ? a.D[head] : 0.f;
  float mx[R][2], mz[R][2], mo[R][2], dmx[R][2] = {}, dmz[R][2] = {}, dmo[R][2] = {};
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t i = (static_cast<int64_t>(head) * R + r) * kP + col + e;
      mx[r][e] = a.mimo_x ? a.mimo_x[i] : 1.f, mz[r][e] = a.mimo_z ? a.mimo_z[i] : 1.f, mo[r][e] = a.mimo_o ? a.mimo_o[i] : 1.f;
    }
  int place[R];  // of the warp's step 0 in a tile; its steps are 8 apart, so that the swizzle stays
#pragma unroll
  for (int r = 0; r < R; ++r) place[r] = static_cast<int>(Panels<kP>{nullptr}.at(warp * R + r, col) - static_cast<bf16*>(nullptr));
  const bf16 *in_x = static_cast<const bf16*>(a.x) + head * kP + col, *in_z = static_cast<const bf16*>(a.z) + head * kP + col, *in_o = static_cast<const bf16*>(args.d_o) + head * kP + col;
  bf16 *to_x = static_cast<bf16*>(args.dx) + head * kP + col, *to_z = static_cast<bf16*>(args.dz) + head * kP + col;
  for (int64_t slot = part * kChunksPerBlock; slot < slots && slot < (part + 1) * kChunksPerBlock; ++slot) {
    const ChunkPlace at = place_of_slot(a.cu_seqlens, a.documents, slot, kSteps);
    const int count = static_cast<int>(at.count);
    const int64_t tile = (slot * piece.heads + head - piece.head0) * (kRows * kP);
#pragma unroll 1
    for (int first = warp; first < count; first += 8 * kBoth) {
      float2 x[kBoth], o[kBoth], z[kBoth], y[kBoth][R], dv[kBoth][R];
#pragma unroll
      for (int j = 0; j < kBoth; ++j) {
        const int step = first + 8 * j < count ? first + 8 * j : first;
        const int64_t token = at.first + step;
        x[j] = read2(in_x + token * a.x_stride), o[j] = read2(in_o + token * H * kP);
        if constexpr (gated) z[j] = read2(in_z + token * a.z_stride);
        const int64_t from = tile + (step - warp) * (R * kP);
        const bf16 *from_y = w.y + from, *from_dv = w.dv + from;
#pragma unroll
        for (int r = 0; r < R; ++r) y[j][r] = read2(from_y + place[r]), dv[j][r] = read2(from_dv + place[r]);
      }
#pragma unroll
      for (int j = 0; j < kBoth; ++j) {
        const int step = first + 8 * j;
        if (step >= count) break;
        float dx[2] = {}, dz[2] = {};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float xe = e ? x[j].y : x[j].x, oe = e ? o[j].y : o[j].x, ze = gated ? (e ? z[j].y : z[j].x) : 0.f, Dx = D * xe, Do = D * oe;
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const float yo = ((e ? y[j][r].y : y[j][r].x) + Dx * mx[r][e]) * oe;
            float all = e ? dv[j][r].y : dv[j][r].x;  // and D dY
            if constexpr (gated) {
              const float u = ze * mz[r][e], sg = sigmoid(u), silu = u * sg, du = yo * mo[r][e] * (sg + silu - silu * sg);
              dmo[r][e] += yo * silu, dmz[r][e] += du * ze, dz[e] += du * mz[r][e];
              all += Do * mo[r][e] * silu;
            } else {
              dmo[r][e] += yo;
              all += Do * mo[r][e];
            }
            dmx[r][e] += all * xe, dx[e] += all * mx[r][e];
          }
        }
        const int64_t to = (at.first + step) * H * kP;
        write2(to_x + to, dx);
        if constexpr (gated) write2(to_z + to, dz);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int e = 0; e < 2; ++e) sums[0][warp][r][col + e] = dmx[r][e], sums[1][warp][r][col + e] = dmz[r][e], sums[2][warp][r][col + e] = dmo[r][e];
  __syncthreads();
  for (int i = threadIdx.x; i < 3 * R * kP; i += 256) {
    const int which = i / (R * kP), in = i % (R * kP);
    float all = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) all += (&sums[which][k][0][0])[in];
    w.mimo_parts[((part * 3 + which) * H + head) * R * kP + in] = all;
  }
}

template <int R>
void launch(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(parts(a.in) * piece.heads));
  if (a.in.z)
    launch_grid(gates_kernel<R, true>, grid, dim3(256), 0, stream, a, w, piece, chunk_slots(a.in));
  else
    launch_grid(gates_kernel<R, false>, grid, dim3(256), 0, stream, a, w, piece, chunk_slots(a.in));
}

}  // namespace

void bwd_gates(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  if (a.in.rank == 2) return launch<2>(a, w, piece, stream);
  launch<1>(a, w, piece, stream);
}

}  // namespace weft::kernels::mamba3
