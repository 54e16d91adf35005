#include "ops/aten.h"

#include "ops/dropout.h"

#include "base/rng.h"
#include "kernels/dropout/dropout.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace reference {

at::Tensor dropout_mask(const at::Tensor& like, double p, DropoutKey key) {
  if (like.is_meta()) return at::empty_like(like, like.options().dtype(wide(like)).requires_grad(false));
  const at::Tensor mask = at::empty(like.sizes(), at::kDouble);
  double* m = mask.data_ptr<double>();
  const uint64_t threshold = static_cast<uint64_t>(static_cast<double>(static_cast<float>(p)) * 4294967296.0);
  for (int64_t i = 0; i < mask.numel(); ++i) {
    const uint64_t index = static_cast<uint64_t>(key.offset + i);
    m[i] = rng::block_at(key.seed, index / 4, key.stream)[index % 4] >= threshold ? 1 / (1 - p) : 0;
  }
  return mask.to(like.options().dtype(wide(like)).requires_grad(false));
}

}  // namespace reference

namespace {

constexpr Candidate<kernels::Dropout> kDropout[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_dropout_sm90>, nullptr, kernels::dropout_sm90},
#endif
    {"cpu", on_device<kernels::supports_dropout_cpu>, nullptr, kernels::dropout_cpu},
};

at::Tensor apply_dropout(const at::Tensor& x, const at::Tensor& residual, double p, DropoutKey key, const Policy& policy) {
  kernels::Dropout a{x.data_ptr(), residual.defined() ? residual.data_ptr() : nullptr, nullptr, x.numel(), key.seed, key.stream, key.offset,
                     static_cast<float>(p), dtype_of(x)};
  const auto* c = select<kernels::Dropout>("dropout", kDropout, a, policy);
  if (c == nullptr) {
    const auto t = wide(x);
    const at::Tensor kept = x.to(t) * reference::dropout_mask(x, p, key);
    return (residual.defined() ? residual.to(t) + kept : kept).to(x.scalar_type());
  }
  const at::Tensor y = at::empty_like(x, x.options().requires_grad(false));
  a.y = y.data_ptr();
  run(*c, a, x);
  return y;
}

struct DropoutNode final : Node {
  double p = 0;
  DropoutKey key{};

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    return {wants_gradient(0) ? apply_dropout(dy, {}, p, key, policy) : at::Tensor(), dy};
  }
};

}  // namespace

at::Tensor dropout(const at::Tensor& x, const at::Tensor& residual, double p, DropoutKey key, const Policy& policy) {
  check_shape(x.is_contiguous(), "dropout", "layout of x", describe(x), "contiguous");
  check_shape(p >= 0 && p < 1, "dropout", "p", std::to_string(p), "0 to below 1");
  check_shape(key.offset >= 0 && key.offset % 4 == 0, "dropout", "offset", std::to_string(key.offset), "a multiple of 4");
  check_shape(!residual.defined() || (residual.sizes() == x.sizes() && residual.scalar_type() == x.scalar_type() && residual.is_contiguous()),
              "dropout", "residual", describe(residual), describe(x));
  auto node = make_node<DropoutNode>(policy, {x, residual}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  const at::Tensor y = apply_dropout(x, residual, p, key, policy);
  if (node) node->p = p, node->key = key;
  return attach(node, y);
}

}  // namespace weft::ops
