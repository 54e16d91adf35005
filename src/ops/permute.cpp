#include "ops/aten.h"

#include "ops/permute.h"

#include "kernels/permute/permute.h"
#include "ops/address.h"
#include "ops/node.h"
#include "ops/run.h"

namespace weft::ops {
namespace reference {

ExpertPlan plan_experts(const at::Tensor& indices_Tk, int64_t experts, int64_t align) {
  const at::Tensor flat = indices_Tk.flatten().to(at::kLong);
  ExpertPlan p;
  p.rows = flat.numel() + experts * (align - 1);
  const at::Tensor counts = at::zeros({experts}, flat.options()).index_add(0, flat.clamp_min(0), (flat >= 0).to(at::kLong));
  const at::Tensor padded = (counts + align - 1).div(align, "floor") * align, ends = padded.cumsum(0);
  // Slots in expert order; dropped ones sort first and are cut off.
  const at::Tensor order = std::get<1>(at::sort(flat, /*stable=*/true, 0, false)), sorted = flat.index_select(0, order);
  const int64_t dropped = (flat < 0).sum().item<int64_t>();
  const at::Tensor slots = order.narrow(0, dropped, flat.numel() - dropped), expert = sorted.narrow(0, dropped, slots.numel());
  const at::Tensor first_slot = counts.cumsum(0) - counts, first_row = ends - padded;
  const at::Tensor rows = first_row.index_select(0, expert) + at::arange(slots.numel(), flat.options()) - first_slot.index_select(0, expert);
  p.counts_E = counts.to(at::kInt), p.ends_E = ends.to(at::kInt);
  p.row_of_slot_Tk = at::full({flat.numel()}, -1, flat.options()).index_copy(0, slots, rows).to(at::kInt).view(indices_Tk.sizes());
  p.slot_of_row_R = at::full({p.rows}, -1, flat.options()).index_copy(0, rows, slots).to(at::kInt);
  return p;
}

namespace {
at::Tensor token_of_row(const ExpertPlan& p) { return p.slot_of_row_R.to(at::kLong).clamp_min(0).div(p.row_of_slot_Tk.size(1), "floor"); }
at::Tensor real_rows(const ExpertPlan& p) { return (p.slot_of_row_R >= 0).unsqueeze(-1); }
at::Tensor rows_of_tokens(const at::Tensor& x_RD, const ExpertPlan& p) {  // [T, k, D], zeros for dropped slots
  const at::Tensor rows = p.row_of_slot_Tk.to(at::kLong);
  return x_RD.index_select(0, rows.clamp_min(0).flatten()).view({rows.size(0), rows.size(1), x_RD.size(1)}) * (rows >= 0).unsqueeze(-1);
}
}  // namespace

at::Tensor permute(const at::Tensor& x, const ExpertPlan& p) { return x.index_select(0, token_of_row(p)).masked_fill(~real_rows(p), 0); }
at::Tensor row_weights(const at::Tensor& w, const ExpertPlan& p) {
  return w.flatten().index_select(0, p.slot_of_row_R.to(at::kLong).clamp_min(0)).masked_fill(p.slot_of_row_R < 0, 0);
}
at::Tensor permute_bwd(const at::Tensor& dy, const ExpertPlan& p) { return rows_of_tokens(dy.to(wide(dy)), p).sum(1).to(dy.scalar_type()); }

at::Tensor unpermute(const at::Tensor& x, const at::Tensor& weights, const ExpertPlan& p) {
  return (rows_of_tokens(x.to(wide(x)), p) * weights.to(wide(x)).unsqueeze(-1)).sum(1).to(x.scalar_type());
}

std::pair<at::Tensor, at::Tensor> unpermute_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weights, const ExpertPlan& p) {
  const at::Tensor g = dy.to(wide(dy));
  const at::Tensor dweights = (rows_of_tokens(x.to(wide(x)), p) * g.unsqueeze(1)).sum(-1).to(weights.scalar_type());
  const at::Tensor w_R = weights.to(wide(x)).flatten().index_select(0, p.slot_of_row_R.to(at::kLong).clamp_min(0)).unsqueeze(-1);
  return {(g.index_select(0, token_of_row(p)) * w_R).masked_fill(~real_rows(p), 0).to(x.scalar_type()), dweights};
}

}  // namespace reference

