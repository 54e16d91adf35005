#include "ops/aten.h"

#include "ops/hadamard.h"

#include "kernels/hadamard/hadamard.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

constexpr Candidate<kernels::Hadamard> kHadamard[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_hadamard_sm90>, nullptr, kernels::hadamard_sm90},
#endif
    {"cpu", on_device<kernels::supports_hadamard_cpu>, nullptr, kernels::hadamard_cpu},
};

at::Tensor reference_hadamard(const at::Tensor& x, double scale) {
  at::Tensor v = x.to(wide(x)).reshape({x.numel() / x.size(-1), x.size(-1)});
  for (int64_t half = 1; half < x.size(-1); half *= 2) {
    const at::Tensor pairs = v.view({v.size(0), x.size(-1) / (2 * half), 2, half});
    const at::Tensor a = pairs.select(2, 0), b = pairs.select(2, 1);
    v = at::stack({a + b, a - b}, 2).reshape({v.size(0), x.size(-1)});
  }
  return (v * scale).view(x.sizes()).to(x.scalar_type());
}

at::Tensor transform(const at::Tensor& x, double scale, const Policy& policy) {
  kernels::Hadamard a{x.data_ptr(), nullptr, x.numel() / x.size(-1), static_cast<int32_t>(x.size(-1)), static_cast<float>(scale), dtype_of(x)};
  const auto* c = select<kernels::Hadamard>("hadamard", kHadamard, a, policy);
  if (c == nullptr) return reference_hadamard(x, scale);
  const at::Tensor y = at::empty_like(x, x.options().requires_grad(false));
  a.y = y.data_ptr();
  run(*c, a, x);
  return y;
}

struct HadamardNode final : Node {
  double scale = 1;
  variable_list apply(variable_list&& grads) override { return {transform(grads[0].contiguous(), scale, policy)}; }
};

}  // namespace

at::Tensor hadamard(const at::Tensor& x, double scale, const Policy& policy) {
  const int64_t cols = x.dim() > 0 ? x.size(-1) : 0;
  check_shape(cols > 0 && (cols & (cols - 1)) == 0 && x.is_contiguous(), "hadamard", "x", describe(x), "[..., a power of two] contiguous");
  auto node = make_node<HadamardNode>(policy, {x}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  const at::Tensor y = transform(x, scale, policy);
  if (node) node->scale = scale;
  return attach(node, y);
}

}  // namespace weft::ops
