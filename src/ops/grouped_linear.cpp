#include "ops/aten.h"

#include "ops/grouped_linear.h"

#include "kernels/grouped_gemm/grouped_gemm.h"
#include "ops/linear.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

// Calls each(group, first row, rows) for every group, empty ones too. Reads `ends` on the host.
template <class F>
void for_groups(const at::Tensor& ends_E, F&& each) {
  const at::Tensor ends = ends_E.cpu();
  int64_t first = 0;
  for (int64_t e = 0; e < ends.numel(); ++e) {
    const int64_t end = ends.data_ptr<int32_t>()[e];
    each(e, first, end - first);
    first = end;
  }
}

}  // namespace

namespace reference {

at::Tensor grouped_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& ends_E) {
  at::Tensor y = at::zeros({x.size(0), w.size(1)}, x.options());
  for_groups(ends_E, [&](int64_t e, int64_t first, int64_t rows) {
    if (rows > 0) y.narrow(0, first, rows).copy_(at::mm(x.narrow(0, first, rows).to(wide(x)), w[e].to(wide(x)).t()));
  });
  return y;
}

std::pair<at::Tensor, at::Tensor> grouped_linear_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, const at::Tensor& ends_E) {
  at::Tensor dx = at::zeros_like(x), dw = at::zeros(w.sizes(), w.options().dtype(wide(x)));
  for_groups(ends_E, [&](int64_t e, int64_t first, int64_t rows) {
    if (rows == 0) return;
    const at::Tensor g = dy.narrow(0, first, rows).to(wide(x));
    dx.narrow(0, first, rows).copy_(at::mm(g, w[e].to(wide(x))));
    dw[e].copy_(at::mm(g.t(), x.narrow(0, first, rows).to(wide(x))));
  });
  return {dx, dw};
}

}  // namespace reference

namespace {

using kernels::GroupedGemm;

// The shared GEMM, group by group: CPU only, where the sizes are at hand.
void run_gemms(const GroupedGemm& g, const kernels::Launch&) {
  Policy policy;
  policy.device = this_cpu();
  const auto type = scalar_type(g.dtype);
  const auto matrix = [&](const void* p, int64_t first, int64_t rows, int64_t cols, at::ScalarType t) {
    char* at = static_cast<char*>(const_cast<void*>(p)) + first * cols * static_cast<int64_t>(c10::elementSize(t));
    return at::from_blob(at, {rows, cols}, t);
  };
  const at::ScalarType out_type = scalar_type(g.out_dtype);
  GemmOptions routed;
  routed.varying = true;
  int64_t first = 0;
  for (int32_t e = 0; e < g.groups; ++e) {
    const int64_t rows = g.ends[e] - first, begin = first;
    first = g.ends[e];
    switch (g.kind) {
      case GroupedGemm::kForward:
        if (rows > 0) gemm("grouped_linear", matrix(g.a, begin, rows, g.k, type), false, matrix(g.w, int64_t{e} * g.n, g.n, g.k, type), true,
             matrix(g.out, begin, rows, g.n, out_type), routed, policy);
        break;
      case GroupedGemm::kDgrad:
        if (rows > 0) gemm("grouped_linear_dx", matrix(g.a, begin, rows, g.n, type), false, matrix(g.w, int64_t{e} * g.n, g.n, g.k, type), false,
             matrix(g.out, begin, rows, g.k, out_type), routed, policy);
        break;
      case GroupedGemm::kWgrad: {
        at::Tensor out = matrix(g.out, int64_t{e} * g.n, g.n, g.k, out_type);
        if (rows > 0)
          gemm("grouped_linear_dw", matrix(g.a, begin, rows, g.n, type), true, matrix(g.w, begin, rows, g.k, type), false, out, g.accumulate, policy);
        else if (!g.accumulate)
          out.zero_();
      }
    }
  }
  if (g.kind == GroupedGemm::kWgrad || first == g.rows) return;
  const int32_t cols = g.kind == GroupedGemm::kForward ? g.n : g.k;
  matrix(g.out, first, g.rows - first, cols, out_type).zero_();  // rows of no group
}

constexpr Candidate<GroupedGemm> kGrouped[] = {
    {"gemm_loop",
     [](const GroupedGemm& g, const Policy& p) -> kernels::Support {
       if (p.device.kind != kernels::Device::kCpu) return {"runs on the CPU only: it reads the group sizes"};
       if (g.dtype != DType::kF32 && g.dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
       return {};
     },
     nullptr, run_gemms},
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_grouped_gemm_sm90>, kernels::workspace_grouped_gemm_sm90,
     kernels::grouped_gemm_sm90},
    {"sm90_general", on_device<kernels::supports_grouped_gemm_general_sm90>, nullptr,
     kernels::grouped_gemm_general_sm90},
#endif
};

GroupedGemm describe(GroupedGemm::Kind kind, const at::Tensor& a, const at::Tensor& w, const at::Tensor& ends, const at::Tensor& out, int64_t n, int64_t k,
                     bool accumulate) {
  return {kind, a.data_ptr(), w.data_ptr(), static_cast<const int32_t*>(address(ends)), address(out), a.size(0), static_cast<int32_t>(ends.numel()),
          static_cast<int32_t>(n), static_cast<int32_t>(k), dtype_of(a), out.defined() ? dtype_of(out) : dtype_of(a), accumulate};
}

struct GroupedLinearNode final : Node {
  SavedTensor x_RK;
  at::Tensor ends_E;
  Weight* w = nullptr;
  WgradQueue* wgrad = nullptr;
  bool wants_dx = false;