namespace {

using kernels::PermuteFwd;
using kernels::PermutePlan;
using kernels::UnpermuteBwd;
using kernels::UnpermuteFwd;

constexpr Candidate<PermutePlan> kPlan[] = {
    {"cpu", on_device<kernels::supports_permute_plan_cpu>, nullptr, kernels::permute_plan_cpu},
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_permute_plan_sm90>, kernels::workspace_permute_plan_sm90, kernels::permute_plan_sm90},
#endif
};
constexpr Candidate<PermuteFwd> kPermute[] = {
    {"cpu", on_device<kernels::supports_permute_fwd_cpu>, nullptr, kernels::permute_fwd_cpu},
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_permute_fwd_sm90>, nullptr, kernels::permute_fwd_sm90},
#endif
};
constexpr Candidate<UnpermuteFwd> kUnpermute[] = {
    {"cpu", on_device<kernels::supports_unpermute_fwd_cpu>, nullptr, kernels::unpermute_fwd_cpu},
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_unpermute_fwd_sm90>, nullptr, kernels::unpermute_fwd_sm90},
#endif
};
constexpr Candidate<UnpermuteBwd> kUnpermuteBwd[] = {
    {"cpu", on_device<kernels::supports_unpermute_bwd_cpu>, nullptr, kernels::unpermute_bwd_cpu},
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_unpermute_bwd_sm90>, nullptr, kernels::unpermute_bwd_sm90},
#endif
};

int32_t slots(const ExpertPlan& p) { return static_cast<int32_t>(p.row_of_slot_Tk.size(1)); }

// sum_j w * x[row of (t, j)], with or without weights: the forward of unpermute and the backward of permute.
at::Tensor gather_rows(const char* op, const at::Tensor& x, const at::Tensor& weights, const ExpertPlan& plan, const Policy& policy) {
  UnpermuteFwd a{x.data_ptr(), floats(weights),
                 address_of<int32_t>(plan.row_of_slot_Tk), nullptr, plan.row_of_slot_Tk.size(0), slots(plan), static_cast<int32_t>(x.size(1)), dtype_of(x)};
  const auto* c = select<UnpermuteFwd>(op, kUnpermute, a, policy);
  if (c == nullptr) return weights.defined() ? reference::unpermute(x, weights, plan) : reference::permute_bwd(x, plan);
  at::Tensor y = at::empty({a.tokens, x.size(1)}, x.options().requires_grad(false));
  a.y = y.data_ptr();
  run(*c, a, x);
  return y;
}

// Each slot as a token of its own: what a gather of one value a slot wants.
ExpertPlan by_slot(const ExpertPlan& plan) {
  ExpertPlan p = plan;
  p.row_of_slot_Tk = plan.row_of_slot_Tk.view({-1, 1});
  return p;
}

at::Tensor rows_to_experts(const char* op, const at::Tensor& x, const at::Tensor& weights, at::Tensor& row_weights, const ExpertPlan& plan, const Policy& policy) {
  if (weights.defined()) row_weights = at::empty({plan.rows}, weights.options().requires_grad(false));
  PermuteFwd a{x.data_ptr(), floats(weights), address_of<int32_t>(plan.slot_of_row_R), nullptr, floats(row_weights),
               plan.rows, slots(plan), static_cast<int32_t>(x.size(1)), dtype_of(x), address_of<int32_t>(plan.row_of_slot_Tk), plan.row_of_slot_Tk.size(0)};
  const auto* c = select<PermuteFwd>(op, kPermute, a, policy);
  if (c == nullptr) {
    if (weights.defined()) row_weights = reference::row_weights(weights, plan);
    return reference::permute(x, plan);
  }
  at::Tensor y = at::empty({plan.rows, x.size(1)}, x.options().requires_grad(false));
  a.y = y.data_ptr();
  run(*c, a, x);
  return y;
}

struct PermuteNode final : Node {  // outputs: rows, and their weights where there are any
  ExpertPlan plan;
  variable_list apply(variable_list&& grads) override {
    at::Tensor dx, dweights;
    if (grads[0].defined()) dx = gather_rows("permute_bwd", grads[0].contiguous(), {}, plan, policy);
    if (grads.size() > 1 && grads[1].defined())
      dweights = gather_rows("permute_bwd_weights", grads[1].contiguous().view({-1, 1}), {}, by_slot(plan), policy).view(plan.row_of_slot_Tk.sizes());
    return grads.size() > 1 ? variable_list{dx, dweights} : variable_list{dx};
  }
};

struct SumNode final : Node {  // of unpermute without weights: its backward is permute
  ExpertPlan plan;
  variable_list apply(variable_list&& grads) override {
    at::Tensor none;
    return {rows_to_experts("unpermute_bwd", grads[0].contiguous(), {}, none, plan, policy)};
  }
};

struct UnpermuteNode final : Node {
  SavedTensor x_RD, weights_Tk;
  ExpertPlan plan;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous(), x = unpack(x_RD), weights = unpack(weights_Tk);
    UnpermuteBwd a{dy.data_ptr(), x.data_ptr(), floats(weights),
                   address_of<int32_t>(plan.slot_of_row_R), nullptr, nullptr, plan.rows, slots(plan), static_cast<int32_t>(x.size(1)), dtype_of(x),
                   address_of<int32_t>(plan.row_of_slot_Tk), plan.row_of_slot_Tk.size(0)};
    const auto* c = select<UnpermuteBwd>("unpermute_bwd", kUnpermuteBwd, a, policy);
    if (c == nullptr) {
      auto [dx, dweights] = reference::unpermute_bwd(dy, x, weights, plan);
      return {dx, dweights};
    }
    at::Tensor dx = at::empty_like(x), dweights = at::zeros_like(weights);
    a.dx = dx.data_ptr(), a.dprobs = address_of<float>(dweights);
    run(*c, a, x);
    return {dx, dweights};
  }
};

}  // namespace

