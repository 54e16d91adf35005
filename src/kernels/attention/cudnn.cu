// cuDNN's attention as a candidate. Rows of documents of one length go in as a dense batch; anything else as ragged rows, with offsets
// that a small kernel writes from cu_q and kv_lens, so that nothing comes back to the host. Plans are kept for rounded-up shapes. The
// library's deterministic backward asks for memory that grows with the square of the length: it runs over slices of the heads.
#include "kernels/attention/cudnn_graph.h"
#include "kernels/attention/documents.cuh"

namespace weft::kernels {
namespace {

constexpr int kThreads = 256, kOffsets = 8;
constexpr size_t kMostWorkspace = size_t{1} << 30;  // of a slice, where it can be cut further

int64_t power_of_two(int64_t n, int64_t least) {
  int64_t p = least;
  while (p < n) p *= 2;
  return p;
}

// Up to an eighth more, in steps of 128 rows at least: packed batches of ever new lengths share plans.
int64_t rounded_length(int64_t n) {
  const int64_t step = power_of_two(n / 8, 128);
  return ceil_div(n, step) * step;
}

bool lengths_match(const AttentionShape& s) {  // every document has as many keys as queries: both corners are the same
  if (s.host_kv_lens == nullptr) return false;
  for (int32_t d = 0; d < s.documents; ++d)
    if (s.host_kv_lens[d] != s.host_cu_q[d + 1] - s.host_cu_q[d]) return false;
  return true;
}
bool is_dense(const AttentionShape& s) {
  if (s.host_kv_lens == nullptr || s.host_k_starts == nullptr || s.max_q < 2) return false;
  for (int32_t d = 0; d < s.documents; ++d)
    if (s.host_cu_q[d + 1] - s.host_cu_q[d] != s.max_q || s.host_kv_lens[d] != s.max_kv || s.host_k_starts[d] != d * int64_t{s.max_kv}) return false;
  return s.tokens == int64_t{s.documents} * s.max_q && s.key_rows == int64_t{s.documents} * s.max_kv;
}
CudnnShape shape_of(const AttentionShape& s, bool backward, bool deterministic, bool sinks, bool max_logit) {
  CudnnShape c{};
  c.dense = is_dense(s);
  c.documents = c.dense ? s.documents : power_of_two(s.documents, 1);
  c.max_q = c.dense ? s.max_q : rounded_length(s.max_q), c.max_kv = c.dense ? s.max_kv : rounded_length(s.max_kv);
  if (backward && !c.dense) c.tokens = ceil_div(s.tokens, 1024) * 1024, c.key_rows = ceil_div(s.key_rows, 1024) * 1024;
  c.q_stride = s.q_stride, c.k_stride = s.k_stride, c.v_stride = s.v_stride;
  c.heads = c.all_heads = s.heads, c.groups = c.all_groups = s.groups, c.dim = s.dim, c.dim_v = s.dim_v;
  c.left = s.left, c.right = s.right, c.scale = s.scale, c.dtype = s.dtype;
  c.bottom_right = (s.left >= 0 || s.right >= 0) && !lengths_match(s);
  c.backward = backward, c.deterministic = deterministic, c.sinks = sinks, c.max_logit = max_logit;
  if (const cudaError_t e = cudaGetDevice(&c.device); e != cudaSuccess) throw_cuda("attention", e);
  return c;
}

struct Slices {
  CudnnShape shape;  // of one slice
  int count;
  const CudnnPlan* plan;
};
Slices slices_of(const CudnnShape& all) {
  Slices s{all, 1, &cudnn_plan(all)};
  while (s.plan->refusal == nullptr && s.plan->workspace > kMostWorkspace && s.count < all.groups) {
    const int wanted = s.count * static_cast<int>(ceil_div(static_cast<int64_t>(s.plan->workspace), static_cast<int64_t>(kMostWorkspace)));
    int count = s.count + 1;
    while (count < all.groups && (count < wanted || all.groups % count != 0)) ++count;
    s.count = count, s.shape.groups = all.groups / count, s.shape.heads = all.heads / count;
    s.plan = &cudnn_plan(s.shape);
  }
  return s;
}

Support takes(const AttentionShape& s, const Device& d, const void* q, const void* k, const void* v) {
  if (d.kind != Device::kCuda) return {"runs on CUDA only"};
  if (s.dtype != DType::kBf16 && s.dtype != DType::kF16) return {"dtype is not bf16 or f16"};
  if (s.dropout > 0) return {"its dropout draws other numbers than the reference"};
  if (s.documents == 0 || s.tokens == 0 || s.key_rows == 0) return {"no tokens"};
  if (s.dim % 8 != 0 || s.dim_v % 8 != 0) return {"dims are not multiples of 8"};
  if (s.q_stride % 8 != 0 || s.k_stride % 8 != 0 || s.v_stride % 8 != 0 || !is_aligned(q, 16) || !is_aligned(k, 16) || !is_aligned(v, 16))
    return {"q, k or v is not aligned to 16 bytes"};
  return {};
}

// Elements from the start of each tensor to each document, and each document's lengths; documents from `documents` on are empty.
struct OffsetArgs {
  const int32_t *cu_q, *kv_lens, *k_starts;
  int64_t *offsets;  // [kOffsets, padded + 1]
  int32_t *lengths;  // [2, padded]
  int64_t per_query[4], per_key[4];
  int32_t documents, padded;
};
__global__ void write_offsets(OffsetArgs a) {
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i <= a.padded; i += static_cast<int>(gridDim.x * blockDim.x)) {
    const bool real = i < a.documents;
    const int last = a.documents - 1;
    const int64_t query = a.cu_q[real ? i : a.documents], key = real ? a.k_starts[i] : int64_t{a.k_starts[last]} + a.kv_lens[last];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      a.offsets[j * (a.padded + 1) + i] = query * a.per_query[j];
      a.offsets[(4 + j) * (a.padded + 1) + i] = key * a.per_key[j];
    }
    if (i == a.padded) continue;
    a.lengths[i] = real ? a.cu_q[i + 1] - a.cu_q[i] : 0;
    a.lengths[a.padded + i] = real ? a.kv_lens[i] : 0;
  }
}

