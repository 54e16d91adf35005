#include "ops/aten.h"

#include "ops/grouped_linear.h"
#include "ops/mixed_gemm.h"
#include "ops/node.h"
#include "ops/permute.h"
#include "ops/route.h"

#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

at::TensorOptions options_of(const Build& b) { return at::TensorOptions().dtype(b.dtype).device(b.device); }
at::ScalarType wide_of(const Build& b) { return b.dtype == at::kDouble ? at::kDouble : at::kFloat; }

Case route_row(std::string name, int64_t tokens, int64_t dim, int64_t experts, RouteOptions o, bool bias, bool padding, bool small) {
  Case c{"route", std::move(name), {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           RouteOptions with = o;
           const auto wide = at::TensorOptions().dtype(wide_of(b)).device(b.device);
           if (bias) with.bias_E = at::randn({experts}, wide) * 0.1;
           if (padding) with.valid_T = at::arange(tokens, at::TensorOptions().device(b.device)).remainder(3).ne(1);
           Instance i;
           i.inputs = {at::randn({tokens, dim}, options_of(b))};
           i.weights.push_back({"router", at::randn({experts, dim}, wide) / std::sqrt(static_cast<double>(dim)), {}});
           i.op = [with](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             const Routing r = route(x[0], w[0], with, p);
             std::vector<at::Tensor> out{r.weights_Tk, r.indices_Tk, r.counts_E};
             if (r.aux_loss.defined()) out.push_back(r.aux_loss);
             return out;
           };
           const double t = static_cast<double>(tokens), d = static_cast<double>(dim), e = static_cast<double>(experts);
           i.cost = {2 * t * d * e, t * d * static_cast<double>(i.inputs[0].element_size()), 4 * t * d * e, 2 * t * d * static_cast<double>(i.inputs[0].element_size())};
           return i;
         }};
  c.grad = small, c.check = small, c.perf = !small;
  return c;
}

// A router's product alone, as route makes it, beside the library's in fp32 on widened activations.
struct RouterProduct final : Node {
  SavedTensor x;
  Weight* w = nullptr;
  variable_list apply(variable_list&& grads) override {
    const at::Tensor x_TD = unpack(x), d = grads[0].contiguous();
    if (w->wants_grad()) mixed_dw("router_product_dw", d, x_TD, w->main_grad.view(w->value.sizes()), policy), w->done();
    return {mixed_dx("router_product_dx", d, w->value, x_TD.scalar_type(), policy)};
  }
};

Case product_row(std::string name, int64_t tokens, int64_t dim, int64_t experts, bool small) {
  Case c{"router_product", std::move(name), {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {at::randn({tokens, dim}, options_of(b))};
           i.weights.push_back({"router", at::randn({experts, dim}, at::TensorOptions().dtype(wide_of(b)).device(b.device)) / std::sqrt(static_cast<double>(dim)), {}});
           i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             auto node = make_node<RouterProduct>(p, {x[0]}, w[0].wants_grad());
             at::AutoDispatchBelowADInplaceOrView below;
             const at::Tensor y = mixed_forward("router_product", x[0].detach(), w[0].value, p);
             if (node) node->x = save(x[0]), node->w = &w[0];
             return std::vector<at::Tensor>{attach(node, y)};
           };
           i.peer = "at::linear in fp32";
           i.plain = i.peer_op = [](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) { return std::vector<at::Tensor>{at::linear(x[0].to(w[0].scalar_type()), w[0])}; };
           const double t = static_cast<double>(tokens), d = static_cast<double>(dim), e = static_cast<double>(experts), size = static_cast<double>(i.inputs[0].element_size());
           i.cost = {2 * t * d * e, t * d * size + 4 * t * e, 4 * t * d * e, 2 * t * d * size + 8 * t * e};
           return i;
         }};
  c.grad = small, c.check = false, c.perf = !small;  // route's rows compare its candidates
  return c;
}

RouteOptions with(RouterScore score, int64_t k, double aux = 0, double z = 0, int64_t groups = 1, int64_t top_groups = 1, double scaling = 1) {
  RouteOptions o;
  o.score = score, o.k = k, o.aux_loss = aux, o.z_loss = z, o.groups = groups, o.top_groups = top_groups, o.scaling = scaling;
  return o;
}

