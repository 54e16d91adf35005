#include "kernels/add/add.h"
#include "kernels/cpu.h"

namespace weft::kernels {
namespace {

// y may be any addend.
WEFT_CLONES void add_block(const float* const* in, int32_t num_in, float* y, int32_t n) {
  const float *a = in[0], *b = in[1], *c = in[2], *d = in[3];
  if (num_in == 2) {
#pragma omp simd
    for (int32_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
  } else if (num_in == 3) {
#pragma omp simd
    for (int32_t i = 0; i < n; ++i) y[i] = a[i] + b[i] + c[i];
  } else {
#pragma omp simd
    for (int32_t i = 0; i < n; ++i) y[i] = a[i] + b[i] + c[i] + d[i];
  }
}

template <class T>
void run(const Add& a, const Launch& launch) {
  const int64_t blocks = (a.count + kFloats - 1) / kFloats;
  parallel_for(launch.parallel, blocks, row_grain(kFloats), [&](int64_t begin, int64_t end) {
    Block<T> in[4], out;
    for (int64_t first = begin * kFloats; first < end * kFloats && first < a.count; first += kFloats) {
      const int32_t n = static_cast<int32_t>(a.count - first < kFloats ? a.count - first : kFloats);
      const float* values[4] = {};
      for (int32_t i = 0; i < a.num_in; ++i) values[i] = in[i].read(static_cast<const T*>(a.in[i]) + first, n);
      T* y = static_cast<T*>(a.y) + first;
      add_block(values, a.num_in, out.room(y), n);
      out.write(y, n);
    }
  });
}

}  // namespace

Support supports_add_cpu(const Add& a, const Device& device) { return on_cpu(device, a.dtype); }

void add_cpu(const Add& a, const Launch& launch) { a.dtype == DType::kF32 ? run<float>(a, launch) : run<bf16>(a, launch); }

}  // namespace weft::kernels
