// Two vectors of eight a thread.
#include "kernels/add/add.h"
#include "kernels/common/flat.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

template <class T, int kNum>
__global__ void __launch_bounds__(kFlatThreads) add(Add a, bool aligned) {
  constexpr int kUnroll = 2;
  const int64_t base = static_cast<int64_t>(blockIdx.x) * kUnroll * kFlatThreads + threadIdx.x;
  Vec8<T> raw[kUnroll][kNum];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = a.count - i;
    if (left <= 0) continue;
#pragma unroll
    for (int n = 0; n < kNum; ++n)
      raw[k][n] = load_raw(static_cast<const T*>(a.in[n]) + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = a.count - i;
    if (left <= 0) continue;
    float sum[8];
    unpack(raw[k][0], sum);
#pragma unroll
    for (int n = 1; n < kNum; ++n) {
      float g[8];
      unpack(raw[k][n], g);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] += g[j];
    }
    store_some(static_cast<T*>(a.y) + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8, sum);
  }
}

}  // namespace

Support supports_add_sm90(const Add& a, const Device& d) {
  if (a.num_in < 2 || a.num_in > 4) return {"num_in is not 2, 3 or 4"};
  return on_sm90(d, a.dtype);
}

void add_sm90(const Add& a, const Launch& launch) {
  if (a.count == 0) return;
  bool aligned = is_aligned(a.y, 16);
  for (int n = 0; n < a.num_in; ++n) aligned = aligned && is_aligned(a.in[n], 16);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    auto go = [&](auto kernel) {
      launch_grid(kernel, dim3(flat_grid(ceil_div(a.count, 8), 2)), dim3(kFlatThreads), 0, launch.stream, a, aligned);
    };
    if (a.num_in == 2) go(add<T, 2>);
    if (a.num_in == 3) go(add<T, 3>);
    if (a.num_in == 4) go(add<T, 4>);
  });
}

}  // namespace weft::kernels
