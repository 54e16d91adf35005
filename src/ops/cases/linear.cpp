#include "ops/aten.h"

#include "ops/linear.h"
#include "ops/mlp.h"

#include "ops/bias.h"
#include "ops/cases/draw.h"
#include "ops/cases/rows.h"
#include "ops/tensors.h"

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
           i.peer = "at::linear", i.peer_op = plain_linear;
           return i;
         }};
  c.grad = !large, c.perf = large;
  return c;
}

Case bias_row(std::string name, int64_t tokens, int64_t in, int64_t out, bool large, bool queued = false) {
  Case c{"linear", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {normal(b, {tokens, in})};
           i.weights.push_back({"w", normal(b, {out, in}) / std::sqrt(static_cast<double>(in)), {}});
           i.weights.push_back({"b", normal(b, {out}), {}});
           const auto queue = std::make_shared<WgradQueue>();
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             at::Tensor y = linear(x[0], w[0], {}, queued ? queue.get() : nullptr, p, &w[1]);
             if (queued && x[0].requires_grad()) x[0].register_hook([queue](const at::Tensor& g) { queue->drain(); return g; });
             return std::vector<at::Tensor>{y};
           };
           i.plain = [](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) { return std::vector<at::Tensor>{at::linear(x[0], w[0], w[1])}; };
           // That call may sum parts of the contraction in bf16: as coarse as a bias added to a rounded product.
           i.libraries = {"aten_cuda"};
           i.plain_of_library = [](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) { return std::vector<at::Tensor>{at::linear(x[0], w[0]) + w[1]}; };
           const double flops = 2.0 * tokens * in * out, size = static_cast<double>(i.inputs[0].element_size());
           const double moved = size * static_cast<double>(tokens * in + in * out + tokens * out);
           i.cost = {flops, moved, 2 * flops, 2 * moved};
           i.peer = "at::linear", i.peer_op = i.plain;
           return i;
         }};
  c.grad = !large, c.perf = large;
  return c;
}

Case mixed_row(std::string name, int64_t tokens, int64_t in, int64_t out) {  // an fp32 router weight under bf16 activations
  Case c{"linear", std::move(name), {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {normal(b, {tokens, in})};
           i.weights.push_back({"w", at::randn({out, in}, f32_on(b)), {}});
           i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             return std::vector<at::Tensor>{linear(x[0], w[0], {GemmRecipe::kF32}, nullptr, p)};
           };
           const double flops = 2.0 * static_cast<double>(tokens) * static_cast<double>(in * out), moved = static_cast<double>(i.inputs[0].nbytes());
           i.cost = {flops, moved, 2 * flops, 2 * moved};
           i.peer = "at::linear in fp32", i.peer_op = [](const Tensors& x, const Tensors& w) { return Tensors{at::linear(x[0].to(at::kFloat), w[0])}; };
           return i;
         }};
  return c;
}

Case tf32_row() {  // 11 bits of a factor: errors of the size of TF32's rounding, not of fp32's
  Case c = linear_row("tf32 37x24->65", 37, 24, 65, false);
  c.dtypes = {at::kFloat}, c.atol = 1e-3;
  const auto build = c.build;
  c.build = [build](const Build& b) {
    Instance i = build(b);
    i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
      return std::vector<at::Tensor>{linear(x[0], w[0], {GemmRecipe::kTf32}, nullptr, p)};
    };
    return i;
  };
  return c;
}

