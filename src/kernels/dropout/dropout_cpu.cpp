#include "base/rng.h"
#include "kernels/cpu.h"
#include "kernels/dropout/dropout.h"

namespace weft::kernels {
namespace {

template <class T>
void run(const Dropout& a, const Launch& launch) {
  const uint64_t threshold = static_cast<uint64_t>(static_cast<double>(a.p) * 4294967296.0);
  const float scale = 1.0f / (1.0f - a.p);
  const T *x = static_cast<const T*>(a.x), *residual = static_cast<const T*>(a.residual);
  T* y = static_cast<T*>(a.y);
  parallel_for(launch.parallel, (a.count + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t quad = begin; quad < end; ++quad) {
      const rng::Block words = rng::block_at(a.seed, static_cast<uint64_t>(a.offset / 4 + quad), a.stream);
      for (int64_t i = 4 * quad; i < 4 * quad + 4 && i < a.count; ++i) {
        const float kept = words[static_cast<size_t>(i % 4)] >= threshold ? to_f32(x[i]) * scale : 0.0f;
        y[i] = from_f32<T>(residual == nullptr ? kept : to_f32(residual[i]) + kept);
      }
    }
  });
}

}  // namespace

Support supports_dropout_cpu(const Dropout& a, const Device& device) {
  if (const Support s = on_cpu(device, a.dtype); !s) return s;
  if (a.offset % 4 != 0) return {"offset is not a multiple of 4"};
  return {};
}

void dropout_cpu(const Dropout& a, const Launch& launch) { a.dtype == DType::kF32 ? run<float>(a, launch) : run<bf16>(a, launch); }

}  // namespace weft::kernels
