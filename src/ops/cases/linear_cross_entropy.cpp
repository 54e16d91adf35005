#include "ops/aten.h"

#include "ops/linear_cross_entropy.h"

#include <cmath>

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

struct Row {
  std::string name;
  int64_t tokens, vocab, dim;
  int64_t ignored = 0;  // of the first rows
  double z_loss = 0;
  int64_t chunk = 0;
  bool large = false;
  bool known = false;      // the losses' gradients, before the forward
  const char* only = "";   // one candidate, where it is not the first
};

Case row(const Row& r) {
  Case c{"linear_cross_entropy", r.name, kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {normal(b, {r.tokens, r.dim})};
           i.weights.push_back({"w", 2 * normal(b, {r.vocab, r.dim}) / std::sqrt(static_cast<double>(r.dim)), {}});
           at::Tensor targets = integers(b, r.vocab, {r.tokens});
           targets.narrow(0, 0, r.ignored).fill_(-1);
           LossOptions o;
           o.z_loss = r.z_loss, o.chunk = r.chunk;
           at::Tensor weights;
           if (r.known) {  // of both signs and zero; of a large row, the mean's
             weights = r.large ? at::full({r.tokens}, 1.0 / static_cast<double>(r.tokens), f32_on(b)) : at::randn({r.tokens}, f32_on(b)) * (at::arange(r.tokens, f32_on(b)).remainder(5) != 3);
             i.given = {weights}, i.step = r.large, o.weights_are_cotangents = true;
           }
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             Policy policy = p;
             if (policy.only.empty()) policy.only = r.only;
             const TokenLoss loss = linear_cross_entropy(x[0], w[0], targets, weights, o, policy);
             if (r.known) return std::vector<at::Tensor>{loss.loss_T};
             // An ignored row's lse has no gradient by contract, so it is left out of the differences.
             return std::vector<at::Tensor>{loss.loss_T, at::where(targets == -1, loss.lse_T.detach() * 0, loss.lse_T)};
           };
           i.plain = [=](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) {
             const at::Tensor z = at::linear(x[0], w[0]).to(at::kFloat), lse = at::logsumexp(z, -1);
             const at::Tensor nll = at::cross_entropy_loss(z, targets, {}, at::Reduction::None, -1);
             const at::Tensor loss = nll + at::where(targets == -1, at::zeros_like(lse), r.z_loss * lse.square());
             if (r.known) return std::vector<at::Tensor>{loss};
             return std::vector<at::Tensor>{loss, at::where(targets == -1, lse.detach() * 0, lse)};
           };
           const double flops = 2.0 * r.tokens * r.vocab * r.dim;
           i.cost = {flops, 0, (r.known ? 2 : 3) * flops, 0};
           i.peer = "at::linear, cross_entropy_loss";
           i.peer_op = [targets](const Tensors& x, const Tensors& w) { return Tensors{at::cross_entropy_loss(at::linear(x[0], w[0]), targets, {}, at::Reduction::None, -1)}; };
           return i;
         }};
  c.grad = !r.large, c.perf = r.large;
  c.check = !r.large;  // its fp64 logits are too many
  if (r.tokens >= 32768) c.dtypes = {at::kBFloat16};
  return c;
}

}  // namespace

std::vector<Case> linear_cross_entropy_cases() {
  std::vector<Case> all{row({"37 of 65 x 24", 37, 65, 24}),
                        row({"150 of 333 x 40, 9 ignored, z-loss, chunks", 150, 333, 40, 9, 0.1, 64 * 70}),
                        row({"all ignored", 5, 7, 3, 5}),
                        row({"0 of 5 x 8", 0, 5, 8}),
                        row({"1024 of 50304 x 768", 1024, 50304, 768, 0, 0, 0, true}),
                        row({"32768 of 65536 x 4096", 32768, 65536, 4096, 0, 0, 0, true}),
                        row({"32768 of 131072 x 4096", 32768, 131072, 4096, 0, 0, 0, true}),
                        // Gradients known before the forward: three products. "chunked": the candidate behind the first.
                        row({"37 of 65 x 24, weights known", 37, 65, 24, 3, 0, 0, false, true}),
                        row({"150 of 336 x 40, 9 ignored, z-loss, chunks, weights known", 150, 336, 40, 9, 0.1, 64 * 340, false, true}),
                        row({"0 of 5 x 8, weights known", 0, 5, 8, 0, 0, 0, false, true}),
                        row({"1024 of 50304 x 768, weights known", 1024, 50304, 768, 0, 0, 0, true, true}),
                        row({"32768 of 65536 x 4096, weights known", 32768, 65536, 4096, 0, 0, 0, true, true}),
                        row({"32768 of 131072 x 4096, weights known", 32768, 131072, 4096, 0, 0, 0, true, true})};
  all.push_back(timed(row({"1024 of 50304 x 768, weights known, chunked", 1024, 50304, 768, 0, 0, 0, true, true, "chunked"})));
  all.push_back(timed(row({"32768 of 65536 x 4096, weights known, chunked", 32768, 65536, 4096, 0, 0, 0, true, true, "chunked"})));
  // One product of one term: the gradient of the logit is rounded to bf16 (at most 2^-8 of it), and nothing averages that out. The plain
  // expression rounds it too and then rounds the product, which may undo the first.
  for (Case& c : by_dtype({row({"1 of 1 x 1", 1, 1, 1})}, std::ldexp(1.0, -8))) all.push_back(std::move(c));
  return all;
}

}  // namespace weft::ops::cases
