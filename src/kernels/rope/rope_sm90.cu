// A thread owns four pairs of one head row: eight elements in, eight out. Copied columns are further items of the same row.
#include "kernels/common/flat.cuh"
#include "kernels/rope/rope.h"

namespace weft::kernels {
namespace {

using namespace dev;

__device__ __forceinline__ void load_four(const float* p, float* f) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  f[0] = v.x, f[1] = v.y, f[2] = v.z, f[3] = v.w;
}
__device__ __forceinline__ void load_four(const bf16* p, float* f) {
  const uint2 v = *reinterpret_cast<const uint2*>(p);
  f[0] = __uint_as_float(v.x << 16), f[1] = __uint_as_float(v.x & 0xffff0000u);
  f[2] = __uint_as_float(v.y << 16), f[3] = __uint_as_float(v.y & 0xffff0000u);
}
__device__ __forceinline__ void store_four(float* p, const float* f) {
  *reinterpret_cast<float4*>(p) = make_float4(f[0], f[1], f[2], f[3]);
}
__device__ __forceinline__ void store_four(bf16* p, const float* f) {
  *reinterpret_cast<uint2*>(p) = make_uint2(pack2(f[0], f[1]), pack2(f[2], f[3]));
}

template <class T>
__device__ __forceinline__ void load4(const T* p, int count, bool full, float* f) {
  if (full) return load_four(p, f);
#pragma unroll
  for (int i = 0; i < 4; ++i) f[i] = i < count ? to_f32(p[i]) : 0.0f;
}
template <class T>
__device__ __forceinline__ void store4(T* p, int count, bool full, const float* f) {
  if (full) return store_four(p, f);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) p[i] = from_f32<T>(f[i]);
}

// Four pairs as they lie in memory: eight neighbours, or four and four `half` apart.
__device__ __forceinline__ Vec8<float> read_pairs(const float* p, int half, bool adjacent) {
  return {*reinterpret_cast<const float4*>(p), *reinterpret_cast<const float4*>(p + (adjacent ? 4 : half))};
}
__device__ __forceinline__ Vec8<bf16> read_pairs(const bf16* p, int half, bool adjacent) {
  if (adjacent) return load8(p);
  const uint2 low = *reinterpret_cast<const uint2*>(p), high = *reinterpret_cast<const uint2*>(p + half);
  return {make_uint4(low.x, low.y, high.x, high.y)};
}
__device__ __forceinline__ void write_pairs(float* p, int half, bool adjacent, const Vec8<float>& v) {
  *reinterpret_cast<float4*>(p) = v.low, *reinterpret_cast<float4*>(p + (adjacent ? 4 : half)) = v.high;
}
__device__ __forceinline__ void write_pairs(bf16* p, int half, bool adjacent, const Vec8<bf16>& v) {
  if (adjacent) return store8(p, v);
  *reinterpret_cast<uint2*>(p) = make_uint2(v.raw.x, v.raw.y), *reinterpret_cast<uint2*>(p + half) = make_uint2(v.raw.z, v.raw.w);
}

// The same four pairs of kHeads neighbouring heads, aligned and whole: one read of the table, all of memory asked for before the first use.
template <class T, int kHeads>
__device__ __forceinline__ void rotate(const Rope& a, const T* x, T* y, int pair, int64_t row, bool read_adjacent, bool write_adjacent) {
  const int half = a.rot_dim / 2;
  const float4 cos = *reinterpret_cast<const float4*>(a.cos + row * half + pair), sin = *reinterpret_cast<const float4*>(a.sin + row * half + pair);
  Vec8<T> raw[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) raw[h] = read_pairs(x + h * a.x_head_stride + a.rot_begin + (read_adjacent ? 2 : 1) * pair, half, read_adjacent);
  const float c[4] = {cos.x, cos.y, cos.z, cos.w}, s[4] = {sin.x, sin.y, sin.z, sin.w};
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float f[8], g[8];
    unpack(raw[h], f);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float u = read_adjacent ? f[2 * j] : f[j], v = read_adjacent ? f[2 * j + 1] : f[4 + j], sine = a.inverse ? -s[j] : s[j];
      const float first = u * c[j] - v * sine, second = u * sine + v * c[j];
      if (write_adjacent) g[2 * j] = first, g[2 * j + 1] = second; else g[j] = first, g[4 + j] = second;
    }
    write_pairs(y + h * a.y_head_stride + a.rot_begin + (write_adjacent ? 2 : 1) * pair, half, write_adjacent, pack<T>(g));
  }
}