// [batch, rows, columns], rows `stride` apart, to [batch, columns, rows], 32 x 32 elements a block.
__global__ void turn(const float* in, float* out, int rows, int columns, int stride) {
  __shared__ float tile[32][33];
  const int64_t from = static_cast<int64_t>(blockIdx.z) * rows * stride, to = static_cast<int64_t>(blockIdx.z) * rows * columns;
  const int r0 = static_cast<int>(blockIdx.y) * 32, c0 = static_cast<int>(blockIdx.x) * 32, x = static_cast<int>(threadIdx.x);
  for (int i = static_cast<int>(threadIdx.y); i < 32; i += 8)
    if (r0 + i < rows && c0 + x < columns) tile[i][x] = in[from + static_cast<int64_t>(r0 + i) * stride + c0 + x];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.y); i < 32; i += 8)
    if (c0 + i < columns && r0 + x < rows) out[to + static_cast<int64_t>(c0 + i) * rows + r0 + x] = tile[x][i];
}
void transpose(const void* in, void* out, int64_t batch, int rows, int columns, int stride, cudaStream_t stream) {
  launch_grid(turn, dim3(static_cast<unsigned>(ceil_div(columns, 32)), static_cast<unsigned>(ceil_div(rows, 32)), static_cast<unsigned>(batch)),
              dim3(32, 8), 0, stream, static_cast<const float*>(in), static_cast<float*>(out), rows, columns, stride);
}

// lse = max + ln(sum) of each row, and rows of no key: -inf.
__global__ void __launch_bounds__(kThreads) finish_lse(const float* row_max, const float* row_sum, float* lse, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) lse[i] = row_sum[i] == 0 ? -INFINITY : row_max[i] + logf(row_sum[i]);
}

__global__ void add_to(const float* from, float* to, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) to[i] += from[i];
}

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