  static void add_dw(const Policy& policy, Weight& w, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& ends) {
    if (w.main_grad.defined()) {
      at::Tensor out = w.main_grad.view(w.value.sizes());
      const GroupedGemm g = describe(GroupedGemm::kWgrad, dy, x, ends, out, w.value.size(1), w.value.size(2), true);
      if (const auto* c = select<GroupedGemm>("grouped_linear_dw", kGrouped, g, policy))
        run(*c, g, dy);
      else
        out.add_(reference::grouped_linear_bwd(dy, x, w.value, ends).second);
    }
    w.done();
  }

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous(), x = unpack(x_RK);
    if (w->trainable) {
      if (wgrad != nullptr)
        wgrad->put([policy = policy, w = w, dy, x, ends = ends_E] { add_dw(policy, *w, dy, x, ends); });
      else
        add_dw(policy, *w, dy, x, ends_E);
    }
    if (!wants_dx) return {at::Tensor()};
    at::Tensor dx = at::empty_like(x);
    const GroupedGemm g = describe(GroupedGemm::kDgrad, dy, w->value, ends_E, dx, w->value.size(1), w->value.size(2), false);
    if (const auto* c = select<GroupedGemm>("grouped_linear_dx", kGrouped, g, policy))
      run(*c, g, dy);
    else
      dx = reference::grouped_linear_bwd(dy, x, w->value, ends_E).first;
    return {dx};
  }
};

}  // namespace

at::Tensor grouped_linear(const at::Tensor& x, Weight& w, const at::Tensor& ends, const GemmRecipe& recipe, WgradQueue* wgrad, const Policy& policy) {
  check_shape(w.value.dim() == 3 && w.value.is_contiguous(), "grouped_linear", "w", ops::describe(w.value), "[E, N, K] contiguous");
  check_shape(x.dim() == 2 && x.is_contiguous() && x.size(1) == w.value.size(2) && x.scalar_type() == w.value.scalar_type(), "grouped_linear", "x",
              ops::describe(x), "[R, " + std::to_string(w.value.size(2)) + "] contiguous in the dtype of w " + ops::describe(w.value));
  check_shape(ends.dim() == 1 && ends.scalar_type() == at::kInt && ends.numel() == w.value.size(0), "grouped_linear", "ends", ops::describe(ends),
              "[" + std::to_string(w.value.size(0)) + "] i32");
  if (recipe.is_f8()) throw UnsupportedError("grouped_linear: no candidate takes an FP8 recipe");
  auto node = make_node<GroupedLinearNode>(policy, {x}, w.wants_grad());
  const at::NoGradGuard no_grad;
  at::Tensor y = at::empty({x.size(0), w.value.size(1)}, x.options().requires_grad(false));
  const GroupedGemm g = describe(GroupedGemm::kForward, x, w.value, ends, y, w.value.size(1), w.value.size(2), false);
  if (const auto* c = select<GroupedGemm>("grouped_linear", kGrouped, g, policy))
    run(*c, g, x);
  else
    y = reference::grouped_linear(x.detach(), w.value, ends);
  if (node) node->x_RK = save(x), node->ends_E = ends, node->w = &w, node->wgrad = wgrad, node->wants_dx = x.requires_grad();
  return attach(node, y);
}

}  // namespace weft::ops