Case mlp_row(std::string name, int64_t tokens, int64_t dim, int64_t width, kernels::Act act, bool biases, bool large) {
  Case c{"mlp", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {normal(b, {tokens, dim})};
           i.weights.push_back({"w1", normal(b, {width, dim}) / std::sqrt(static_cast<double>(dim)), {}});
           i.weights.push_back({"w2", normal(b, {dim, width}) / std::sqrt(static_cast<double>(width)), {}});
           if (biases) i.weights.push_back({"b1", normal(b, {width}), {}}), i.weights.push_back({"b2", normal(b, {dim}), {}});
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             return std::vector<at::Tensor>{mlp(x[0], w[0], biases ? &w[2] : nullptr, w[1], biases ? &w[3] : nullptr, act, nullptr, p)};
           };
           i.plain = [=](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) {
             const at::Tensor z = at::linear(x[0], w[0], biases ? w[2] : at::Tensor());
             const at::Tensor h = act == kernels::Act::kGeluTanh ? at::gelu(z, "tanh") : at::silu(z);
             return std::vector<at::Tensor>{at::linear(h, w[1], biases ? w[3] : at::Tensor())};
           };
           const double flops = 4.0 * static_cast<double>(tokens) * static_cast<double>(dim * width);
           i.cost = {flops, 0, 2 * flops, 0};
           i.peer = "at::linear, gelu, linear", i.peer_op = i.plain;
           return i;
         }};
  c.grad = !large, c.perf = large, c.check = !large;
  return c;
}

// dw from bf16 factors, fp32 sums. The yardstick rounds, as above; tests/ops/gemm_test.cpp holds our own product to fp32.
Case gemm_row(std::string name, int64_t tokens, int64_t in, int64_t out) {
  Case c{"gemm", std::move(name), {at::kBFloat16}, [=](const Build& b) {
            at::manual_seed(b.seed);
            Instance i;
            i.inputs = {normal(b, {tokens, out}), normal(b, {tokens, in})};
            i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
              const at::Tensor c = at::zeros({out, in}, x[0].options().dtype(wide(x[0])).requires_grad(false));
              gemm("gemm", x[0].detach(), true, x[1].detach(), false, c, true, p);
              return std::vector<at::Tensor>{c};
            };
            i.plain = [](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>&) { return std::vector<at::Tensor>{at::mm(x[0].t(), x[1])}; };
            return i;
          }};
  c.grad = false, c.grad_why_not = "has no node of its own: linear's rows hold it";
  return c;
}

}  // namespace

std::vector<Case> linear_cases() {
  std::vector<Case> all = {linear_row("37x24->65", 37, 24, 65, false),
          linear_row("1x1->1", 1, 1, 1, false),
          linear_row("0x8->3", 0, 8, 3, false),
          linear_row("130x65->33 queued dW", 130, 65, 33, false, true),
          mixed_row("f32 weight 33x24->8", 33, 24, 8),
          timed(mixed_row("f32 weight 32768x4096->16", 32768, 4096, 16)),
          tf32_row(),
          mlp_row("gpt2 gelu 32768x768x3072 + b", 32768, 768, 3072, kernels::Act::kGeluTanh, true, true),
          bias_row("37x24->65 + b", 37, 24, 65, false),
          bias_row("0x8->3 + b", 0, 8, 3, false),
          bias_row("130x65->33 + b, queued dW", 130, 65, 33, false, true),
          bias_row("1024x768->3072 + b", 1024, 768, 3072, true),
          gemm_row("dw 300x65->33 f32", 300, 65, 33),
          linear_row("1024x768->3072", 1024, 768, 3072, true),
          linear_row("1024x3072->768", 1024, 3072, 768, true)};
  // Four roundings in a row and few elements: of 150 draws of the third row, 4 % are beyond 1.5 times the plain expression's error by luck.
  for (const Case& c : by_dtype({mlp_row("gelu 37x24x48 + b", 37, 24, 48, kernels::Act::kGeluTanh, true, false), mlp_row("gelu 40x16x32", 40, 16, 32, kernels::Act::kGeluTanh, false, false),
                                 mlp_row("gelu 37x7x9 + b", 37, 7, 9, kernels::Act::kGeluTanh, true, false), mlp_row("silu 37x24x48", 37, 24, 48, kernels::Act::kSilu, false, false)},
                                kHalfUnitBf16))
    all.push_back(c);
  return all;
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
             i.peer = "x + b", i.peer_op = [](const Tensors& x, const Tensors& w) { return Tensors{x[0] + w[0]}; };
             return i;
           }};
    c.grad = !large, c.perf = large;
    return c;
  };
  return {row("37x65", 37, 65, false), row("300x1", 300, 1, false), row("0x8", 0, 8, false), compared(row("8192x4096", 8192, 4096, true)), timed(row("32768x4096", 32768, 4096, true))};
}

}  // namespace weft::ops::cases
