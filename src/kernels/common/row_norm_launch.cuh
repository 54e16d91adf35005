// How RMSNorm and LayerNorm are launched: which kernel of row_norm.cuh (fp32, long or odd rows) or row_norm_bf16.cuh takes the rows, with
// how many threads and blocks.
#pragma once
#include "kernels/common/row_norm_bf16.cuh"

namespace weft::kernels {

template <class F>
void with_row_vectors(int vectors, F&& f) {
  if (vectors == 1)
    f(std::integral_constant<int, 1>{});
  else if (vectors == 2)
    f(std::integral_constant<int, 2>{});
  else if (vectors == 3)
    f(std::integral_constant<int, 3>{});
  else
    f(std::integral_constant<int, 4>{});
}

template <bool kLayer>
void launch_row_norm_fwd_bf16(dev::RowNorm a, const Launch& launch) {
  const int vecs = a.cols / 8, vectors = vecs <= 32 ? 1 : vecs <= 64 ? 2 : vecs <= 96 ? 3 : 4, streams = a.residual != nullptr ? 2 : 1;
  int threads = 128;
  a.lanes = 1;
  while (a.lanes < 32 && a.lanes < vecs) a.lanes *= 2;
  if (vecs > 128) a.lanes = threads = static_cast<int>(ceil_div(vecs, 128) * 32);
  with_row_vectors(vectors, [&](auto v) {
    constexpr int NV = decltype(v)::value, kRows = NV <= 2 ? 4 / NV : 1, kRows2 = NV == 1 ? 2 : 1;
    const auto kernel = streams == 2 ? dev::row_norm_fwd_bf16<NV, kRows2, kLayer, true> : dev::row_norm_fwd_bf16<NV, kRows, kLayer, false>;
    launch_grid(kernel, dim3(static_cast<unsigned>(ceil_div(a.rows, threads / a.lanes * (streams == 2 ? kRows2 : kRows)))), dim3(static_cast<unsigned>(threads)), 0, launch.stream, a);
  });
}

// Blocks of a backward: fixed, about what the processors of an H200 hold at once.
inline int64_t row_ring_parts(const RowPlan& plan, int64_t rows) {
  const int held = plan.vectors == 1 ? 4 : plan.vectors == 2 ? 512 / plan.threads : plan.vectors == 4 && plan.threads > 256 ? 1 : 2;
  const int64_t most = 132 * (held < 4 ? held : 4), wanted = ceil_div(rows, plan.rows_per_block());
  return wanted < most ? wanted : most;
}

template <bool kLayer>
void launch_row_norm_bwd_ring(const dev::RowNorm& a, const RowPlan& plan, int64_t parts, const Launch& launch) {
  with_row_vectors(plan.vectors, [&](auto vectors) {
    constexpr int NV = decltype(vectors)::value;
    auto go = [&](auto kernel, int streams) {
      const size_t ring = static_cast<size_t>(plan.threads) * 16 * NV * streams * dev::ring_depth(NV, streams);
      const size_t sums = plan.rows_per_block() > 1 ? sizeof(float) * plan.rows_per_block() * a.cols : 0;
      launch_grid(kernel, dim3(static_cast<unsigned>(parts)), dim3(static_cast<unsigned>(plan.threads)), ring > sums ? ring : sums, launch.stream, a);
    };
    if (a.dsum != nullptr)
      go(dev::row_norm_bwd_ring<NV, kLayer, true>, 3);
    else
      go(dev::row_norm_bwd_ring<NV, kLayer, false>, 2);
  });
}

template <bool kLayer>
void launch_row_norm_fwd(dev::RowNorm a, DType dtype, const Launch& launch) {
  if (a.rows == 0 || a.cols == 0) return;
  bool aligned = true;
  for (const void* p : {a.x, a.residual, a.w, a.b, static_cast<const void*>(a.sum), static_cast<const void*>(a.y)})
    aligned = aligned && is_aligned(p, 16);
  const RowPlan plan = plan_rows(a.cols, aligned);
  a.lanes = plan.lanes;
  const bool wide = kLayer && a.cols > 8192;  // two barriers a row of 16 warps: persistent blocks do better
  if (dtype == DType::kBf16 && plan.vectors > 0 && !wide && a.rows < int64_t{1} << 31) return launch_row_norm_fwd_bf16<kLayer>(a, launch);
  with_float_type(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    auto go = [&](auto kernel, int threads) {
      const int grid = persistent_grid(kernel, threads, 0, ceil_div(a.rows, plan.rows_per_block()));
      launch_grid(kernel, dim3(grid), dim3(threads), 0, launch.stream, a);
    };
    if (plan.vectors == 1)
      go(dev::row_norm_fwd<T, 1, kLayer>, plan.threads);
    else if (plan.vectors == 2)
      go(dev::row_norm_fwd<T, 2, kLayer>, plan.threads);
    else if (plan.vectors == 4)
      go(dev::row_norm_fwd<T, 4, kLayer>, plan.threads);
    else
      go(dev::row_norm_fwd_plain<T, kLayer>, 256);
  });
}

template <bool kLayer>
void launch_row_norm_bwd(dev::RowNorm a, float* dw, float* db, DType dtype, const Launch& launch) {
  if (a.rows == 0 || a.cols == 0) return;
  bool aligned = true;
  for (const void* p : {a.x, a.w, a.dy, a.dsum, static_cast<const void*>(a.y)}) aligned = aligned && is_aligned(p, 16);
  const RowPlan plan = plan_rows(a.cols, aligned, true);
  a.lanes = plan.lanes;
  const bool ring = dtype == DType::kBf16 && plan.vectors > 0;
  const int64_t parts = ring ? row_ring_parts(plan, a.rows) : row_norm_parts(ceil_div(a.rows, plan.rows_per_block()), a.cols);
  float* sums = static_cast<float*>(launch.workspace);
  a.dw_parts = dw == nullptr ? nullptr : sums;
  a.db_parts = db == nullptr ? nullptr : sums + (dw == nullptr ? 0 : parts * a.cols);
  if (ring) {
    launch_row_norm_bwd_ring<kLayer>(a, plan, parts, launch);
    return add_column_sums(a.dw_parts, dw, a.db_parts, db, parts, a.cols, launch.stream);
  }
  auto go = [&](auto kernel, int threads) {
    const size_t smem = plan.rows_per_block() > 1 ? sizeof(float) * plan.rows_per_block() * a.cols : 0;
    launch_grid(kernel, dim3(static_cast<unsigned>(parts)), dim3(threads), smem, launch.stream, a);
  };
  if (plan.vectors == 1)  // from here to 4: fp32
    go(dev::row_norm_bwd<1, kLayer>, plan.threads);
  else if (plan.vectors == 2)
    go(dev::row_norm_bwd<2, kLayer>, plan.threads);
  else if (plan.vectors == 3)
    go(dev::row_norm_bwd<3, kLayer>, plan.threads);
  else if (plan.vectors == 4)
    go(dev::row_norm_bwd<4, kLayer>, plan.threads);
  else
    with_float_type(dtype, [&](auto type) { go(dev::row_norm_bwd_plain<typename decltype(type)::type, kLayer>, 256); });
  add_column_sums(a.dw_parts, dw, a.db_parts, db, parts, a.cols, launch.stream);
}

}  // namespace weft::kernels
