// Mamba-3 backward, the gates: y and dv, both short of their skip, to x, z and the mimo weights, 16 bytes a thread at a time; with u = z mimo_z,
// sg = sigmoid(u):
//   dx = sum_r (dv + D dY) mimo_x    du = d_o mimo_o (y + D v) sg (1 + u (1 - sg))    dz = sum_r du mimo_z
//   d_mimo_x = sum_t (dv + D dY) x   d_mimo_z = sum_t du z   d_mimo_o = sum_t d_o (y + D v) u sg
// dY is made again rather than read. Floor at b8 s4096 H128 R4: y and dv 4.3 GB, x, z, d_o, dx, dz 2.7 GB (1.6 ms at 4.3 TB/s).
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {
namespace {

__device__ __forceinline__ void read8(float (&v)[8], const void* base, int64_t at, bool ok) {
  unpack8(v, ok ? __ldg(reinterpret_cast<const uint4*>(static_cast<const bf16*>(base) + at)) : uint4{0, 0, 0, 0});
}
// Eight of a mimo weight [H, R, P]; ones when there is none.
__device__ __forceinline__ void read_weights(float (&v)[8], const float* w, int64_t at) {
#pragma unroll
  for (int e = 0; e < 8; ++e) v[e] = w ? 0.f : 1.f;
  if (w) add8(v, w + at);
}

// A block takes one head of kChunksPerBlock chunks: a thread always the same rank and columns, whose sums it keeps.
template <int R>
__global__ void __launch_bounds__(256) gates_kernel(const Mamba3Bwd args, const BwdWorkspace w, const Piece piece, const int64_t slots) {
  __shared__ float sums[3][8][R][kP];
  const Mamba3Inputs& a = args.in;
  const int head = piece.head0 + static_cast<int>(blockIdx.x % piece.heads), t = threadIdx.x, lane = lane_id(), col = (t & 7) * 8, rank = (t >> 3) & (R - 1);
  const int64_t part = blockIdx.x / piece.heads, H = a.heads, weight = (static_cast<int64_t>(head) * R + rank) * kP + col;
  const float D = a.D ? a.D[head] : 0.f;
  float mx[8], mz[8], mo[8], dmx[8] = {}, dmz[8] = {}, dmo[8] = {};
  read_weights(mx, a.mimo_x, weight), read_weights(mz, a.mimo_z, weight), read_weights(mo, a.mimo_o, weight);
  for (int64_t slot = part * kChunksPerBlock; slot < slots && slot < (part + 1) * kChunksPerBlock; ++slot) {
    const ChunkPlace at = place_of_slot(a.cu_seqlens, a.documents, slot, kRows / R);
    const int64_t tile = (slot * piece.heads + head - piece.head0) * (kRows * kP);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = j * 32 + (t >> 3), step = row >> kShift<R>;
      if (j * 32 >> kShift<R> >= at.count) break;
      const bool ok = step < at.count;
      const int64_t token = at.first + step, in = tile + (Panels<kP>{nullptr}.unit(row, col) - static_cast<bf16*>(nullptr));
      float x[8], o[8], y[8], dv[8];
      read8(x, a.x, token * a.x_stride + head * kP + col, ok), read8(o, args.d_o, (token * H + head) * kP + col, ok);
      read8(y, w.y, in, ok), read8(dv, w.dv, in, ok);
#pragma unroll
      for (int e = 0; e < 8; ++e) y[e] = (y[e] + D * x[e] * mx[e]) * o[e], o[e] *= D * mo[e];
      if (a.z) {
        float z[8];
        read8(z, a.z, token * a.z_stride + head * kP + col, ok);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const float u = z[e] * mz[e], sg = sigmoid(u), du = y[e] * mo[e] * sg * (1 + u * (1 - sg));
          dmo[e] += y[e] * u * sg, dmz[e] += du * z[e], y[e] = du * mz[e], o[e] *= u * sg;
        }
      } else {
#pragma unroll
        for (int e = 0; e < 8; ++e) dmo[e] += y[e];
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) dv[e] += o[e], dmx[e] += dv[e] * x[e], dv[e] *= mx[e];  // o is D dY here
#pragma unroll
      for (int over = 8; over < 8 * R; over <<= 1)
#pragma unroll
        for (int e = 0; e < 8; ++e) dv[e] += __shfl_xor_sync(0xffffffffu, dv[e], over), y[e] += __shfl_xor_sync(0xffffffffu, y[e], over);
      if (rank == 0 && ok) {
        pack8(static_cast<bf16*>(args.dx) + (token * H + head) * kP + col, dv);
        if (a.z) pack8(static_cast<bf16*>(args.dz) + (token * H + head) * kP + col, y);
      }
    }
  }
#pragma unroll
  for (int over = 8 * R; over < 32; over <<= 1)
#pragma unroll
    for (int e = 0; e < 8; ++e)
      dmx[e] += __shfl_xor_sync(0xffffffffu, dmx[e], over), dmz[e] += __shfl_xor_sync(0xffffffffu, dmz[e], over), dmo[e] += __shfl_xor_sync(0xffffffffu, dmo[e], over);
  if (lane >> 3 < R)
#pragma unroll
    for (int e = 0; e < 8; ++e) sums[0][warp_id()][rank][col + e] = dmx[e], sums[1][warp_id()][rank][col + e] = dmz[e], sums[2][warp_id()][rank][col + e] = dmo[e];
  __syncthreads();
  for (int i = t; i < 3 * R * kP; i += 256) {
    const int which = i / (R * kP), in = i % (R * kP);
    float all = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) all += (&sums[which][k][0][0])[in];
    w.mimo_parts[((part * 3 + which) * H + head) * R * kP + in] = all;
  }
}

}  // namespace

void bwd_gates(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(parts(a.in) * piece.heads));
  if (a.in.rank == 4) launch_grid(gates_kernel<4>, grid, dim3(256), 0, stream, a, w, piece, chunk_slots(a.in));
  if (a.in.rank == 2) launch_grid(gates_kernel<2>, grid, dim3(256), 0, stream, a, w, piece, chunk_slots(a.in));
  if (a.in.rank == 1) launch_grid(gates_kernel<1>, grid, dim3(256), 0, stream, a, w, piece, chunk_slots(a.in));
}

}  // namespace weft::kernels::mamba3
