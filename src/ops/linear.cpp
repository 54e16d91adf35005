#include "ops/aten.h"

#include "ops/linear.h"

#include "kernels/gemm/gemm.h"
#include "ops/activation.h"
#include "ops/linear_f8.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace reference {

at::Tensor linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
  const auto t = wide(x);
  const at::Tensor y = at::matmul(x.to(t), w.to(t).t());
  return (b.defined() ? y + b.to(t) : y).to(x.scalar_type());
}

std::pair<at::Tensor, at::Tensor> linear_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w) {
  const auto t = wide(x);
  const at::Tensor g = dy.reshape({-1, w.size(0)}).to(t), v = x.reshape({-1, w.size(1)}).to(t);
  return {at::mm(g, w.to(t)).view(x.sizes()).to(x.scalar_type()), at::mm(g.t(), v)};
}

}  // namespace reference

namespace {

using kernels::Gemm;
using kernels::GemmEpilogue;

// The tensor library's GEMM on borrowed pointers: oneDNN on the CPU, cuBLAS on the GPU.
at::Tensor borrowed(const void* data, int64_t rows, int64_t cols, int64_t stride, DType dtype, bool cuda) {
  return at::from_blob(const_cast<void*>(data), {rows, cols}, {stride, 1},
                       at::TensorOptions().dtype(scalar_type(dtype)).device(cuda ? at::kCUDA : at::kCPU));
}

template <bool kCuda>
void run_aten(const Gemm& g, const kernels::Launch& launch) {
  if (g.m == 0 || g.n == 0) return;
  at::AutoDispatchBelowADInplaceOrView below;
  at::Tensor c = borrowed(g.c, g.m, g.n, g.ldc, g.out_dtype, kCuda);
  const bool sums = g.epilogue == GemmEpilogue::kBiasGrad;
  at::Tensor bias_grad = sums ? borrowed(g.bias_grad, 1, g.m, g.m, g.out_dtype, kCuda).squeeze(0) : at::Tensor();
  if (g.k == 0) {
    if (!g.accumulate) c.zero_();
    if (sums) bias_grad.zero_();
    return;
  }
  at::Tensor a = g.a_transposed ? borrowed(g.a, g.k, g.m, g.lda, g.dtype, kCuda).t() : borrowed(g.a, g.m, g.k, g.lda, g.dtype, kCuda);
  if (sums) at::sum_out(bias_grad, a, {1}, false, scalar_type(g.out_dtype));
  at::Tensor b = g.b_transposed ? borrowed(g.b, g.n, g.k, g.ldb, g.dtype, kCuda).t() : borrowed(g.b, g.k, g.n, g.ldb, g.dtype, kCuda);
  if (g.epilogue == GemmEpilogue::kBias) {
    at::addmm_out(c, borrowed(g.bias, 1, g.n, g.n, g.out_dtype, kCuda), a, b);
  } else if (g.dtype == g.out_dtype) {
    g.accumulate ? at::addmm_out(c, c, a, b) : at::mm_out(c, a, b);
  } else if (kCuda) {
    const at::Tensor product = at::mm(a, b, scalar_type(g.out_dtype));
    g.accumulate ? c.add_(product) : c.copy_(product);
  } else {
    const at::Tensor product = at::mm(a, b);  // rounded to the inputs' dtype: the library has no fp32 result here
    if (g.accumulate)
      kernels::accumulate_cpu({product.data_ptr(), static_cast<float*>(g.c), g.m, g.n, g.ldc, g.dtype}, launch);
    else
      c.copy_(product);
  }
}

template <bool kCuda>
kernels::Support supports_aten(const Gemm& g, const Policy& p) {
  if (p.device.kind != (kCuda ? kernels::Device::kCuda : kernels::Device::kCpu)) return {kCuda ? "runs on CUDA only" : "runs on the CPU only"};
  if (g.dtype != DType::kF32 && g.dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
  if (g.out_dtype != g.dtype && g.out_dtype != DType::kF32) return {"the result's dtype is neither that of the factors nor f32"};
  if (g.epilogue == GemmEpilogue::kGeluBias || g.epilogue == GemmEpilogue::kDgelu) return {"has no gelu epilogue"};
  if (g.epilogue == GemmEpilogue::kBias && (g.dtype != g.out_dtype || g.accumulate || g.k == 0)) return {"adds a bias to a product in the factors' dtype only"};
  return {};
}

constexpr Candidate<Gemm> kGemm[] = {
    {"cpu", on_device<kernels::supports_gemm_cpu>, nullptr, kernels::gemm_cpu},
    {"aten", supports_aten<false>, nullptr, run_aten<false>},
#ifdef WEFT_CUDA
    {"cublaslt_padded", on_device<kernels::supports_gemm_padded>, kernels::workspace_gemm_padded,
     kernels::gemm_padded},
    {"cublaslt", on_device<kernels::supports_gemm_cublaslt>, kernels::workspace_gemm_cublaslt,
     kernels::gemm_cublaslt},
#endif
    {"aten_cuda", supports_aten<true>, nullptr, run_aten<true>},
};

// A matrix of one row may carry any stride.
int64_t row_stride(const at::Tensor& t) { return t.size(0) > 1 ? t.stride(0) : std::max<int64_t>(t.size(1), 1); }

Gemm describe_gemm(const at::Tensor& a, bool a_t, const at::Tensor& b, bool b_t, const at::Tensor& c, const GemmOptions& o, const Policy& policy) {
  Gemm g{a.data_ptr(), b.data_ptr(), c.data_ptr(), c.size(0), c.size(1), a_t ? a.size(0) : a.size(1), row_stride(a), row_stride(b),
         row_stride(c), a_t, b_t, o.accumulate, dtype_of(a), dtype_of(c), o.tf32, policy.deterministic};
  g.varying = o.varying;
  if (o.bias.defined()) g.epilogue = GemmEpilogue::kBias, g.bias = o.bias.data_ptr();
  if (o.bias_grad.defined()) g.epilogue = GemmEpilogue::kBiasGrad, g.bias_grad = o.bias_grad.data_ptr();
  if (o.gelu_of.defined()) g.epilogue = GemmEpilogue::kGeluBias, g.aux = o.gelu_of.data_ptr();
  if (o.gelu_slope_of.defined()) g.epilogue = GemmEpilogue::kDgelu, g.aux = o.gelu_slope_of.data_ptr();
  return g;
}

// dw and, with it, db: the sums of dy come out of the same product.
void accumulate_dw(const Policy& policy, Weight& w, Weight* b, bool tf32, const at::Tensor& dy, const at::Tensor& x) {
  at::AutoDispatchBelowADInplaceOrView below;
  const bool wants_db = b != nullptr && b->wants_grad();
  GemmOptions o;
  o.accumulate = true, o.tf32 = tf32;
  if (w.wants_grad()) {
    if (wants_db) o.bias_grad = at::empty({dy.size(1)}, w.main_grad.options());
    gemm("linear_dw", dy, true, x, false, w.main_grad.view(w.value.sizes()), o, policy);
  }
  if (wants_db) b->main_grad.add_((o.bias_grad.defined() ? o.bias_grad : dy.sum(0, false, b->main_grad.scalar_type())).view(b->main_grad.sizes()));
  if (w.trainable) w.done();
  if (b != nullptr && b->trainable) b->done();
}

struct LinearNode final : Node {
  SavedTensor x;  // in the weight's dtype, [T, K]
  Weight *w = nullptr, *b = nullptr;
  WgradQueue* wgrad = nullptr;
  bool tf32 = false;
  std::vector<int64_t> shape;     // of x as it came
  at::ScalarType dtype{};         // of x as it came
  bool wants_dx = false;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].reshape({-1, w->value.size(0)}).contiguous();
    const at::Tensor x = unpack(this->x);
    if (w->trainable || (b != nullptr && b->trainable)) {
      if (wgrad != nullptr)
        wgrad->put([policy = policy, w = w, b = b, tf32 = tf32, dy, x] { accumulate_dw(policy, *w, b, tf32, dy, x); });
      else
        accumulate_dw(policy, *w, b, tf32, dy, x);
    }
    if (!wants_dx) return {at::Tensor()};
    at::Tensor dx = at::empty({dy.size(0), w->value.size(1)}, dy.options());
    GemmOptions o;
    o.tf32 = tf32;
    gemm("linear_dx", dy, false, w->value, false, dx, o, policy);
    return {dx.to(dtype).view(shape)};
  }
};

}  // namespace

