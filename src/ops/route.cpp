#include "ops/aten.h"

#include "ops/route.h"

#include "kernels/router/router.h"
#include "ops/mixed_gemm.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::RouterBwd;
using kernels::RouterFwd;

kernels::Score kernel_score(RouterScore s) {
  switch (s) {
    case RouterScore::kSoftmaxPre: return kernels::Score::kSoftmaxPre;
    case RouterScore::kSoftmaxPost: return kernels::Score::kSoftmaxPost;
    case RouterScore::kSigmoid: return kernels::Score::kSigmoid;
    case RouterScore::kSqrtSoftplus: return kernels::Score::kSqrtSoftplus;
  }
  throw InternalError("route: unknown score");
}

constexpr Candidate<RouterFwd> kFwd[] = {
    {"cpu",
     [](const RouterFwd& a, const Policy& p) {
       return a.logits == nullptr ? kernels::Support{"logits are not f32"} : kernels::supports_router_fwd_cpu(a, p.device);
     },
     nullptr, kernels::router_fwd_cpu},
#ifdef WEFT_CUDA
    {"sm90",
     [](const RouterFwd& a, const Policy& p) {
       return a.logits == nullptr ? kernels::Support{"logits are not f32"} : kernels::supports_router_fwd_sm90(a, p.device);
     },
     nullptr, kernels::router_fwd_sm90},
#endif
};
constexpr Candidate<RouterBwd> kBwd[] = {
    {"cpu",
     [](const RouterBwd& a, const Policy& p) {
       return a.logits == nullptr ? kernels::Support{"logits are not f32"} : kernels::supports_router_bwd_cpu(a, p.device);
     },
     nullptr, kernels::router_bwd_cpu},
#ifdef WEFT_CUDA
    {"sm90",
     [](const RouterBwd& a, const Policy& p) {
       return a.logits == nullptr ? kernels::Support{"logits are not f32"} : kernels::supports_router_bwd_sm90(a, p.device);
     },
     nullptr, kernels::router_bwd_sm90},
#endif
};

const uint8_t* mask(const at::Tensor& t) { return t.defined() ? static_cast<const uint8_t*>(t.data_ptr()) : nullptr; }

reference::Scores run_router(const at::Tensor& logits, const RouteOptions& o, at::Tensor& counts, const Policy& policy) {
  const int64_t tokens = logits.size(0), experts = logits.size(1);
  RouterFwd a{floats(logits), nullptr, mask(o.valid_T), nullptr, nullptr, nullptr, nullptr, nullptr, tokens, static_cast<int32_t>(experts),
              static_cast<int32_t>(o.k), static_cast<int32_t>(o.groups), static_cast<int32_t>(o.top_groups), static_cast<float>(o.scaling),
              kernel_score(o.score)};
  counts = at::zeros({experts}, logits.options().dtype(at::kInt));
  const auto* c = select<RouterFwd>("route", kFwd, a, policy);
  if (c == nullptr) {
    reference::Scores s = reference::router(logits, o);
    const at::Tensor chosen = s.indices.flatten();
    counts.index_add_(0, chosen.clamp_min(0).to(at::kLong), (chosen >= 0).to(at::kInt));
    return s;
  }
  const at::Tensor bias = o.bias_E.defined() ? o.bias_E.to(at::kFloat).contiguous() : at::Tensor();
  reference::Scores s{at::empty({tokens, o.k}, logits.options()), at::empty({tokens, o.k}, logits.options().dtype(at::kInt)),
                      o.aux_loss > 0 ? at::empty_like(logits) : at::Tensor(), o.z_loss > 0 ? at::empty({tokens}, logits.options()) : at::Tensor()};
  a.bias = floats(bias), a.indices = s.indices.data_ptr<int32_t>(), a.weights = s.weights.data_ptr<float>(), a.counts = counts.data_ptr<int32_t>();
  a.scores = floats(s.scores), a.lse = floats(s.lse);
  run(*c, a, logits);
  return s;
}

// The balancing loss over segments: coeff * E / (k T^2) * sum_e P_e n_e, the mean over segments. `factor_TE` is d loss / d scores.
struct Balance { at::Tensor loss, factor_TE; };
Balance balance(const at::Tensor& scores, const at::Tensor& logits, const RouteOptions& o) {
  const int64_t tokens = scores.size(0), experts = scores.size(1);
  // Counted without bias and without groups; the order of scores is that of s within a row.
  const at::Tensor rank_by = o.score == RouterScore::kSoftmaxPost ? logits : scores;
  const at::Tensor chosen = std::get<1>(at::sort(rank_by, true, -1, true)).narrow(-1, 0, o.k);
  at::Tensor picked = at::zeros_like(scores).scatter(-1, chosen, 1.0);
  at::Tensor valid = at::ones({tokens, 1}, scores.options());
  if (o.valid_T.defined()) valid = o.valid_T.unsqueeze(-1).to(scores.scalar_type());
  picked = picked * valid;
  const int64_t segments = o.cu.defined() ? o.cu.size(0) - 1 : 1;
  at::Tensor segment_T = at::zeros({tokens}, scores.options().dtype(at::kLong));
  if (o.cu.defined()) {
    const at::Tensor row = at::arange(tokens, o.cu.options().dtype(at::kInt));
    segment_T = at::bucketize(row, o.cu.narrow(0, 1, segments).contiguous(), /*out_int32=*/false, /*right=*/true);
  }
  const auto per_segment = [&](const at::Tensor& rows) {
    return at::zeros({segments, rows.size(1)}, rows.options()).index_add(0, segment_T, rows);
  };
  const at::Tensor sums = per_segment(scores * valid), counts = per_segment(picked), in = per_segment(valid).clamp_min(1);
  const at::Tensor scale = counts * (o.aux_loss * static_cast<double>(experts) / static_cast<double>(o.k * std::max<int64_t>(segments, 1))) / in.square();
  return {(sums * scale).sum(), scale.index_select(0, segment_T) * valid};
}