// Items of a row: ceil(half / 4) groups of pairs, then groups of eight copied columns. `heads` counts groups of kHeads; kHeads above one
// asks for whole aligned vectors.
template <class T, int kHeads>
__global__ void __launch_bounds__(kFlatThreads)
    rope(Rope a, FastDiv items, FastDiv heads, int groups, uint32_t total, bool aligned) {
  const uint32_t i = blockIdx.x * kFlatThreads + threadIdx.x;
  if (i >= total) return;
  const uint32_t flat_row = items.div(i), item = i - flat_row * items.d, token = heads.div(flat_row),
                 head = (flat_row - token * heads.d) * kHeads;
  const T* x = static_cast<const T*>(a.x) + token * a.x_token_stride + head * a.x_head_stride;
  T* y = static_cast<T*>(a.y) + token * a.y_token_stride + head * a.y_head_stride;
  const int half = a.rot_dim / 2;
  if (item >= static_cast<uint32_t>(groups)) {
    int c = static_cast<int>(item - groups) * 8;
    if (c >= a.rot_begin)
      c += a.rot_dim;  // groups never straddle: the host gives rot_begin in eights, or counts the head part up
    const int end = c < a.rot_begin ? a.rot_begin : a.head_dim, count = end - c;
    Vec8<T> raw[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) raw[h] = load_raw(x + h * a.x_head_stride + c, count, aligned && count >= 8);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float f[8];
      unpack(raw[h], f);
      store_some(y + h * a.y_head_stride + c, count, aligned && count >= 8, f);
    }
    return;
  }
  const int pair = static_cast<int>(item) * 4, count = half - pair;
  const bool full = aligned && count >= 4;
  const int64_t row = a.positions == nullptr ? token : a.positions[token];
  const bool table_full = full && half % 4 == 0;
  if (kHeads > 1 || table_full) {
    const bool read_adjacent = a.inverse ? a.pairing == Rope::kAdjacent : a.pairing != Rope::kHalf;
    const bool write_adjacent = a.inverse ? a.pairing != Rope::kHalf : a.pairing == Rope::kAdjacent;
    if (read_adjacent && write_adjacent)
      return rotate<T, kHeads>(a, x, y, pair, row, true, true);
    if (!read_adjacent && !write_adjacent)
      return rotate<T, kHeads>(a, x, y, pair, row, false, false);
    return rotate<T, kHeads>(a, x, y, pair, row, read_adjacent, write_adjacent);
  }
  float u[4], v[4], c[4], s[4];
  load4(a.cos + row * half + pair, count, table_full, c);
  load4(a.sin + row * half + pair, count, table_full, s);
  const bool read_adjacent = a.inverse ? a.pairing == Rope::kAdjacent : a.pairing != Rope::kHalf;
  const bool write_adjacent = a.inverse ? a.pairing != Rope::kHalf : a.pairing == Rope::kAdjacent;
  if (read_adjacent) {
    float f[8];
    load_some(x + a.rot_begin + 2 * pair, 2 * count, full, f);
#pragma unroll
    for (int j = 0; j < 4; ++j) u[j] = f[2 * j], v[j] = f[2 * j + 1];
  } else {
    load4(x + a.rot_begin + pair, count, full, u);
    load4(x + a.rot_begin + half + pair, count, full, v);
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float sine = a.inverse ? -s[j] : s[j], first = u[j] * c[j] - v[j] * sine;
    v[j] = u[j] * sine + v[j] * c[j], u[j] = first;
  }
  if (write_adjacent) {
    float f[8];
#pragma unroll
    for (int j = 0; j < 4; ++j) f[2 * j] = u[j], f[2 * j + 1] = v[j];
    store_some(y + a.rot_begin + 2 * pair, 2 * count, full, f);
  } else {
    store4(y + a.rot_begin + pair, count, full, u);
    store4(y + a.rot_begin + half + pair, count, full, v);
  }
}

}  // namespace

Support supports_rope_sm90(const Rope& a, const Device& d) {
  if (a.rot_dim % 2 != 0 || a.rot_begin < 0 || a.rot_begin + a.rot_dim > a.head_dim) return {"rot_dim is odd or leaves the head"};
  if (a.pairing == Rope::kAdjacentToHalf && a.x == a.y) return {"kAdjacentToHalf does not work in place"};
  if (a.x != a.y && a.rot_begin % 8 != 0) return {"rot_begin is not a multiple of 8 (out of place)"};
  return on_sm90(d, a.dtype);
}

void rope_sm90(const Rope& all, const Launch& launch) {
  if (all.tokens == 0 || all.heads == 0 || all.head_dim == 0) return;
  const int half = all.rot_dim / 2, groups = static_cast<int>(ceil_div(half, 4));
  const bool in_place = all.x == all.y;
  const int copies = in_place ? 0 : static_cast<int>(all.rot_begin / 8 + ceil_div(all.head_dim - all.rot_begin - all.rot_dim, 8));
  const int64_t items = groups + copies, size = bits(all.dtype) / 8;
  if (items == 0) return;
  const int64_t step = kFlatMost / (items * all.heads);
  bool aligned = all.rot_begin % 8 == 0 && half % 8 == 0 && is_aligned(all.cos, 16) && is_aligned(all.sin, 16);
  for (int64_t s : {all.x_token_stride, all.x_head_stride, all.y_token_stride, all.y_head_stride})
    aligned = aligned && s % 8 == 0;
  for (int64_t first = 0; first < all.tokens; first += step) {
    Rope a = all;
    a.tokens = all.tokens - first < step ? all.tokens - first : step;
    a.x = static_cast<const char*>(all.x) + first * all.x_token_stride * size;
    a.y = static_cast<char*>(all.y) + first * all.y_token_stride * size;
    if (all.positions != nullptr)
      a.positions = all.positions + first;
    else
      a.cos = all.cos + first * half, a.sin = all.sin + first * half;
    const bool whole = aligned && is_aligned(a.x, 16) && is_aligned(a.y, 16);
    const int each = whole && a.heads % 2 == 0 && a.head_dim % 8 == 0 ? 2 : 1;
    const int64_t total = a.tokens * (a.heads / each) * items;
    with_float_type(a.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      launch_grid(each == 2 ? rope<T, 2> : rope<T, 1>, dim3(flat_grid(total, 1)), dim3(kFlatThreads), 0, launch.stream, a, FastDiv(static_cast<uint32_t>(items)),
                  FastDiv(static_cast<uint32_t>(a.heads / each)), groups, static_cast<uint32_t>(total), whole);
    });
  }
}

}  // namespace weft::kernels