void gemm(const char* op, const at::Tensor& a, bool a_t, const at::Tensor& b, bool b_t, at::Tensor c, const GemmOptions& o, const Policy& policy) {
  const Gemm g = describe_gemm(a, a_t, b, b_t, c, o, policy);
  const auto* chosen = select<Gemm>(op, kGemm, g, policy);
  if (chosen != nullptr) return run(*chosen, g, c, op);
  const auto t = wide(a);
  const at::Tensor left = a_t ? a.to(t).t() : a.to(t);
  at::Tensor product = at::mm(left, b_t ? b.to(t).t() : b.to(t));
  if (o.bias.defined()) product += o.bias.to(t);
  if (o.bias_grad.defined()) at::Tensor(o.bias_grad).copy_(left.sum(1));
  if (o.gelu_of.defined()) at::Tensor(o.gelu_of).copy_(product), product = reference::activation_and_slope(product, kernels::Act::kGeluTanh).first;
  if (o.gelu_slope_of.defined()) product *= reference::activation_and_slope(o.gelu_slope_of.to(t), kernels::Act::kGeluTanh).second;
  o.accumulate ? c.add_(product) : c.copy_(product);
}

at::Tensor linear(const at::Tensor& x, Weight& w, const GemmRecipe& recipe, WgradQueue* wgrad, const Policy& policy, Weight* b) {
  check_shape(x.dim() >= 1 && w.value.dim() == 2 && x.size(-1) == w.value.size(1), "linear", "last dim of x", describe(x),
              "[..., K] for w " + describe(w.value) + " = [N, K]");
  check_shape(x.size(-1) > 0, "linear", "last dim of x", "0", "1 or more");
  check_shape(x.is_contiguous(), "linear", "layout of x", describe(x), "contiguous");
  check_shape(w.value.is_contiguous(), "linear", "layout of w", describe(w.value), "contiguous");
  const bool to_f32 = recipe.kind == GemmRecipe::kF32 && w.value.scalar_type() == at::kFloat && x.scalar_type() != at::kDouble;
  check_shape(to_f32 || x.scalar_type() == w.value.scalar_type(), "linear", "dtype of x", describe(x), "that of w, " + describe(w.value));
  if (b != nullptr)
    check_shape(b->value.dim() == 1 && b->value.size(0) == w.value.size(0) && b->value.scalar_type() == w.value.scalar_type() && b->value.is_contiguous(),
                "linear", "b", describe(b->value), "[" + std::to_string(w.value.size(0)) + "] contiguous in the dtype of w " + describe(w.value));
  if (recipe.is_f8()) return linear_f8(x, w, recipe, wgrad, policy, b);

  auto node = make_node<LinearNode>(policy, {x}, w.wants_grad() || (b != nullptr && b->wants_grad()));
  at::AutoDispatchBelowADInplaceOrView below;
  const at::Tensor x2 = x.detach().reshape({x.numel() / x.size(-1), x.size(-1)}).to(w.value.scalar_type());
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = w.value.size(0);
  at::Tensor y = at::empty({x2.size(0), w.value.size(0)}, x2.options());
  GemmOptions o;
  o.tf32 = recipe.kind == GemmRecipe::kTf32;
  if (b != nullptr) o.bias = b->value;
  gemm("linear", x2, false, w.value, true, y, o, policy);
  y = y.view(shape);
  if (node)
    node->x = save(x2), node->w = &w, node->b = b, node->wgrad = wgrad, node->tf32 = o.tf32, node->shape = x.sizes().vec(), node->dtype = x.scalar_type(),
    node->wants_dx = x.requires_grad();
  return attach(node, y);
}

}  // namespace weft::ops
