// Mamba-3 backward, the gates: y and dv, both short of their skip, to x, z and the mimo weights; with u = z mimo_z, sg = sigmoid(u):
//   dx = sum_r (dv + D dY) mimo_x    du = d_o mimo_o (y + D v) sg (1 + u (1 - sg))    dz = sum_r du mimo_z
//   d_mimo_x = sum_t (dv + D dY) x   d_mimo_z = sum_t du z   d_mimo_o = sum_t d_o (y + D v) u sg
// dY is made again rather than read. Floor at b8 s4096 H128 R4: y and dv 4.3 GB, x, z, d_o, dx, dz 2.7 GB (1.6 ms at 4.3 TB/s).
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {
namespace {

// Two neighbouring values.
__device__ __forceinline__ float2 read2(const void* base, int64_t at, bool ok) {
  return unpack_bf16(ok ? __ldg(reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(base) + at)) : 0u);
}
__device__ __forceinline__ void write2(void* base, int64_t at, const float (&v)[2]) {
  *reinterpret_cast<uint32_t*>(static_cast<bf16*>(base) + at) = pack_bf16(v[0], v[1]);
}

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
  for (int64_t slot = part * kChunksPerBlock; slot < slots && slot < (part + 1) * kChunksPerBlock; ++slot) {
    const ChunkPlace at = place_of_slot(a.cu_seqlens, a.documents, slot, kSteps);
    const bf16 *y_tile = w.y + (slot * piece.heads + head - piece.head0) * (kRows * kP), *dv_tile = w.dv + (slot * piece.heads + head - piece.head0) * (kRows * kP);
#pragma unroll 1
    for (int first = warp; first < at.count; first += 8 * kBoth) {
      float2 x[kBoth], o[kBoth], z[kBoth], y[kBoth][R], dv[kBoth][R];
#pragma unroll
      for (int j = 0; j < kBoth; ++j) {
        const int step = first + 8 * j;
        const bool ok = step < at.count;
        const int64_t token = at.first + step;
        x[j] = read2(a.x, token * a.x_stride + head * kP + col, ok), o[j] = read2(args.d_o, (token * H + head) * kP + col, ok);
        if constexpr (gated) z[j] = read2(a.z, token * a.z_stride + head * kP + col, ok);
#pragma unroll
        for (int r = 0; r < R; ++r) {
          const int64_t in = Panels<kP>{nullptr}.at(step * R + r, col) - static_cast<bf16*>(nullptr);
          y[j][r] = read2(y_tile, in, ok), dv[j][r] = read2(dv_tile, in, ok);
        }
      }
#pragma unroll
      for (int j = 0; j < kBoth; ++j) {
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
        const int step = first + 8 * j;
        if (step < at.count) {
          const int64_t to = ((at.first + step) * H + head) * kP + col;
          write2(args.dx, to, dx);
          if constexpr (gated) write2(args.dz, to, dz);
        }
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
  if (a.in.rank == 4) return launch<4>(a, w, piece, stream);
  if (a.in.rank == 2) return launch<2>(a, w, piece, stream);
  launch<1>(a, w, piece, stream);
}

}  // namespace weft::kernels::mamba3
