#include "ops/aten.h"

#include "ops/linear.h"

#include "ops/bias.h"
#include "ops/cases/draw.h"
#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

// Rounding the product to bf16 before the fp32 sum is what a plain bf16 matmul does: the yardstick rounds there too.
std::vector<at::Tensor> plain_linear(const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) { return {at::linear(x[0], w[0])}; }

Case linear_row(std::string name, int64_t tokens, int64_t in, int64_t out, bool large, bool queued = false) {
  Case c{"linear", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {normal(b, {tokens, in})};
           i.weights.push_back({"w", normal(b, {out, in}) / std::sqrt(static_cast<double>(in)), {}});
           // The queue outlives the graph; draining after the backward is what a schedule does, here by the output's hook.
           const auto queue = std::make_shared<WgradQueue>();
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             at::Tensor y = linear(x[0], w[0], {}, queued ? queue.get() : nullptr, p);
             if (queued && x[0].requires_grad()) x[0].register_hook([queue](const at::Tensor& g) { queue->drain(); return g; });
             return std::vector<at::Tensor>{y};
           };
           i.plain = plain_linear;
           const double flops = 2.0 * tokens * in * out, size = static_cast<double>(i.inputs[0].element_size());
           i.cost = {flops, size * (tokens * in + in * out + tokens * out), 2 * flops, 2 * size * (tokens * in + in * out + tokens * out)};
           const at::Tensor x = i.inputs[0], w = i.weights[0].value;
           i.peer = "at::linear", i.peer_fwd = [x, w] { at::linear(x, w); };
           return i;
         }};
  c.grad = !large, c.perf = large;
  return c;
}

Case mixed_row() {  // an fp32 router weight under bf16 activations
  Case c{"linear", "f32 weight 33x24->8", {at::kFloat, at::kBFloat16}, [](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {normal(b, {33, 24})};
           i.weights.push_back({"w", at::randn({8, 24}, f32_on(b)), {}});
           i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             return std::vector<at::Tensor>{linear(x[0], w[0], {GemmRecipe::kF32}, nullptr, p)};
           };
           return i;
         }};
  return c;
}

}  // namespace

std::vector<Case> linear_cases() {
  return {linear_row("37x24->65", 37, 24, 65, false),
          linear_row("1x1->1", 1, 1, 1, false),
          linear_row("0x8->3", 0, 8, 3, false),
          linear_row("130x65->33 queued dW", 130, 65, 33, false, true),
          mixed_row(),
          linear_row("1024x768->3072", 1024, 768, 3072, true),
          linear_row("1024x3072->768", 1024, 3072, 768, true)};
}

std::vector<Case> bias_cases() {
  const auto row = [](std::string name, int64_t rows, int64_t cols, bool large) {
    Case c{"add_bias", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             i.inputs = {normal(b, {rows, cols})};
             i.weights.push_back({"b", normal(b, {cols}), {}});
             i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
               return std::vector<at::Tensor>{add_bias(x[0], w[0], p)};
             };
             const double moved = static_cast<double>(rows * cols) * static_cast<double>(i.inputs[0].element_size());
             i.cost = {0, 2 * moved, 0, moved};
             return i;
           }};
    c.grad = !large, c.perf = large;
    return c;
  };
  return {row("37x65", 37, 65, false), row("300x1", 300, 1, false), row("0x8", 0, 8, false), row("8192x4096", 8192, 4096, true)};
}

}  // namespace weft::ops::cases
