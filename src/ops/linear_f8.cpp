#include "ops/aten.h"

#include "ops/linear_f8.h"

#include "kernels/gemm/scaled_gemm.h"
#include "ops/composed.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::ScaledGemm;

constexpr Candidate<ScaledGemm> kScaled[] = {
#ifdef WEFT_CUDA
    {"cublaslt", on_device<kernels::supports_scaled_gemm_cublaslt>,
     kernels::workspace_scaled_gemm_cublaslt, kernels::scaled_gemm_cublaslt},
#endif
    // The values that the codes stand for, multiplied in fp32: the numerics without the speed.
    {"dequantized", [](const ScaledGemm&, const Policy& p) -> kernels::Support {
       if (p.device.kind != kernels::Device::kCpu) return {"runs on the CPU only"};
       return {};
     }, nullptr, nullptr},
};

// Where each factor of a layer comes from.
struct Scheme {
  QuantizeOptions x, w, dy;
};
Scheme scheme(GemmRecipe::Kind kind) {
  switch (kind) {
    case GemmRecipe::kF8Tensor: return {{QuantBlock::kTensor}, {QuantBlock::kTensor}, {QuantBlock::kTensor, DType::kF8E5M2}};
    case GemmRecipe::kF8Row: return {{QuantBlock::kRow}, {QuantBlock::kRow}, {QuantBlock::kRow, DType::kF8E5M2}};
    default: return {{QuantBlock::k1x128, DType::kF8E4M3, true}, {QuantBlock::k128x128, DType::kF8E4M3, true}, {QuantBlock::k1x128, DType::kF8E4M3, true}};
  }
}

Quantized quantized(const at::Tensor& x, QuantizeOptions o, bool transposed, const Policy& policy) {
  o.transposed = transposed;
  const Policy p = of_parts(policy);
  return quantize(x, o.block == QuantBlock::kTensor ? amax(x, p) : at::Tensor(), o, p);
}

Factor rows_of(const Quantized& f, QuantBlock b) { return {f.q, f.scale, b, {}}; }
Factor columns_of(const Quantized& f, QuantBlock b) { return {f.q_t, f.scale_t.defined() ? f.scale_t : f.scale, b, {}}; }

Quantized weight_copies(const Weight& w, const GemmRecipe& recipe, const Policy& policy) {
  WeightCopies* have = recipe.copies;
  if (have != nullptr && have->kind == recipe.kind && have->version == w.version && have->data == w.value.data_ptr() && have->f8.q.sizes() == w.value.sizes())
    return have->f8;
  Quantized made = quantized(w.value, scheme(recipe.kind).w, true, policy);
  if (have != nullptr) *have = {recipe.kind, w.version, w.value.data_ptr(), made};
  return made;
}

// Scales as the library reads them (kernels/gemm/scaled_gemm.h).
at::Tensor as_read(const Factor& f) {
  if (f.block == QuantBlock::k1x128) return f.scale.t().contiguous();
  if (f.block == QuantBlock::k128x128 && f.scale.size(1) % 4 != 0) return at::constant_pad_nd(f.scale, {0, 4 - f.scale.size(1) % 4});
  return f.scale;
}

at::Tensor value(const Factor& f, at::ScalarType t) { return (f.exact.defined() ? f.exact : reference::dequantize(f.q, f.scale, f.block)).to(t); }

at::Tensor padded_rows(const at::Tensor& x) { return x.size(0) % 16 == 0 ? x : at::constant_pad_nd(x, {0, 0, 0, 16 - x.size(0) % 16}); }

struct LinearF8Node final : Node {
  Factor x_t;  // [K, T], for dw
  Factor w_t;  // [K, N], for dx
  Weight *w = nullptr, *b = nullptr;
  WgradQueue* wgrad = nullptr;
  GemmRecipe recipe;
  std::vector<int64_t> shape;  // of x as it came
  int64_t tokens = 0;
  bool wants_dx = false;

  static void add_dw(const Policy& policy, Weight& w, Weight* b, const Factor& dy_t, const Factor& x_t, const at::Tensor& db) {
    at::AutoDispatchBelowADInplaceOrView below;
    if (w.wants_grad()) scaled_gemm("linear_f8_dw", dy_t, x_t, w.main_grad.view(w.value.sizes()), true, false, policy);
    if (b != nullptr && b->wants_grad()) b->main_grad.add_(db.view(b->main_grad.sizes()));
    if (w.trainable) w.done();
    if (b != nullptr && b->trainable) b->done();
  }

