// A span is cut in chunks; every block adds up whole chunks in fp32, then in fp64 over the block; the blocks' sums are added in
// order.
#include "kernels/common/flat.cuh"
#include "kernels/grad_norm/grad_norm.h"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr int64_t kChunk = 65536;  // elements
constexpr int kSpans = 120;        // of one launch: they travel in the kernel's parameters
constexpr int kParts = 1056;       // blocks of one launch

struct Spans {
  const void* data[kSpans];
  int64_t count[kSpans];
  int64_t first_chunk[kSpans + 1];
  int32_t num;
};

struct Part {
  double sum;
  int64_t bad;
};

__device__ __forceinline__ Part block_sum(Part p) {
  __shared__ Part parts[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int o = 16; o > 0; o /= 2) p.sum += __shfl_xor_sync(~0u, p.sum, o), p.bad += __shfl_xor_sync(~0u, p.bad, o);
  if (lane == 0) parts[warp] = p;
  __syncthreads();
  p = lane < static_cast<int>(blockDim.x >> 5) ? parts[lane] : Part{0, 0};
  for (int o = 16; o > 0; o /= 2) p.sum += __shfl_xor_sync(~0u, p.sum, o), p.bad += __shfl_xor_sync(~0u, p.bad, o);
  return p;
}

template <class T>
__global__ void __launch_bounds__(256) sum_squares(const __grid_constant__ Spans spans, Part* parts) {
  Part part{0, 0};
  int s = 0;
  for (int64_t chunk = blockIdx.x; chunk < spans.first_chunk[spans.num]; chunk += gridDim.x) {
    while (spans.first_chunk[s + 1] <= chunk) ++s;
    const T* data = static_cast<const T*>(spans.data[s]);
    const int64_t begin = (chunk - spans.first_chunk[s]) * kChunk, left = spans.count[s] - begin;
    const int64_t end = begin + (left < kChunk ? left : kChunk);
    const bool aligned = (reinterpret_cast<uintptr_t>(data) & 15) == 0;
    float sum = 0;
    int bad = 0;
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x * 8; i < end; i += 256 * 8) {
      float f[8];
      load_some(data + i, end - i < 8 ? static_cast<int>(end - i) : 8, aligned && end - i >= 8, f);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += f[j] * f[j], bad += !isfinite(f[j]);
    }
    part.sum += sum, part.bad += bad;
  }
  part = block_sum(part);
  if (threadIdx.x == 0) parts[blockIdx.x] = part;
}

__global__ void __launch_bounds__(1024) add_parts(const Part* parts, int num, double* sum_sq, int32_t* non_finite, bool add) {
  Part p{0, 0};
  for (int i = threadIdx.x; i < num; i += 1024) p.sum += parts[i].sum, p.bad += parts[i].bad;
  p = block_sum(p);
  if (threadIdx.x != 0) return;
  const int64_t bad = p.bad + (add ? *non_finite : 0);
  *sum_sq = p.sum + (add ? *sum_sq : 0.0);
  *non_finite = static_cast<int32_t>(bad < 0x7fffffff ? bad : 0x7fffffff);
}

__global__ void clip(ClipFactor a) {
  const double norm = sqrt(*a.sum_sq);
  const bool bad = *a.non_finite != 0 || !isfinite(norm);
  if (a.norm != nullptr) *a.norm = static_cast<float>(norm);
  const double factor = a.max_norm > 0 ? a.max_norm / (norm + 1e-6) : 1.0;
  *a.factor = bad ? 0.0f : static_cast<float>(factor < 1.0 ? factor : 1.0);
  if (a.skip != nullptr) *a.skip = bad ? 1 : 0;
}

template <class T>
__global__ void __launch_bounds__(kFlatThreads) scale(ScaleBuffer a, bool aligned) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x) * 8;
  if (i >= a.count) return;
  const int count = a.count - i < 8 ? static_cast<int>(a.count - i) : 8;
  float f[8];
  load_some(static_cast<const T*>(a.data) + i, count, aligned && count == 8, f);
#pragma unroll
  for (int j = 0; j < 8; ++j) f[j] *= *a.factor;
  store_some(static_cast<T*>(a.data) + i, count, aligned && count == 8, f);
}

}  // namespace

Support supports_grad_norm_sm90(const GradNorm& a, const Device& d) { return on_sm90(d, a.dtype); }
Support supports_clip_factor_sm90(const ClipFactor&, const Device& d) { return on_sm90(d); }
Support supports_scale_buffer_sm90(const ScaleBuffer& a, const Device& d) { return on_sm90(d, a.dtype); }
size_t workspace_grad_norm_sm90(const GradNorm&) { return kParts * sizeof(Part); }

void grad_norm_sm90(const GradNorm& a, const Launch& launch) {
  Part* parts = static_cast<Part*>(launch.workspace);
  int32_t s = 0;
  bool add = a.add;
  do {
    Spans spans{};
    for (; s < a.num_spans && spans.num < kSpans; ++s) {
      if (a.spans[s].count == 0) continue;
      spans.data[spans.num] = a.spans[s].data, spans.count[spans.num] = a.spans[s].count;
      spans.first_chunk[spans.num + 1] = spans.first_chunk[spans.num] + ceil_div(a.spans[s].count, kChunk);
      ++spans.num;
    }
    const int64_t chunks = spans.first_chunk[spans.num];
    const int blocks = static_cast<int>(chunks < kParts ? chunks : kParts);
    if (blocks > 0)
      with_float_type(a.dtype, [&](auto type) {
        launch_grid(sum_squares<typename decltype(type)::type>, dim3(blocks), dim3(256), 0, launch.stream, spans, parts);
      });
    launch_grid(add_parts, dim3(1), dim3(1024), 0, launch.stream, parts, blocks, a.sum_sq, a.non_finite, add);
    add = true;
  } while (s < a.num_spans);
}

void clip_factor_sm90(const ClipFactor& a, const Launch& launch) { launch_grid(clip, dim3(1), dim3(1), 0, launch.stream, a); }

void scale_buffer_sm90(const ScaleBuffer& a, const Launch& launch) {
  if (a.count == 0) return;
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(scale<typename decltype(type)::type>, dim3(flat_grid(ceil_div(a.count, 8), 1)), dim3(kFlatThreads), 0,
                launch.stream, a, is_aligned(a.data, 16));
  });
}

}  // namespace weft::kernels
