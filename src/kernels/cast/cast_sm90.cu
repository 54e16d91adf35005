// Four vectors of eight a thread.
#include "kernels/cast/cast.h"

#include "kernels/common/convert.cuh"
#include "kernels/common/flat.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

template <class From, class To>
__global__ void __launch_bounds__(kFlatThreads) cast(Cast a, bool aligned) {
  constexpr int kUnroll = 4;
  const int64_t base = static_cast<int64_t>(blockIdx.x) * kUnroll * kFlatThreads + threadIdx.x;
  const float scale = a.scale == nullptr ? 1.0f : *a.scale;
  float f[kUnroll][8];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = a.count - i;
    if (left > 0) read8(static_cast<const From*>(a.x) + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8, f[k]);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = a.count - i;
    if (left <= 0) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) f[k][j] *= scale;
    write8(static_cast<To*>(a.y) + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8, f[k]);
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