namespace {

void check_tokens(const at::Tensor& x, const ExpertPlan& plan) {
  check_shape(x.dim() == 2 && x.is_contiguous() && x.size(0) == plan.row_of_slot_Tk.size(0), "permute", "x", describe(x),
              "[" + std::to_string(plan.row_of_slot_Tk.size(0)) + ", D] contiguous");
}
void check_rows(const at::Tensor& x, const ExpertPlan& plan) {
  check_shape(x.dim() == 2 && x.is_contiguous() && x.size(0) == plan.rows, "unpermute", "x", describe(x), "[" + std::to_string(plan.rows) + ", D] contiguous");
}
void check_weights(const char* op, const at::Tensor& x, const at::Tensor& weights, const ExpertPlan& plan) {
  check_shape(weights.sizes() == plan.row_of_slot_Tk.sizes() && weights.scalar_type() == wide(x) && weights.is_contiguous(), op, "weights",
              describe(weights), describe(plan.row_of_slot_Tk) + " in fp32 (fp64 for fp64)");
}

}  // namespace

ExpertPlan plan_experts(const at::Tensor& indices_Tk, int64_t experts, int64_t align, const Policy& policy) {
  check_shape(indices_Tk.dim() == 2 && indices_Tk.scalar_type() == at::kInt && indices_Tk.is_contiguous(), "plan_experts", "indices",
              describe(indices_Tk), "[T, k] i32 contiguous");
  check_shape(align >= 1, "plan_experts", "align", std::to_string(align), "1 or more");
  const int64_t rows = indices_Tk.numel() + experts * (align - 1);
  PermutePlan a{address_of<int32_t>(indices_Tk), nullptr, nullptr, nullptr, nullptr, indices_Tk.size(0), rows, static_cast<int32_t>(indices_Tk.size(1)),
                static_cast<int32_t>(experts), static_cast<int32_t>(align)};
  const auto* c = select<PermutePlan>("plan_experts", kPlan, a, policy);
  if (c == nullptr) return reference::plan_experts(indices_Tk, experts, align);
  const auto ints = indices_Tk.options();
  ExpertPlan p{at::empty({experts}, ints), {}, at::empty_like(indices_Tk), at::empty({rows}, ints), rows};
  const at::Tensor offsets = at::empty({experts + 1}, ints);
  a.counts = address_of<int32_t>(p.counts_E), a.offsets = address_of<int32_t>(offsets);
  a.row_of_slot = address_of<int32_t>(p.row_of_slot_Tk), a.slot_of_row = address_of<int32_t>(p.slot_of_row_R);
  run(*c, a, indices_Tk);
  p.ends_E = offsets.narrow(0, 1, experts);
  return p;
}

at::Tensor permute(const at::Tensor& x, const ExpertPlan& plan, const Policy& policy) {
  check_tokens(x, plan);
  auto node = make_node<PermuteNode>(policy, {x}, false);
  const at::NoGradGuard no_grad;
  at::Tensor none;
  at::Tensor y = rows_to_experts("permute", x.detach(), {}, none, plan, policy);
  if (node) node->plan = plan;
  return attach(node, y);
}

Permuted permute(const at::Tensor& x, const at::Tensor& weights, const ExpertPlan& plan, const Policy& policy) {
  check_tokens(x, plan), check_weights("permute", x, weights, plan);
  auto node = make_node<PermuteNode>(policy, {x, weights}, false);
  const at::NoGradGuard no_grad;
  Permuted out;
  out.rows_RD = rows_to_experts("permute", x.detach(), weights.detach(), out.weights_R, plan, policy);
  if (node) node->plan = plan;
  return {attach(node, out.rows_RD), attach(node, out.weights_R)};
}

at::Tensor unpermute(const at::Tensor& x, const ExpertPlan& plan, const Policy& policy) {
  check_rows(x, plan);
  auto node = make_node<SumNode>(policy, {x}, false);
  const at::NoGradGuard no_grad;
  at::Tensor y = gather_rows("unpermute", x.detach(), {}, plan, policy);
  if (node) node->plan = plan;
  return attach(node, y);
}

at::Tensor unpermute(const at::Tensor& x, const at::Tensor& weights, const ExpertPlan& plan, const Policy& policy) {
  check_rows(x, plan), check_weights("unpermute", x, weights, plan);
  auto node = make_node<UnpermuteNode>(policy, {x, weights}, false);
  const at::NoGradGuard no_grad;
  const at::Tensor y = gather_rows("unpermute", x.detach(), weights.detach(), plan, policy);
  if (node) node->x_RD = save(x), node->weights_Tk = save(weights), node->plan = plan;
  return attach(node, y);
}

}  // namespace weft::ops
