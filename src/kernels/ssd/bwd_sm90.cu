// SSD backward, second pass: one block takes one chunk of one group and goes through the group's heads, so that dB and dC are summed over heads
// in registers. With L_ij = e^{cs_i - cs_j} (j <= i), S the state before the chunk and dS the gradient of the state after it:
//   G_ij = dy_i . x_j    M = (C B^T) L diag(dt)    Q = G L                       [64, 64]
//   dx = M^T dy + diag(w) B dS^T + D dy              w_j = dt_j e^{cs_63 - cs_j}
//   dC = Q diag(dt) B + diag(e^{cs}) dy S            dB = diag(dt) Q^T C + diag(w) x dS
//   dcs_i = sum_{j < i} Q_ij dt_j (C B^T)_ij + e^{cs_i} dy_i . (S C_i) - dt_i u_i    u_j = sum_{i > j} Q_ij (C B^T)_ij + e^{cs_63 - cs_j} x_j . (dS B_j)
//   the chunk's end gets <dS, S_after> = e^{cs_63} <dS, S> + sum_j w_j x_j . (dS B_j)
//   da = reverse cumsum of dcs in the chunk    d_dt = u + G_jj (C B^T)_jj + A da    dA = sum da dt    dD = <dy, x>
// A warpgroup loads and sums what is elementwise; three multiply: dC by tokens i, dB and dx by tokens j, what is triangular in registers
// from sums to operands.
// Floor at b8 s4096 H128: S, dS, x, dy, dx 3.75 GB (0.88 ms at 4.3 TB/s); wgmma 1,920 clocks a head and chunk: 0.55 ms.
#include "kernels/ssd/bwd_multiply.cuh"

namespace weft::kernels {
namespace ssd {
namespace {

__global__ void __launch_bounds__(chunk::kThreads, 1) bwd_chunk_kernel(const SsdBwd a, const BwdWorkspace w) {
  using namespace chunk;
  static_assert(sizeof(Smem) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int heads = a.heads / a.groups, group = static_cast<int>(blockIdx.x % a.groups);
  const int64_t slot = blockIdx.x / a.groups;
  const Head on{place_of_slot(a.cu_seqlens, a.documents, slot, kL), slot, group, heads, group * heads};
  if (on.at.count == 0) {
    for (int h = threadIdx.x; h < heads; h += kThreads) w.dA[slot * a.heads + on.first + h] = 0.f, w.dD[slot * a.heads + on.first + h] = 0.f;
    return;
  }
  const int role = static_cast<int>(threadIdx.x) >> 7;
  if (role == 0) {
    fewer_registers<56>();
    Feed{a, w, on, sm}.run();
  } else if (role == 1) {
    more_registers<152>();
    MultiplyC{{a, on, sm}}.run();
  } else if (role == 2) {
    more_registers<168>();
    MultiplyB{{a, on, sm}}.run();
  } else {
    more_registers<136>();
    MultiplyX{{a, on, sm}}.run();
  }
}

// One block a head: sums its parts over the slots in a fixed order.
__global__ void __launch_bounds__(256) sum_parts_kernel(const float* dA_parts, const float* dD_parts, int64_t slots, int H, float* dA, float* dD) {
  __shared__ float part[2][8];
  float sa = 0, sd = 0;
  for (int64_t i = threadIdx.x; i < slots; i += 256) sa += dA_parts[i * H + blockIdx.x], sd += dD_parts[i * H + blockIdx.x];
  sa = warp_sum(sa), sd = warp_sum(sd);
  if (lane_id() == 0) part[0][warp_id()] = sa, part[1][warp_id()] = sd;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sa = sd = 0;
  for (int i = 0; i < 8; ++i) sa += part[0][i], sd += part[1][i];
  dA[blockIdx.x] += sa;
  if (dD) dD[blockIdx.x] += sd;
}

}  // namespace
}  // namespace ssd

Support supports_ssd_bwd_sm90(const SsdBwd& a, const Device& device) {
  if (a.states == nullptr) return {"the forward's states were not saved"};
  if (reinterpret_cast<uintptr_t>(a.dy) % 16 != 0 || reinterpret_cast<uintptr_t>(a.states) % 16 != 0) return {"dy or states is not 16-byte aligned"};
  return {ssd::refusal(a, device)};
}

size_t workspace_ssd_bwd_sm90(const SsdBwd& a) {
  const size_t slots = static_cast<size_t>(ssd_state_slots(a.tokens, a.documents)) * a.heads;
  return slots * (ssd::kP * ssd::kN * 2 + 2 * sizeof(float));
}

void ssd_bwd_sm90(const SsdBwd& a, const Launch& launch) {
  const int64_t slots = ssd_state_slots(a.tokens, a.documents), rows = slots * a.heads;
  if (a.documents == 0) return;
  auto* base = static_cast<uint8_t*>(launch.workspace);
  float* parts = reinterpret_cast<float*>(base + rows * (ssd::kP * ssd::kN * 2));
  const ssd::BwdWorkspace w{base, parts, parts + rows};
  ssd::bwd_state(a, w.d_states, launch.stream);
  launch_grid(ssd::bwd_chunk_kernel, dim3(static_cast<unsigned>(slots * a.groups)), dim3(ssd::chunk::kThreads), sizeof(ssd::chunk::Smem), launch.stream, a, w);
  launch_grid(ssd::sum_parts_kernel, dim3(a.heads), dim3(256), 0, launch.stream, static_cast<const float*>(w.dA), static_cast<const float*>(w.dD), slots, a.heads, a.dA, a.dD);
}

}  // namespace weft::kernels
