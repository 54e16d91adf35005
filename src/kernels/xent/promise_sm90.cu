// One block compares; the blocks that would spoil dx read its answer and end at once where the promise was kept, which is always but for bugs.
#include "kernels/common/flat.cuh"
#include "kernels/xent/xent.h"

namespace weft::kernels {
namespace {

__global__ void __launch_bounds__(1024) compare(XentPromise a) {
  int differs = 0;
  for (int64_t r = threadIdx.x; r < a.rows; r += 1024) differs |= !(fabsf(a.given[r] - a.promised[r]) <= 1e-5f * fabsf(a.promised[r]));
  differs = __syncthreads_or(differs);
  if (threadIdx.x != 0) return;
  *a.broken = differs;
  if (differs && a.dw != nullptr) *a.dw = NAN;
}

template <class T>
__global__ void __launch_bounds__(256) spoil(XentPromise a) {
  if (*a.broken == 0) return;
  T* dx = static_cast<T*>(a.dx);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < a.elements; i += static_cast<int64_t>(gridDim.x) * 256)
    dx[i] = dev::from_f32<T>(NAN);
}

}  // namespace

Support supports_xent_promise_sm90(const XentPromise& a, const Device& d) { return on_sm90(d, a.dtype); }

void xent_promise_sm90(const XentPromise& a, const Launch& launch) {
  launch_grid(compare, dim3(1), dim3(1024), 0, launch.stream, a);
  if (a.dx == nullptr || a.elements == 0) return;
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(spoil<typename decltype(type)::type>, dim3(static_cast<unsigned>(ceil_div(a.elements, 256) < 528 ? ceil_div(a.elements, 256) : 528)), dim3(256), 0,
                launch.stream, a);
  });
}

}  // namespace weft::kernels