struct RouteNode final : Node {
  SavedTensor x_TD, logits_TE, indices_Tk;
  at::Tensor balance_TE, z_T;  // d aux_loss / d scores, d aux_loss / d lse
  Weight* w = nullptr;
  RouteOptions options;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor x = unpack(x_TD), logits = unpack(logits_TE), indices = unpack(indices_Tk);
    at::Tensor dweights, dscores, dlse;
    if (grads[0].defined()) dweights = grads[0].contiguous();
    if (grads.size() > 1 && grads[1].defined()) {
      if (balance_TE.defined()) dscores = (balance_TE * grads[1]).contiguous();
      if (z_T.defined()) dlse = (z_T * grads[1]).contiguous();
    }
    at::Tensor dlogits;
    RouterBwd a{floats(logits), static_cast<const int32_t*>(address(indices)), floats(dweights), floats(dscores), floats(dlse), nullptr, logits.size(0),
                static_cast<int32_t>(logits.size(1)), static_cast<int32_t>(options.k), static_cast<float>(options.scaling), kernel_score(options.score)};
    if (const auto* c = select<RouterBwd>("route_bwd", kBwd, a, policy)) {
      dlogits = at::empty_like(logits);
      a.dlogits = dlogits.data_ptr<float>();
      run(*c, a, logits);
    } else {
      dlogits = reference::router_bwd(logits, indices, dweights, dscores, dlse, options);
    }
    if (w->wants_grad()) {
      mixed_dw("route_dw", dlogits, x, w->main_grad.view(w->value.sizes()), policy);
      w->done();
    }
    return {mixed_dx("route_dx", dlogits, w->value.to(dlogits.scalar_type()), x.scalar_type(), policy)};
  }
};

}  // namespace

Routing route(const at::Tensor& x, Weight& w, const RouteOptions& o, const Policy& policy) {
  check_shape(x.dim() == 2 && w.value.dim() == 2 && x.size(1) == w.value.size(1), "route", "width of x", describe(x), describe(w.value));
  const int64_t experts = w.value.size(0);
  check_shape(o.k >= 1 && o.k <= experts, "route", "k", std::to_string(o.k), "1 to " + std::to_string(experts) + " experts");
  check_shape(o.groups >= 1 && experts % o.groups == 0 && o.top_groups >= 1 && o.top_groups <= o.groups && o.k <= o.top_groups * (experts / o.groups), "route",
              "groups", std::to_string(o.top_groups) + " of " + std::to_string(o.groups), "groups that divide " + std::to_string(experts) + " experts and hold k");
  check_shape(!o.valid_T.defined() || (o.valid_T.scalar_type() == at::kBool && o.valid_T.numel() == x.size(0)), "route", "valid", describe(x),
              "[" + std::to_string(x.size(0)) + "] bool");

  auto node = make_node<RouteNode>(policy, {x}, w.wants_grad());
  const at::NoGradGuard no_grad;
  const at::ScalarType wide_type = wide(x);
  const at::Tensor logits = mixed_forward("route_logits", x.detach().contiguous(), w.value.to(wide_type), policy);
  Routing out;
  const reference::Scores s = run_router(logits, o, out.counts_E, policy);
  out.weights_Tk = s.weights, out.indices_Tk = s.indices;

  at::Tensor balance_TE, z_T;
  if (o.aux_loss > 0) {
    Balance b = balance(s.scores, logits, o);
    out.aux_loss = b.loss, balance_TE = b.factor_TE;
  }
  if (o.z_loss > 0) {
    at::Tensor valid = at::ones({x.size(0)}, s.lse.options());
    if (o.valid_T.defined()) valid = o.valid_T.to(s.lse.scalar_type());
    const at::Tensor per_token = valid * o.z_loss / valid.sum().clamp_min(1);
    const at::Tensor z = (s.lse.square() * per_token).sum();
    out.aux_loss = out.aux_loss.defined() ? out.aux_loss + z : z;
    z_T = 2 * s.lse * per_token;
  }
  if (!node) return out;
  node->x_TD = save(x), node->logits_TE = save(logits), node->indices_Tk = save(out.indices_Tk), node->w = &w, node->options = o;
  node->balance_TE = balance_TE, node->z_T = z_T;
  out.weights_Tk = attach(node, out.weights_Tk);
  if (out.aux_loss.defined()) out.aux_loss = attach(node, out.aux_loss);
  return out;
}

}  // namespace weft::ops
