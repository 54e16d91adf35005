#include "ops/aten.h"

#include "ops/linear.h"

#include "kernels/gemm/gemm.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace reference {

at::Tensor linear(const at::Tensor& x, const at::Tensor& w) {
  const auto t = wide(x);
  return at::matmul(x.to(t), w.to(t).t()).to(x.scalar_type());
}

std::pair<at::Tensor, at::Tensor> linear_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w) {
  const auto t = wide(x);
  const at::Tensor g = dy.reshape({-1, w.size(0)}).to(t), v = x.reshape({-1, w.size(1)}).to(t);
  return {at::mm(g, w.to(t)).view(x.sizes()).to(x.scalar_type()), at::mm(g.t(), v)};
}

}  // namespace reference

namespace {

using kernels::Gemm;

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
  if (g.k == 0) {
    if (!g.accumulate) c.zero_();
    return;
  }
  at::Tensor a = g.a_transposed ? borrowed(g.a, g.k, g.m, g.lda, g.dtype, kCuda).t() : borrowed(g.a, g.m, g.k, g.lda, g.dtype, kCuda);
  at::Tensor b = g.b_transposed ? borrowed(g.b, g.n, g.k, g.ldb, g.dtype, kCuda).t() : borrowed(g.b, g.k, g.n, g.ldb, g.dtype, kCuda);
  if (g.dtype == g.out_dtype) {
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
  return {};
}

constexpr Candidate<Gemm> kGemm[] = {
    {"aten", supports_aten<false>, nullptr, run_aten<false>},
    {"aten_cuda", supports_aten<true>, nullptr, run_aten<true>},
};

Gemm describe_gemm(const at::Tensor& a, bool a_t, const at::Tensor& b, bool b_t, const at::Tensor& c, bool accumulate) {
  return {a.data_ptr(), b.data_ptr(), c.data_ptr(), c.size(0), c.size(1), a_t ? a.size(0) : a.size(1), a.stride(0), b.stride(0), c.stride(0),
          a_t, b_t, accumulate, dtype_of(a), dtype_of(c)};
}

void accumulate_dw(const Policy& policy, Weight& w, const at::Tensor& dy, const at::Tensor& x) {
  at::AutoDispatchBelowADInplaceOrView below;
  if (!w.trainable) return;
  if (w.main_grad.defined()) gemm("linear_dw", dy, true, x, false, w.main_grad.view(w.value.sizes()), true, policy);
  w.done();
}

struct LinearNode final : Node {
  SavedTensor x;  // in the weight's dtype, [T, K]
  Weight* w = nullptr;
  WgradQueue* wgrad = nullptr;
  std::vector<int64_t> shape;     // of x as it came
  at::ScalarType dtype{};         // of x as it came
  bool wants_dx = false;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].reshape({-1, w->value.size(0)}).contiguous();
    const at::Tensor x = unpack(this->x);
    if (w->trainable) {
      if (wgrad != nullptr)
        wgrad->put([policy = policy, w = w, dy, x] { accumulate_dw(policy, *w, dy, x); });
      else
        accumulate_dw(policy, *w, dy, x);
    }
    if (!wants_dx) return {at::Tensor()};
    at::Tensor dx = at::empty({dy.size(0), w->value.size(1)}, dy.options());
    gemm("linear_dx", dy, false, w->value, false, dx, false, policy);
    return {dx.to(dtype).view(shape)};
  }
};

}  // namespace

void gemm(const char* op, const at::Tensor& a, bool a_t, const at::Tensor& b, bool b_t, at::Tensor c, bool accumulate, const Policy& policy) {
  const Gemm g = describe_gemm(a, a_t, b, b_t, c, accumulate);
  const auto* chosen = select<Gemm>(op, kGemm, g, policy);
  if (chosen != nullptr) return run(*chosen, g, c);
  const auto t = wide(a);
  const at::Tensor product = at::mm(a_t ? a.to(t).t() : a.to(t), b_t ? b.to(t).t() : b.to(t));
  accumulate ? c.add_(product) : c.copy_(product);
}

at::Tensor linear(const at::Tensor& x, Weight& w, const GemmRecipe& recipe, WgradQueue* wgrad, const Policy& policy) {
  check_shape(x.dim() >= 1 && w.value.dim() == 2 && x.size(-1) == w.value.size(1), "linear", "last dim of x", describe(x),
              "[..., K] for w " + describe(w.value) + " = [N, K]");
  check_shape(x.is_contiguous(), "linear", "layout of x", describe(x), "contiguous");
  check_shape(w.value.is_contiguous(), "linear", "layout of w", describe(w.value), "contiguous");
  const bool to_f32 = recipe.kind == GemmRecipe::kF32 && w.value.scalar_type() == at::kFloat && x.scalar_type() != at::kDouble;
  check_shape(to_f32 || x.scalar_type() == w.value.scalar_type(), "linear", "dtype of x", describe(x), "that of w, " + describe(w.value));
  if (recipe.kind > GemmRecipe::kF32) throw UnsupportedError("linear: no candidate takes an FP8 recipe on " + std::string(x.is_cuda() ? "CUDA" : "the CPU"));

  auto node = make_node<LinearNode>(policy, {x}, w.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  const at::Tensor x2 = x.detach().reshape({x.numel() / std::max<int64_t>(x.size(-1), 1), x.size(-1)}).to(w.value.scalar_type());
  std::vector<int64_t> shape = x.sizes().vec();
  if (x.size(-1) == 0) check_shape(false, "linear", "last dim of x", "0", "1 or more");
  shape.back() = w.value.size(0);
  at::Tensor y = at::empty({x2.size(0), w.value.size(0)}, x2.options());
  gemm("linear", x2, false, w.value, true, y, false, policy);
  y = y.view(shape);
  if (node)
    node->x = save(x2), node->w = &w, node->wgrad = wgrad, node->shape = x.sizes().vec(), node->dtype = x.scalar_type(),
    node->wants_dx = x.requires_grad();
  return attach(node, y);
}

}  // namespace weft::ops
