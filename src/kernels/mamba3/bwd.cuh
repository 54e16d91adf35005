// The passes of the Mamba-3 backward and its workspace. A chunk slot is one chunk of 64 rows (64 / R steps), numbered like the saved states.
#pragma once
#include "kernels/common/packed.cuh"
#include "kernels/mamba3/tiles.cuh"

namespace weft::kernels::mamba3 {

constexpr int kChunksPerBlock = 8;  // of the chunk pass: each block keeps one part of the parameter gradients

inline int steps_of(const Mamba3Inputs& a) { return kRows / a.rank; }
inline int64_t chunk_slots(const Mamba3Inputs& a) { return a.tokens / steps_of(a) + a.documents; }
inline int64_t parts(const Mamba3Inputs& a) { return (chunk_slots(a) + kChunksPerBlock - 1) / kChunksPerBlock; }

struct BwdWorkspace {
  const bf16* S;         // [chunk slots, H, P, N] before each chunk: the saved states, or made again when R > 1
  const float* thetas;   // [chunk slots, H, angles], with S
  bf16* dS;              // [chunk slots, H, P, N] gradient of the state after each chunk
  float* d_theta;        // [T, H, angles], of one step alone
  float* d_theta_sums;   // [chunk slots, H, angles]: of a chunk; then of all later chunks of the document
  float* d_gamma;        // [T, H]
  float* d_scale;        // [T, H]
  float* bias_parts;     // [parts, 2 (B, C), H, R, N]
  float* mimo_parts;     // [parts, 3 (x, z, o), H, R, P]
  float* D_parts;        // [parts, H]
  size_t bytes;
};
BwdWorkspace cut(const Mamba3Bwd&, void* base);

void bwd_states(const Mamba3Bwd&, const BwdWorkspace&, cudaStream_t);  // S and thetas of every chunk from those of every span
void bwd_reverse(const Mamba3Bwd&, const BwdWorkspace&, cudaStream_t);  // dS
void bwd_chunks(const Mamba3Bwd&, const BwdWorkspace&, cudaStream_t);   // all that is local to a chunk
void bwd_angles(const Mamba3Bwd&, const BwdWorkspace&, cudaStream_t);   // what reaches across chunks through the angles and the look-ahead
void bwd_parameters(const Mamba3Bwd&, const BwdWorkspace&, cudaStream_t);

// Raw rows (step, rank) of a chunk into a swizzled tile; rows past `valid` steps become zeros. Thread t of n.
template <int R>
__device__ __forceinline__ void load_rows(const Tile<kN>& tile, const void* base, int64_t stride, int groups, int group, int64_t first, int valid, int t, int n) {
  for (int u = t; u < kRows * 16; u += n) {
    const int row = u >> 4, col = (u & 15) * 8, step = (row >> kShift<R>);
    const bool ok = step < valid;
    cp_async16(tile.unit(row, col), static_cast<const bf16*>(base) + (ok ? (first + step) * stride + (static_cast<int64_t>((row & (R - 1))) * groups + group) * kN + col : 0), ok);
  }
}

// One warp: cos and sin of its quarter of the chunk's steps into turn[step][angle]; theta: angles `lane` and `lane + 32` before the chunk.
template <int R>
__device__ __forceinline__ void make_turn(__half2* turn, const float (&theta)[2], const float* omega, const float* dt, int stride, int angles, int quarter) {
  constexpr int kSteps = kRows / R;
  for (int e = 0; e < 2; ++e) {
    const int angle = lane_id() + 32 * e;
    if (angle >= angles) break;
    float sum = theta[e];
#pragma unroll 4
    for (int step = 0; step < (quarter + 1) * (kSteps / 4); ++step) {
      sum += omega[step * angles + angle] * dt[step * stride];
      if (step / (kSteps / 4) == quarter) turn[step * angles + angle] = cos_sin(sum);
    }
  }
}

}  // namespace weft::kernels::mamba3