struct Layout {  // of the workspace, in bytes
  size_t offsets, lengths, lse, row_max, row_sum, d_sinks, total;
  Layout(const AttentionShape& s, const CudnnShape& c, const CudnnPlan& p) {
    const size_t statistics = round_up(static_cast<size_t>(s.tokens) * static_cast<size_t>(s.heads) * sizeof(float));
    offsets = round_up(p.workspace);
    lengths = offsets + (c.dense ? 0 : round_up(static_cast<size_t>(kOffsets * (c.documents + 1)) * sizeof(int64_t)));
    lse = lengths + (c.dense ? 0 : round_up(static_cast<size_t>(2 * c.documents) * sizeof(int32_t)));
    row_max = lse + (c.dense ? statistics : 0);
    row_sum = row_max + (c.max_logit ? statistics : 0);
    d_sinks = row_sum + (c.max_logit ? statistics : 0);
    total = d_sinks + (c.sinks && c.backward ? round_up(static_cast<size_t>(s.heads) * sizeof(float)) : 0);
  }
};

CudnnCall call_of(const AttentionShape& s, const CudnnShape& c, const Layout& at, const void* q, const void* k, const void* v, const Launch& launch) {
  CudnnCall call{};
  call.q = q, call.k = k, call.v = v;
  if (c.dense) return call;
  uint8_t* base = static_cast<uint8_t*>(launch.workspace);
  auto* offsets = reinterpret_cast<int64_t*>(base + at.offsets);
  auto* lengths = reinterpret_cast<int32_t*>(base + at.lengths);
  const int64_t H = s.heads, G = s.groups;
  const OffsetArgs a{s.cu_q, s.kv_lens, s.k_starts, offsets, lengths,
                     {s.q_stride, H * s.dim_v, H, H * s.dim}, {s.k_stride, s.v_stride, G * s.dim, G * s.dim_v},
                     s.documents, static_cast<int32_t>(c.documents)};
  launch_grid(write_offsets, dim3(static_cast<unsigned>(ceil_div(c.documents + 1, kThreads))), dim3(kThreads), 0, launch.stream, a);
  const int64_t n = c.documents + 1;
  call.offset_q = offsets, call.offset_o = offsets + n, call.offset_lse = offsets + 2 * n, call.offset_k = offsets + 4 * n, call.offset_v = offsets + 5 * n;
  if (c.backward) call.offset_dq = offsets + 3 * n, call.offset_dk = offsets + 6 * n, call.offset_dv = offsets + 7 * n;
  call.len_q = lengths, call.len_kv = lengths + c.documents;
  return call;
}

CudnnShape forward_shape(const AttentionFwd& a) { return shape_of(a.s, false, false, a.sinks != nullptr, a.max_logit != nullptr); }
CudnnShape backward_shape(const AttentionBwd& a) { return shape_of(a.s, true, a.deterministic, a.sinks != nullptr, false); }

void clear(void* p, int64_t elements, int64_t size, cudaStream_t stream) {
  if (const cudaError_t e = cudaMemsetAsync(p, 0, static_cast<size_t>(elements * size), stream); e != cudaSuccess) throw_cuda("attention", e);
}

}  // namespace

Support limits_attention_fwd_cudnn(const AttentionFwd& a, const Device& d) {
  if (const Support s = takes(a.s, d, a.q, a.k, a.v); !s) return s;
  if (a.sinks != nullptr && a.max_logit != nullptr) return {"the maximum logit would count the sinks"};
  return {};
}
Support limits_attention_bwd_cudnn(const AttentionBwd& a, const Device& d) {
  if (const Support s = takes(a.s, d, a.q, a.k, a.v); !s) return s;
  if (!is_aligned(a.o, 16) || !is_aligned(a.d_o, 16)) return {"o or d_o is not aligned to 16 bytes"};
  return {};
}
Support supports_attention_fwd_cudnn(const AttentionFwd& a, const Device& d) {
  const Support s = limits_attention_fwd_cudnn(a, d);
  return s && cuda_present() ? Support{cudnn_plan(forward_shape(a)).refusal} : s;
}
Support supports_attention_bwd_cudnn(const AttentionBwd& a, const Device& d) {
  const Support s = limits_attention_bwd_cudnn(a, d);
  return s && cuda_present() ? Support{slices_of(backward_shape(a)).plan->refusal} : s;
}

size_t workspace_attention_fwd_cudnn(const AttentionFwd& a) {
  const CudnnShape c = forward_shape(a);
  return Layout(a.s, c, cudnn_plan(c)).total;
}
size_t workspace_attention_bwd_cudnn(const AttentionBwd& a) {
  const Slices slices = slices_of(backward_shape(a));
  return Layout(a.s, slices.shape, *slices.plan).total;
}

