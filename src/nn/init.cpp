#include "ops/aten.h"

#include "nn/init.h"

#include "base/error.h"
#include "base/rng.h"
#include "ops/parallel.h"

namespace weft::nn {
namespace {

double draw(const Init& init, uint64_t key, int64_t index) {
  switch (init.kind) {
    case Init::kZero: return 0;
    case Init::kOne: return 1;
    case Init::kConstant: return init.scale;
    case Init::kNormal: return init.scale * rng::normal(key, static_cast<uint64_t>(index));
    case Init::kUniform: return init.scale * (2 * rng::uniform(key, static_cast<uint64_t>(index)) - 1);
    case Init::kCustom: return init.custom(rng::uniform(key, static_cast<uint64_t>(index)));
  }
  throw InternalError("init: unknown kind");
}

void fill(at::Tensor& value, const Param& p, uint64_t seed) {
  const uint64_t key = rng::mix(seed, p.weight.name);
  at::Tensor numbers = at::empty(value.sizes(), at::kFloat);
  float* out = numbers.data_ptr<float>();
  parallel_for(ops::parallel_on_aten, numbers.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = static_cast<float>(draw(p.spec.init, key, i));
  });
  value.copy_(numbers);
}

}  // namespace

void materialize(Module& root, const Materialize& m) {
  const at::NoGradGuard no_grad;
  root.visit_params([&](Param& p) {
    const at::ScalarType dtype = p.spec.keep_f32 && m.dtype != at::kDouble ? at::kFloat : m.dtype;
    p.weight.value = at::empty(p.weight.value.sizes(), at::TensorOptions().device(m.device).dtype(dtype));
    if (m.fill) fill(p.weight.value, p, m.seed);
    ++p.weight.version;
  });
  root.visit_buffers([&](const std::string&, at::Tensor& t) { t = at::zeros(t.sizes(), t.options().device(m.device)); });
  if (m.fill) root.visit("**", [&](Module& module) { module.fill_buffers(m.seed); });
}

int64_t count_params(Module& root) {
  int64_t n = 0;
  root.visit_params([&](Param& p) { n += p.weight.value.numel(); });
  return n;
}

}  // namespace weft::nn
