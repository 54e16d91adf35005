#include "ops/aten.h"

#include "ops/bias.h"

#include "kernels/bias/bias.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::BiasBwd;
using kernels::BiasFwd;

constexpr Candidate<BiasFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_bias_fwd_sm90>, nullptr, kernels::bias_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_bias_fwd_cpu>, nullptr, kernels::bias_fwd_cpu},
};
constexpr Candidate<BiasBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_bias_bwd_sm90>, kernels::workspace_bias_bwd_sm90,
     kernels::bias_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_bias_bwd_cpu>, kernels::workspace_bias_bwd_cpu,
     kernels::bias_bwd_cpu},
};

struct BiasNode final : Node {
  Weight* b = nullptr;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    if (!b->wants_grad()) {
      if (b->trainable) b->done();
      return {dy};
    }
    const BiasBwd a{dy.data_ptr(), nullptr, dy.numel() / dy.size(-1), static_cast<int32_t>(dy.size(-1)), dtype_of(dy)};
    const auto* c = select<BiasBwd>("add_bias_bwd", kBwd, a, policy);
    if (c == nullptr) {
      b->accumulate(dy.to(wide(dy)).reshape({-1, dy.size(-1)}).sum(0));
      return {dy};
    }
    BiasBwd with = a;
    with.db = b->main_grad.data_ptr<float>();
    run(*c, with, dy);
    b->done();
    return {dy};
  }
};

}  // namespace

at::Tensor add_bias(const at::Tensor& x, Weight& b, const Policy& policy) {
  check_shape(x.dim() >= 1 && b.value.dim() == 1 && x.size(-1) == b.value.size(0) && x.size(-1) > 0, "add_bias", "last dim of x", describe(x),
              describe(b.value));
  check_shape(x.scalar_type() == b.value.scalar_type(), "add_bias", "dtype of b", describe(b.value), name(dtype_of(x)));
  check_shape(x.is_contiguous(), "add_bias", "layout of x", describe(x), "contiguous");
  auto node = make_node<BiasNode>(policy, {x}, b.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  BiasFwd a{x.data_ptr(), b.value.data_ptr(), nullptr, x.numel() / x.size(-1), static_cast<int32_t>(x.size(-1)), dtype_of(x)};
  const auto* c = select<BiasFwd>("add_bias", kFwd, a, policy);
  at::Tensor y;
  if (c == nullptr) {
    y = (x.to(wide(x)) + b.value.to(wide(x))).to(x.scalar_type());
  } else {
    y = at::empty_like(x, x.options().requires_grad(false));
    a.y = y.data_ptr();
    run(*c, a, x);
  }
  if (node) node->b = &b;
  return attach(node, y);
}

}  // namespace weft::ops