  variable_list apply(variable_list&& grads) override {
    at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor dy = padded_rows(grads[0].reshape({-1, w->value.size(0)}).contiguous());
    const Scheme s = scheme(recipe.kind);
    Factor dy_rows, dy_t;
    if (recipe.exact) {
      dy_rows.exact = dy, dy_t.exact = dy.t();
    } else {
      const Quantized f = quantized(dy, s.dy, w->wants_grad(), policy);
      dy_rows = rows_of(f, s.dy.block);
      if (w->wants_grad()) dy_t = columns_of(f, s.dy.block);
    }
    if (w->trainable || (b != nullptr && b->trainable)) {
      const at::Tensor db = b != nullptr && b->wants_grad() ? dy.sum(0, false, b->main_grad.scalar_type()) : at::Tensor();
      if (wgrad != nullptr)
        wgrad->put([policy = policy, w = w, b = b, dy_t, x_t = x_t, db] { add_dw(policy, *w, b, dy_t, x_t, db); });
      else
        add_dw(policy, *w, b, dy_t, x_t, db);
    }
    if (!wants_dx) return {at::Tensor()};
    at::Tensor dx = at::empty({dy.size(0), w->value.size(1)}, dy.options());
    scaled_gemm("linear_f8_dx", dy_rows, w_t, dx, false, false, policy);
    return {dx.narrow(0, 0, tokens).view(shape)};
  }
};

}  // namespace

void scaled_gemm(const char* op, const Factor& a, const Factor& b, at::Tensor c, bool accumulate, bool fast, const Policy& policy) {
  const int64_t k = a.exact.defined() ? a.exact.size(1) : a.q.size(1);
  if (c.numel() == 0 || k == 0) {
    if (!accumulate) c.zero_();
    return;
  }
  const auto rounded = [&] {
    const at::Tensor sa = as_read(a), sb = as_read(b);
    const ScaledGemm g{a.q.data_ptr(), b.q.data_ptr(), c.data_ptr(), floats(sa), floats(sb), c.size(0), c.size(1), k,
                       c.size(0) > 1 ? c.stride(0) : c.size(1), a.block, b.block, dtype_of(a.q), dtype_of(b.q), dtype_of(c), accumulate, fast, policy.deterministic};
    const auto* chosen = select<ScaledGemm>(op, kScaled, g, policy);
    if (composed(chosen)) return false;
    run(*chosen, g, c);
    return true;
  };
  if (!a.exact.defined() && rounded()) return;
  const auto t = wide(c);
  const at::Tensor product = at::mm(value(a, t), value(b, t).t());
  accumulate ? c.add_(product) : c.copy_(product);
}

at::Tensor linear_f8(const at::Tensor& x, Weight& w, const GemmRecipe& recipe, WgradQueue* wgrad, const Policy& policy, Weight* b) {
  check_shape(w.value.size(0) % 16 == 0 && w.value.size(1) % 16 == 0, "linear_f8", "w", describe(w.value), "both dims multiples of 16");
  auto node = make_node<LinearF8Node>(policy, {x}, w.wants_grad() || (b != nullptr && b->wants_grad()));
  at::AutoDispatchBelowADInplaceOrView below;
  const int64_t tokens = x.numel() / x.size(-1);
  const at::Tensor x2 = padded_rows(x.detach().reshape({tokens, x.size(-1)}));
  const bool wants_dw = node != nullptr && w.wants_grad();
  const Scheme s = scheme(recipe.kind);
  Factor x_rows, x_t, w_rows, w_t;
  if (recipe.exact) {
    x_rows.exact = x2, x_t.exact = x2.t(), w_rows.exact = w.value, w_t.exact = w.value.t();
  } else {
    const Quantized f = quantized(x2, s.x, wants_dw, policy);
    const Quantized weight = weight_copies(w, recipe, policy);
    x_rows = rows_of(f, s.x.block), w_rows = rows_of(weight, s.w.block), w_t = columns_of(weight, s.w.block);
    if (wants_dw) x_t = columns_of(f, s.x.block);
  }
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = w.value.size(0);
  at::Tensor y = at::empty({x2.size(0), w.value.size(0)}, x2.options());
  scaled_gemm("linear_f8", x_rows, w_rows, y, false, recipe.kind != GemmRecipe::kF8Block, policy);
  y = y.narrow(0, 0, tokens).view(shape);
  if (b != nullptr) y.add_(b->value);
  if (node) {
    node->x_t = x_t, node->w_t = w_t, node->w = &w, node->b = b, node->wgrad = wgrad, node->recipe = recipe;
    node->shape = x.sizes().vec(), node->tokens = tokens, node->wants_dx = x.requires_grad();
  }
  return attach(node, y);
}

}  // namespace weft::ops
