#include "ops/aten.h"

#include "ops/route.h"

namespace weft::ops::reference {
namespace {

bool is_softmax(RouterScore s) { return s == RouterScore::kSoftmaxPre || s == RouterScore::kSoftmaxPost; }

at::Tensor activate(const at::Tensor& z, RouterScore s) {
  if (is_softmax(s)) return at::softmax(z, -1);
  return s == RouterScore::kSigmoid ? at::sigmoid(z) : at::softplus(z, 1, 20).sqrt();
}

// The k highest of each row, ties to the lower index.
at::Tensor best(const at::Tensor& score, int64_t k) {
  return std::get<1>(at::sort(score, /*stable=*/true, /*dim=*/-1, /*descending=*/true)).narrow(-1, 0, k);
}

at::Tensor keep_best_groups(const at::Tensor& score, const RouteOptions& o) {
  const int64_t size = score.size(-1) / o.groups;
  const at::Tensor grouped = score.view({-1, o.groups, size});
  const at::Tensor sums = std::get<0>(grouped.topk(std::max<int64_t>(1, o.k / o.top_groups), -1)).sum(-1);
  const at::Tensor keep = at::zeros_like(sums, at::kBool).scatter(-1, best(sums, o.top_groups), true);
  return grouped.masked_fill(~keep.unsqueeze(-1), -INFINITY).view(score.sizes());
}

}  // namespace

Scores router(const at::Tensor& z, const RouteOptions& o) {
  const bool softmax = is_softmax(o.score);
  const at::Tensor s = activate(z, o.score);
  at::Tensor biased = o.score == RouterScore::kSoftmaxPost ? z : s;
  if (o.bias_E.defined()) biased = biased + o.bias_E.to(z.scalar_type());
  if (o.groups > 1 && o.top_groups < o.groups) biased = keep_best_groups(biased, o);
  const at::Tensor chosen = best(biased, o.k);
  at::Tensor w = s.gather(-1, chosen);
  if (o.score == RouterScore::kSoftmaxPost) w = at::softmax(z.gather(-1, chosen), -1);
  if (!softmax && o.k > 1) w = w / (w.sum(-1, true) + 1e-20);
  Scores out{w * o.scaling, chosen.to(at::kInt), softmax ? s : s / (s.sum(-1, true) + 1e-20), z.logsumexp({-1})};
  if (o.valid_T.defined()) {
    const at::Tensor padding = ~o.valid_T.unsqueeze(-1);
    out.weights = out.weights.masked_fill(padding, 0), out.indices = out.indices.masked_fill(padding, -1);
    out.scores = out.scores.masked_fill(padding, 0), out.lse = out.lse.masked_fill(~o.valid_T, 0);
  }
  return out;
}

at::Tensor router_bwd(const at::Tensor& z, const at::Tensor& indices_Tk, const at::Tensor& dweights, const at::Tensor& dscores, const at::Tensor& dlse,
                      const RouteOptions& o) {
  const bool softmax = is_softmax(o.score);
  const at::Tensor s = activate(z, o.score), chosen = indices_Tk.to(at::kLong).clamp_min(0);
  at::Tensor ds = at::zeros_like(z);
  if (dweights.defined()) {
    const at::Tensor picked = s.gather(-1, chosen);
    const bool normalised = o.score == RouterScore::kSoftmaxPost || (!softmax && o.k > 1);
    const at::Tensor denominator = normalised ? picked.sum(-1, true) + (softmax ? 0 : 1e-20) : at::ones_like(picked.narrow(-1, 0, 1));
    at::Tensor d = dweights * o.scaling;
    if (normalised) d = d - (d * picked / denominator).sum(-1, true);
    ds = ds.scatter_add(-1, chosen, d / denominator);
  }
  if (dscores.defined()) {
    if (softmax) {
      ds = ds + dscores;
    } else {
      const at::Tensor total = s.sum(-1, true) + 1e-20;
      ds = ds + (dscores - (dscores * s / total).sum(-1, true)) / total;
    }
  }
  at::Tensor dz;
  if (softmax)
    dz = s * (ds - (ds * s).sum(-1, true));
  else if (o.score == RouterScore::kSigmoid)
    dz = ds * s * (1 - s);
  else
    dz = ds * at::sigmoid(z) / (2 * s.clamp_min(1e-20));
  if (dlse.defined()) dz = dz + dlse.unsqueeze(-1) * at::softmax(z, -1);
  return o.valid_T.defined() ? dz.masked_fill(~o.valid_T.unsqueeze(-1), 0) : dz;
}

}  // namespace weft::ops::reference
