#include "ops/aten.h"

#include "ops/mlp.h"

#include "kernels/gemm/gemm.h"
#include "ops/activation.h"
#include "ops/linear.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::Act;

struct Mlp {  // a call, for the choice alone
  int64_t tokens, dim, width, out;
  Act act;
  DType dtype;
};

constexpr Candidate<Mlp> kMlp[] = {
#ifdef WEFT_CUDA
    {"epilogues", [](const Mlp& m, const Policy& p) -> kernels::Support {
       if (p.device.kind != kernels::Device::kCuda) return {"runs on CUDA only"};
       if (m.act != Act::kGeluTanh) return {"the library has an epilogue for gelu in the tanh form only"};
       if (m.dtype != DType::kBf16) return {"dtype is not bf16"};
       if (m.tokens == 0 || m.dim % 8 != 0 || m.width % 8 != 0 || m.out % 8 != 0) return {"a size is not a multiple of 8"};
       return {};
     }, nullptr, nullptr},
#endif
    {"parts", [](const Mlp&, const Policy&) -> kernels::Support { return {}; }, nullptr, nullptr},
};

void add_dw(const Policy& policy, Weight& w, Weight* b, const at::Tensor& dy, const at::Tensor& x) {
  at::AutoDispatchBelowADInplaceOrView below;
  GemmOptions o;
  o.accumulate = true;
  const bool wants_db = b != nullptr && b->wants_grad();
  if (w.wants_grad()) {
    if (wants_db) o.bias_grad = at::empty({dy.size(1)}, w.main_grad.options());
    gemm("mlp_dw", dy, true, x, false, w.main_grad.view(w.value.sizes()), o, policy);
  }
  if (wants_db) b->main_grad.add_((o.bias_grad.defined() ? o.bias_grad : dy.sum(0, false, b->main_grad.scalar_type())).view(b->main_grad.sizes()));
  if (w.trainable) w.done();
  if (b != nullptr && b->trainable) b->done();
}

struct MlpNode final : Node {
  SavedTensor x, before, hidden;  // [T, D], [T, F] before and after the activation
  Weight *w1 = nullptr, *b1 = nullptr, *w2 = nullptr, *b2 = nullptr;
  WgradQueue* wgrad = nullptr;
  std::vector<int64_t> shape;
  bool wants_dx = false;

  void put(Weight& w, Weight* b, const at::Tensor& dy, const at::Tensor& x) {
    if (!w.trainable && (b == nullptr || !b->trainable)) return;
    if (wgrad != nullptr)
      wgrad->put([policy = of_parts(policy), w = &w, b, dy, x] { add_dw(policy, *w, b, dy, x); });
    else
      add_dw(of_parts(policy), w, b, dy, x);
  }

  variable_list apply(variable_list&& grads) override {
    at::AutoDispatchBelowADInplaceOrView below;
    const Policy product = of_parts(policy);
    const at::Tensor dy = grads[0].reshape({-1, w2->value.size(0)}).contiguous(), h = unpack(hidden);
    put(*w2, b2, dy, h);
    GemmOptions through;
    through.gelu_slope_of = unpack(before);
    at::Tensor dh = at::empty_like(h);
    gemm("mlp_dh", dy, false, w2->value, false, dh, through, product);
    put(*w1, b1, dh, unpack(x));
    if (!wants_dx) return {at::Tensor()};
    at::Tensor dx = at::empty({dy.size(0), w1->value.size(1)}, dy.options());
    gemm("mlp_dx", dh, false, w1->value, false, dx, GemmOptions{}, product);
    return {dx.view(shape)};
  }
};

}  // namespace

at::Tensor mlp(const at::Tensor& x, Weight& w1, Weight* b1, Weight& w2, Weight* b2, Act act, WgradQueue* wgrad, const Policy& policy) {
  check_shape(w1.value.dim() == 2 && w2.value.dim() == 2 && w1.value.size(0) == w2.value.size(1), "mlp", "w2", describe(w2.value),
              "[D2, F] for w1 " + describe(w1.value) + " = [F, D]");
  check_shape(x.dim() >= 1 && x.size(-1) == w1.value.size(1) && x.size(-1) > 0 && x.is_contiguous() && x.scalar_type() == w1.value.scalar_type(), "mlp", "x", describe(x),
              "[..., D] contiguous for w1 " + describe(w1.value) + " = [F, D]");
  const Mlp m{x.numel() / x.size(-1), x.size(-1), w1.value.size(0), w2.value.size(0), act, dtype_of(x)};
  const auto* c = select<Mlp>("mlp", kMlp, m, policy);
  if (c == nullptr || std::string_view(c->name) == "parts") {
    const Policy product = of_parts(policy);
    return linear(activation(linear(x, w1, {}, wgrad, product, b1), act, product), w2, {}, wgrad, product, b2);
  }
  const auto wants = [](const Weight* w) { return w != nullptr && w->wants_grad(); };
  auto node = make_node<MlpNode>(policy, {x}, wants(&w1) || wants(b1) || wants(&w2) || wants(b2));
  at::AutoDispatchBelowADInplaceOrView below;
  const Policy product = of_parts(policy);
  const at::Tensor x2 = x.detach().view({m.tokens, m.dim});
  at::Tensor before = at::empty({m.tokens, m.width}, x2.options()), hidden = at::empty_like(before), y = at::empty({m.tokens, m.out}, x2.options());
  GemmOptions first, second;
  first.gelu_of = before;
  if (b1 != nullptr) first.bias = b1->value;
  if (b2 != nullptr) second.bias = b2->value;
  gemm("mlp_fc1", x2, false, w1.value, true, hidden, first, product);
  gemm("mlp_fc2", hidden, false, w2.value, true, y, second, product);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = m.out;
  y = y.view(shape);
  if (node) {
    node->x = save(x2), node->before = save(before), node->hidden = save(hidden), node->w1 = &w1, node->b1 = b1, node->w2 = &w2, node->b2 = b2;
    node->wgrad = wgrad, node->shape = x.sizes().vec(), node->wants_dx = x.requires_grad();
  }
  return attach(node, y);
}

}  // namespace weft::ops