// Any assignment with an expert that gets nothing and a dropped slot.
at::Tensor some_indices(int64_t tokens, int64_t k, int64_t experts, at::Device device) {
  const at::Tensor first = at::randint(0, std::max<int64_t>(experts - 1, 1), {tokens, 1}, at::TensorOptions().dtype(at::kLong).device(device));
  at::Tensor all = first;
  for (int64_t j = 1; j < k; ++j) all = at::cat({all, (first + j).remainder(std::max<int64_t>(experts - 1, 1))}, 1);
  if (tokens > 2) all.index_put_({at::tensor({1}, at::kLong).to(device), at::tensor({k - 1}, at::kLong).to(device)}, at::tensor(-1, at::kLong).to(device));
  return all.to(at::kInt).contiguous();
}

Case permute_row(std::string name, int64_t tokens, int64_t k, int64_t experts, int64_t dim, int64_t align, bool back, bool small) {
  Case c{back ? "unpermute" : "permute", std::move(name), {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const at::Tensor indices = some_indices(tokens, k, experts, b.device);
           Policy any;
           any.reference_allowed = {"*"}, any.only = "reference";
           const ExpertPlan plan = plan_experts(indices, experts, align, any);
           Instance i;
           if (back)
             i.inputs = {at::randn({plan.rows, dim}, options_of(b)), at::rand({tokens, k}, options_of(b).dtype(wide_of(b)))};
           else
             i.inputs = {at::randn({tokens, dim}, options_of(b))};
           i.op = [plan, back](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             return std::vector<at::Tensor>{back ? unpermute(x[0], x[1].to(x[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat), plan, p) : permute(x[0], plan, p)};
           };
           const double moved = static_cast<double>((tokens * k + tokens) * dim) * static_cast<double>(i.inputs[0].element_size());
           i.cost = {0, moved, 0, back ? 2 * moved : moved};
           return i;
         }};
  c.grad = small, c.check = true, c.perf = !small;
  return c;
}

// Permute with weights, a function of each row, unpermute without: how the layer uses them.
Case weighted_row(std::string name, int64_t tokens, int64_t k, int64_t experts, int64_t dim, int64_t align, bool small) {
  Case c{"permute", std::move(name), {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const at::Tensor indices = some_indices(tokens, k, experts, b.device);
           Policy any;
           any.reference_allowed = {"*"}, any.only = "reference";
           const ExpertPlan plan = plan_experts(indices, experts, align, any);
           Instance i;
           i.inputs = {at::randn({tokens, dim}, options_of(b)), at::rand({tokens, k}, options_of(b).dtype(wide_of(b)))};
           i.op = [plan](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             const Permuted r = permute(x[0], x[1].to(x[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat), plan, p);
             return std::vector<at::Tensor>{r.rows_RD, r.weights_R, unpermute(r.rows_RD, plan, p)};
           };
           const double moved = static_cast<double>((2 * tokens * k + 2 * tokens) * dim) * static_cast<double>(i.inputs[0].element_size());
           i.cost = {0, moved, 0, moved};
           return i;
         }};
  c.grad = small, c.check = true, c.perf = !small;
  return c;
}

Case grouped_row(std::string name, std::vector<int32_t> counts, int64_t spare, int64_t n, int64_t k, bool small) {
  Case c{"grouped_linear", std::move(name), {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           std::vector<int32_t> ends;
           int32_t rows = 0;
           for (int32_t m : counts) ends.push_back(rows += m);
           const at::Tensor ends_E = at::tensor(ends, at::kInt).to(b.device.is_meta() ? at::Device(at::kCPU) : b.device);  // read where tensors have no data, too
           Instance i;
           i.inputs = {at::randn({rows + spare, k}, options_of(b))};
           i.weights.push_back({"experts", at::randn({static_cast<int64_t>(counts.size()), n, k}, options_of(b)) / std::sqrt(static_cast<double>(k)), {}});
           i.op = [ends_E](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             return std::vector<at::Tensor>{grouped_linear(x[0], w[0], ends_E, {}, nullptr, p)};
           };
           i.plain = [ends](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) {
             std::vector<at::Tensor> parts;  // rounds dw to the dtype, as a plain loop of matmuls does
             int32_t first = 0;
             for (size_t e = 0; e < ends.size(); ++e) {
               parts.push_back(at::linear(x[0].narrow(0, first, ends[e] - first), w[0][static_cast<int64_t>(e)]));
               first = ends[e];
             }
             parts.push_back(at::zeros({x[0].size(0) - first, w[0].size(1)}, x[0].options()));
             return std::vector<at::Tensor>{at::cat(parts)};
           };
           const double flops = 2.0 * rows * static_cast<double>(n * k), size = static_cast<double>(i.inputs[0].element_size());
           const double moved = (static_cast<double>(rows) * static_cast<double>(n + k) + static_cast<double>(counts.size()) * static_cast<double>(n * k)) * size;
           i.cost = {flops, moved, 2 * flops, 2 * moved};
           if (b.dtype == at::kBFloat16) {
             i.peer = "at::_grouped_mm";
             i.peer_op = [ends_E](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) { return std::vector<at::Tensor>{at::_grouped_mm(x[0], w[0].transpose(1, 2), ends_E)}; };
           }
           return i;
         }};
  c.grad = small, c.check = small, c.perf = !small;
  return c;
}

}  // namespace

std::vector<Case> moe_cases() {
  using S = RouterScore;
  return {
      route_row("softmax 9x8 e6 k2 aux z", 9, 8, 6, with(S::kSoftmaxPost, 2, 0.3, 0.2), false, true, true),
      route_row("softmax_pre 9x8 e6 k3 aux", 9, 8, 6, with(S::kSoftmaxPre, 3, 0.3), false, false, true),
      route_row("sigmoid 9x8 e8 k2 groups bias aux", 9, 8, 8, with(S::kSigmoid, 2, 0.3, 0, 4, 2, 2.5), true, true, true),
      route_row("sqrtsoftplus 7x8 e5 k1", 7, 8, 5, with(S::kSqrtSoftplus, 1), true, false, true),
      route_row("softmax 1x1 e1 k1", 1, 1, 1, with(S::kSoftmaxPost, 1), false, false, true),
      route_row("softmax 0x4 e4 k2", 0, 4, 4, with(S::kSoftmaxPost, 2), false, false, true),
      route_row("sigmoid 32768x4096 e16 k4 aux", 32768, 4096, 16, with(S::kSigmoid, 4, 1e-4), true, false, false),
      product_row("9x8 e6", 9, 8, 6, true),
      product_row("0x4 e4", 0, 4, 4, true),
      product_row("router product 32768x4096 e16", 32768, 4096, 16, false),
      product_row("router product 32768x2048 e128", 32768, 2048, 128, false),
      product_row("router product 32768x7168 e256", 32768, 7168, 256, false),
      permute_row("7 k2 e4 d5", 7, 2, 4, 5, 1, false, true),
      permute_row("7 k2 e4 d5 align 4", 7, 2, 4, 5, 4, false, true),
      permute_row("0 k2 e4 d5", 0, 2, 4, 5, 1, false, true),
      permute_row("32768 k4 e16 d4096", 32768, 4, 16, 4096, 1, false, false),
      weighted_row("weights, and back 7 k2 e4 d5", 7, 2, 4, 5, 1, true),
      weighted_row("weights, and back 7 k3 e5 d5 align 4", 7, 3, 5, 5, 4, true),
      weighted_row("weights, and back 0 k2 e4 d5", 0, 2, 4, 5, 1, true),
      permute_row("7 k2 e4 d5", 7, 2, 4, 5, 1, true, true),
      permute_row("7 k3 e5 d5 align 4", 7, 3, 5, 5, 4, true, true),
      permute_row("32768 k4 e16 d4096", 32768, 4, 16, 4096, 1, true, false),
      grouped_row("3+0+5+1 n4 k6", {3, 0, 5, 1}, 0, 4, 6, true),
      grouped_row("0+0 n4 k6", {0, 0}, 2, 4, 6, true),
      grouped_row("e1 m1 n1 k1", {1}, 0, 1, 1, true),
      grouped_row("30+0+77+1 n16 k24, spare 9", {30, 0, 77, 1}, 9, 16, 24, true),
      grouped_row("e16 m8192 n896 k4096", std::vector<int32_t>(16, 8192), 0, 896, 4096, false),
      grouped_row("e16 m8192 n4096 k896", std::vector<int32_t>(16, 8192), 0, 4096, 896, false),
      grouped_row("e128 m1024 n768 k2048", std::vector<int32_t>(128, 1024), 0, 768, 2048, false),
      grouped_row("e128 m1024 n2048 k768", std::vector<int32_t>(128, 1024), 0, 2048, 768, false),
  };
}

}  // namespace weft::ops::cases
