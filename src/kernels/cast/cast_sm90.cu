// Four vectors of eight a thread.
#include "kernels/cast/cast.h"

#include "kernels/common/convert.cuh"
#include "kernels/common/flat.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

// Eight elements as they lie in memory (see load_raw).
template <class T>
__device__ __forceinline__ Bytes8<T> read_raw(const T* p, int count, bool full) {
  Bytes8<T> v;
  if (full) {
    if constexpr (sizeof(T) == 4) {
      const uint4 low = reinterpret_cast<const uint4*>(p)[0], high = reinterpret_cast<const uint4*>(p)[1];
      memcpy(v.word, &low, 16), memcpy(v.word + 4, &high, 16);
    } else if constexpr (sizeof(T) == 2) {
      const uint4 all = *reinterpret_cast<const uint4*>(p);
      memcpy(v.word, &all, 16);
    } else {
      const uint2 all = *reinterpret_cast<const uint2*>(p);
      memcpy(v.word, &all, 8);
    }
  } else {
    T e[8] = {};
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (j < count) e[j] = p[j];
    memcpy(v.word, e, sizeof(e));
  }
  return v;
}

template <class From, class To>
__global__ void __launch_bounds__(kFlatThreads) cast(Cast a, bool aligned) {
  constexpr int kUnroll = 4;
  const int64_t base = static_cast<int64_t>(blockIdx.x) * kUnroll * kFlatThreads + threadIdx.x;
  const float scale = a.scale == nullptr ? 1.0f : *a.scale;
  Bytes8<From> raw[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = a.count - i;
    if (left > 0) raw[k] = read_raw(static_cast<const From*>(a.x) + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = a.count - i;
    if (left <= 0) continue;
    From e[8];
    memcpy(e, raw[k].word, sizeof(e));
    float f[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] = element_to_f32(e[j]) * scale;
    write8(static_cast<To*>(a.y) + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8, f);
  }
}

template <class F>
bool with_type(DType t, F&& f) {
  switch (t) {
    case DType::kF32:
      return f(Type<float>{}), true;
    case DType::kBf16:
      return f(Type<bf16>{}), true;
    case DType::kF16:
      return f(Type<__half>{}), true;
    case DType::kF8E4M3:
      return f(Type<__nv_fp8_e4m3>{}), true;
    case DType::kF8E5M2:
      return f(Type<__nv_fp8_e5m2>{}), true;
    default:
      return false;
  }
}

}  // namespace

Support supports_cast_sm90(const Cast& a, const Device& d) {
  auto none = [](auto) {};
  if (!with_type(a.from, none) || !with_type(a.to, none)) return {"a dtype is not f32, bf16, f16, f8e4m3 or f8e5m2"};
  return on_sm90(d);
}

void cast_sm90(const Cast& a, const Launch& launch) {
  if (a.count == 0) return;
  const bool aligned = is_aligned(a.x, 16) && is_aligned(a.y, 16);
  with_type(a.from, [&](auto from) {
    with_type(a.to, [&](auto to) {
      launch_grid(cast<typename decltype(from)::type, typename decltype(to)::type>, dim3(flat_grid(ceil_div(a.count, 8), 4)),
                  dim3(kFlatThreads), 0, launch.stream, a, aligned);
    });
  });
}

}  // namespace weft::kernels
