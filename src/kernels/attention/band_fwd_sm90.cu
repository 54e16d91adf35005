// Attention forward on wgmma for windows and packed documents (bf16): persistent blocks take items, 128 rows of a head (192 at d 64), from a
// list; one warp feeds, each warpgroup multiplies its own 64 rows. Deterministic: which block takes an item changes no sum.
// Floor at 8 x 4096 tokens, 32 heads of 128, window 512: 138,240 tiles of 64 x 64 of which 0.89 counts, 512 clocks each: 0.29 ms of wgmma at
// 1.83 GHz; K and V are 2.5 GB out of the L2.
#include "kernels/attention/band_fwd.cuh"
#include "kernels/attention/documents.cuh"

namespace weft::kernels {
namespace band {
namespace {

template <int kD, int kV, int kGroups>
__global__ void __launch_bounds__(Gather<kD, kV, kGroups>::S::kThreads, 1)
    gather_kernel(const AttentionFwd a, const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k, const __grid_constant__ CUtensorMap map_v,
                  const Documents docs, const Streams from, const Work work, float* row_max) {
  using S = typename Gather<kD, kV, kGroups>::S;
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<typename S::Smem*>(raw);
  S::init(sm);
  const int w = static_cast<int>(threadIdx.x) / kGroup;
  if (w == kGroups) {
    fewer_registers<S::kFeedRegisters>();
    if (threadIdx.x % kGroup < 32) Feed<S>{sm, &map_q, nullptr, &map_k, &map_v, docs, from, work}.run();
  } else {
    more_registers<S::kRegisters>();
    Gather<kD, kV, kGroups>{a, docs.sides, row_max, sm, w}.run();
  }
}

template <int kD, int kV, int kGroups>
void launch(const AttentionFwd& a, const Launch& l) {
  using S = typename Gather<kD, kV, kGroups>::S;
  const AttentionShape& s = a.s;
  const int tile_rows = kGroups * kRows;
  const Documents docs = query_documents(s, tile_rows);
  const int64_t most = most_tiles(s, tile_rows);
  const Work work = make_work(l.workspace, s.cu_q, nullptr, s.documents, tile_rows, s.heads, l.stream);
  float* row_max = a.max_logit == nullptr ? nullptr : reinterpret_cast<float*>(static_cast<uint8_t*>(l.workspace) + (work_bytes(most) + 255) / 256 * 256);
  const Streams from{static_cast<const bf16*>(a.k), static_cast<const bf16*>(a.v), s.k_stride, s.v_stride, nullptr, 0, 1, s.heads / s.groups};
  const CUtensorMap map_q = tensor_map(a.q, int64_t{s.heads} * kD, s.tokens, 1, s.q_stride, kRows);
  const CUtensorMap map_k = tensor_map(a.k, int64_t{s.groups} * kD, s.key_rows, 1, s.k_stride, kRows);
  const CUtensorMap map_v = tensor_map(a.v, int64_t{s.groups} * kV, s.key_rows, 1, s.v_stride, kRows);
  const int64_t items = most * s.heads, blocks = sm_count() < items ? sm_count() : items;
  launch_grid(gather_kernel<kD, kV, kGroups>, dim3(static_cast<unsigned>(blocks)), dim3(S::kThreads), sizeof(typename S::Smem), l.stream, a, map_q, map_k, map_v, docs, from,
              work, row_max);
  if (row_max != nullptr)
    launch_grid(head_max, dim3(static_cast<unsigned>(s.heads)), dim3(256), 0, l.stream, static_cast<const float*>(row_max), a.max_logit, s.tokens, s.heads, 0);
}

constexpr int rows_of(const AttentionShape& s) { return s.dim == 64 ? 3 * kRows : 2 * kRows; }

}  // namespace
}  // namespace band

Support supports_attention_fwd_wgmma(const AttentionFwd& a, const Device& d) {
  if (const Support s = band::takes(a.s, d, {a.q, a.k, a.v, a.o}); !s) return s;
  const int dim = a.s.dim, dim_v = a.s.dim_v;
  if (!((dim == 64 && dim_v == 64) || (dim == 128 && (dim_v == 128 || dim_v == 64)) || (dim == 192 && dim_v == 128))) return {"built for dims 64, 128, 128/64 and 192/128"};
  return {};
}

size_t workspace_attention_fwd_wgmma(const AttentionFwd& a) {
  const size_t list = (band::work_bytes(band::most_tiles(a.s, band::rows_of(a.s))) + 255) / 256 * 256;
  return list + (a.max_logit == nullptr ? 0 : static_cast<size_t>(a.s.tokens) * static_cast<size_t>(a.s.heads) * sizeof(float));
}

void attention_fwd_wgmma(const AttentionFwd& a, const Launch& l) {
  if (a.s.dim == 64) band::launch<64, 64, 3>(a, l);
  else if (a.s.dim == 192) band::launch<192, 128, 2>(a, l);
  else if (a.s.dim_v == 64) band::launch<128, 64, 2>(a, l);
  else band::launch<128, 128, 2>(a, l);
}

}  // namespace weft::kernels
