// Mamba-3 forward. One block walks the chunks (64 rows of steps x ranks) of one head in one document; q and k are made in
// shared memory from the group's B and C (bias, rotation), so they never reach device memory. With S the chunk form's
// state, k~ = scale k (nam56r.md 2.5):
//   M_ij = e^{cs_i - cs_j} scale_j (q_i . k_j) for an earlier step j, gamma_i (q_i . k_j) within a step, 0 later
//   y^T = S q^T diag(e^{cs}) + V^T M^T + D V^T      S = e^{cs_end} S + (V diag(w))^T k      o_t = sum_r mimo_o y silu(z mimo_z)
// Floor at b8 s4096 H128 P64 N128 G8 R4, 2048 x 128 chunks of a head on 132 processors at 1.75 GHz: wgmma 896 clocks each, 1.02 ms; x, z, o, B, C
// 2.1 GB, 0.5 ms at 4.3 TB/s; special functions (gate, turns, decay) 600 clocks, 0.7 ms. Bound by issue: about 950 instructions each of the
// multiplying and the feeding warp of a scheduler a chunk of a head, 2.1 ms if it never waits; two blocks a processor hide each other's waits.
#include "kernels/mamba3/fwd_feed.cuh"
#include "kernels/mamba3/fwd_multiply.cuh"

namespace weft::kernels {
namespace mamba3 {

const char* refusal(const Mamba3Inputs& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm / 10 != 9) return "needs a GPU of compute capability 9.x";
  if (a.dtype != DType::kBf16) return "dtype is not bf16";
  if (a.head_dim != kP || a.state_dim != kN) return "built for head_dim 64, state_dim 128";
  if (a.rank != 1 && a.rank != 2 && a.rank != 4) return "built for ranks 1, 2 and 4";
  if (a.groups < 1 || a.heads % a.groups != 0) return "heads is not a multiple of groups";
  if (a.angles < 4 || a.angles % 4 != 0 || a.angles > (a.rank == 1 ? 32 : 64)) return "angles is not a multiple of 4 in [4, 64] (at most 32 at rank 1)";
  if (a.x_stride % 8 != 0 || a.z_stride % 8 != 0 || a.B_stride % 8 != 0 || a.C_stride % 8 != 0) return "a token stride is not a multiple of 8 elements";
  if (a.rank > 1 && (a.mimo_x == nullptr || a.mimo_o == nullptr || (a.z != nullptr && a.mimo_z == nullptr))) return "rank above 1 without mimo weights";
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.x) || !aligned(a.z) || !aligned(a.B) || !aligned(a.C) || !aligned(a.omega) || !aligned(a.B_bias) || !aligned(a.C_bias)) return "an input is not 16-byte aligned";
  return nullptr;
}

namespace {

constexpr int kFeedRegisters = 96, kMultiplyRegisters = 160;  // at rank 4, where two blocks fit a processor

template <int R>
__global__ void __launch_bounds__(2 * kGroup, R == 4 ? 2 : 1) fwd_kernel(const Mamba3Fwd args) {
  const Mamba3Inputs& a = args.in;
  static_assert(sizeof(FwdSmem<R>) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<FwdSmem<R>*>(raw);
  const int document = static_cast<int>(blockIdx.x) / a.heads, head = static_cast<int>(blockIdx.x) % a.heads;
  const int start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start;
  constexpr int kSteps = kRows / R;
  const FwdPlace at{document, head, head / (a.heads / a.groups), (length + kSteps - 1) / kSteps, start, length};
  if (threadIdx.x < kGroup) {
    if constexpr (R == 4) fewer_registers<kFeedRegisters>();
    FwdFeed<R>{args, at, sm}.run();
  } else {
    if constexpr (R == 4) more_registers<kMultiplyRegisters>();
    FwdMultiply<R>{args, at, sm}.run();
  }
}

template <int R>
void launch(const Mamba3Fwd& a, const Launch& l) {
  launch_grid(fwd_kernel<R>, dim3(static_cast<unsigned>(a.in.heads * a.in.documents)), dim3(2 * kGroup), sizeof(FwdSmem<R>), l.stream, a);
}

}  // namespace
}  // namespace mamba3

Support supports_mamba3_fwd_sm90(const Mamba3Fwd& a, const Device& device) {
  if (reinterpret_cast<uintptr_t>(a.o) % 16 != 0 || reinterpret_cast<uintptr_t>(a.states) % 16 != 0) return {"o or states is not 16-byte aligned"};
  return {mamba3::refusal(a.in, device)};
}

void mamba3_fwd_sm90(const Mamba3Fwd& a, const Launch& l) {
  if (a.in.rank == 1) return mamba3::launch<1>(a, l);
  if (a.in.rank == 2) return mamba3::launch<2>(a, l);
  mamba3::launch<4>(a, l);
}

}  // namespace weft::kernels