void attention_fwd_cudnn(const AttentionFwd& a, const Launch& launch) {
  const CudnnShape c = forward_shape(a);
  const CudnnPlan& plan = cudnn_plan(c);
  const Layout at(a.s, c, plan);
  uint8_t* base = static_cast<uint8_t*>(launch.workspace);
  CudnnCall call = call_of(a.s, c, at, a.q, a.k, a.v, launch);
  float* lse = c.dense ? reinterpret_cast<float*>(base + at.lse) : a.lse;
  call.o = a.o, call.sinks = a.sinks;
  if (c.max_logit) call.row_max = base + at.row_max, call.row_sum = base + at.row_sum;
  else call.lse = lse;
  cudnn_run(plan, call, c.device, launch);
  if (c.max_logit) {
    const int64_t count = a.s.tokens * a.s.heads;
    const auto* row_max = static_cast<const float*>(call.row_max);
    launch_grid(finish_lse, dim3(static_cast<unsigned>(ceil_div(count, kThreads))), dim3(kThreads), 0, launch.stream, row_max, static_cast<const float*>(call.row_sum), lse,
                count);
    launch_grid(head_max, dim3(static_cast<unsigned>(a.s.heads)), dim3(256), 0, launch.stream, row_max, a.max_logit, a.s.tokens, a.s.heads,
                c.dense ? static_cast<int>(c.max_q) : 0);
  }
  if (c.dense) transpose(lse, a.lse, c.documents, c.heads, static_cast<int>(c.max_q), static_cast<int>(c.max_q), launch.stream);
}

void attention_bwd_cudnn(const AttentionBwd& a, const Launch& launch) {
  const Slices slices = slices_of(backward_shape(a));
  const CudnnShape& c = slices.shape;
  const Layout at(a.s, c, *slices.plan);
  uint8_t* base = static_cast<uint8_t*>(launch.workspace);
  if (!covers_keys(a.s)) {
    clear(a.dk, a.s.key_rows * a.s.groups * a.s.dim, 2, launch.stream);
    clear(a.dv, a.s.key_rows * a.s.groups * a.s.dim_v, 2, launch.stream);
  }
  float* d_sinks = a.sinks == nullptr ? nullptr : reinterpret_cast<float*>(base + at.d_sinks);  // the library overwrites, the caller wants a sum
  if (d_sinks != nullptr) clear(d_sinks, a.s.heads, sizeof(float), launch.stream);
  const CudnnCall all = call_of(a.s, c, at, a.q, a.k, a.v, launch);
  for (int i = 0; i < slices.count; ++i) {
    const int64_t h = int64_t{i} * c.heads, g = int64_t{i} * c.groups;
    const auto from = [](const void* p, int64_t elements, int bytes) { return p == nullptr ? nullptr : static_cast<const uint8_t*>(p) + elements * bytes; };
    CudnnCall call = all;
    call.q = from(a.q, h * c.dim, 2), call.k = from(a.k, g * c.dim, 2), call.v = from(a.v, g * c.dim_v, 2);
    call.o = from(a.o, h * c.dim_v, 2), call.d_o = from(a.d_o, h * c.dim_v, 2), call.lse = from(a.lse, h, 4);
    call.dq = from(a.dq, h * c.dim, 2), call.dk = from(a.dk, g * c.dim, 2), call.dv = from(a.dv, g * c.dim_v, 2);
    call.sinks = from(a.sinks, h, 4), call.d_sinks = from(d_sinks, h, 4);
    if (c.dense) {
      transpose(call.lse, base + at.lse, c.documents, static_cast<int>(c.max_q), c.heads, c.all_heads, launch.stream);
      call.lse = base + at.lse;
    }
    cudnn_run(*slices.plan, call, c.device, launch);
  }
  if (d_sinks != nullptr && a.d_sinks != nullptr)
    launch_grid(add_to, dim3(1), dim3(kThreads), 0, launch.stream, static_cast<const float*>(d_sinks), a.d_sinks, a.s.heads);
}

}  // namespace weft::kernels
