#include "ops/aten.h"

#include "ops/adamw.h"

#include "base/rng.h"
#include "ops/cases/draw.h"
#include "ops/cases/rows.h"
#include "ops/newton_schulz.h"
#include "ops/sample.h"

namespace weft::ops::cases {
namespace {

Case adamw_row(std::string name, int64_t count, bool decoupled, bool large) {
  Case c{"adamw", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;  // fp32 master, moments and gradient; the parameter is rounded to the row's dtype
           i.inputs = {at::randn({count}, f32_on(b)), at::randn({count}, f32_on(b)), at::randn({count}, f32_on(b)) / 10,
                       at::rand({count}, f32_on(b)) / 10};
           const at::Tensor scale = at::full({1}, 0.7, f32_on(b)), skip = at::zeros({1}, f32_on(b).dtype(at::kInt));
           const at::Tensor stored = large ? i.inputs[0].to(b.dtype) : at::Tensor();
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             std::vector<at::Tensor> own;
             for (const at::Tensor& t : x) own.push_back(large ? t.detach() : t.detach().clone());
             const bool low = b.dtype != at::kFloat && own[0].scalar_type() == at::kFloat;
             const at::Tensor param = low && large ? stored : low ? own[0].to(b.dtype) : own[0];
             adamw({param, low ? own[0] : at::Tensor(), {}, own[1], own[2], own[3], scale, skip, 1e-2, 1 - std::pow(0.9, 3), 1 - std::pow(0.95, 3), 0.9,
                    0.95, 1e-8, 0.1, decoupled},
                   p);
             return std::vector<at::Tensor>{param, own[0], own[2], own[3]};
           };
           i.cost = {0, static_cast<double>(count) * (28 + (b.dtype == at::kFloat ? 0 : 2)), 0, 0};
           if (b.dtype == at::kFloat) {  // it keeps no master beside a bf16 parameter
             const at::Tensor step = at::full({}, 3.0, f32_on(b));
             i.peer = "at::_fused_adamw_", i.peer_op = [=](const Tensors& x, const Tensors&) {
               at::_fused_adamw_({x[0]}, {x[1]}, {x[2]}, {x[3]}, {}, {step}, 1e-2, 0.9, 0.95, 0.1, 1e-8, false, false);
               return Tensors{};
             };
           }
           return i;
         }};
  c.grad = false, c.perf = large, c.check = !large;
  return c;
}

Case norm_row(std::string name, std::vector<int64_t> counts, bool large) {
  Case c{"grad_norm", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           double bytes = 0;
           for (const int64_t n : counts) i.inputs.push_back(normal(b, {n})), bytes += static_cast<double>(i.inputs.back().nbytes());
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             const GradNorm n = grad_norm(x, p);
             const ClipFactor f = clip_factor(n, 1.0, p);
             return std::vector<at::Tensor>{n.sum_sq, n.non_finite, f.norm, f.factor, f.skip};
           };
           i.cost = {0, bytes, 0, 0};
           return i;
         }};
  c.grad = false, c.perf = large;
  return c;
}

Case momentum_row(std::string name, int64_t count, bool nesterov, bool large) {
  Case c{"muon_momentum", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {normal(b, {count}), at::randn({count}, f32_on(b))};
           const at::Tensor scale = at::full({1}, 0.7, f32_on(b));
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             const at::Tensor m = large ? x[1].detach() : x[1].detach().clone();
             const at::Tensor u = muon_momentum(x[0].detach(), m, 0.95, nesterov, scale, p);
             return std::vector<at::Tensor>{u, m};
           };
           i.cost = {0, static_cast<double>(count) * (12 + static_cast<double>(i.inputs[0].element_size())), 0, 0};
           return i;
         }};
  c.grad = false, c.perf = large, c.check = !large;
  return c;
}

// The row's dtype is that of the products.
Case newton_schulz_row(std::string name, int64_t rows, int64_t cols, size_t steps, bool large) {
  Case c{"newton_schulz", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {at::randn({rows, cols}, f32_on(b))};
           const std::vector<NewtonSchulzStep> all(steps, kSimpleStep);
           const auto products = b.dtype == at::kBFloat16 ? GemmRecipe::kBf16 : GemmRecipe::kF32;
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) { return std::vector<at::Tensor>{newton_schulz(x[0].detach(), all, products, p)}; };
           const double m = static_cast<double>(std::min(rows, cols)), n = static_cast<double>(std::max(rows, cols));
           i.cost = {static_cast<double>(steps) * (4 * m * m * n + 2 * m * m * m), 0, 0, 0};
           return i;
         }};
  c.grad = false, c.perf = large, c.check = !large;
  c.atol = 2e-5;
  return c;
}

Case sample_row(std::string name, int64_t rows, int64_t vocab, SampleRow settings, bool penalties, bool large) {
  Case c{"sample", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {4 * normal(b, {rows, vocab})};
           SampleOptions o;
           for (int64_t r = 0; r < rows; ++r) {
             o.rows.push_back(settings);
             o.rows.back().uniform = rng::uniform(b.seed, static_cast<uint64_t>(r));
           }
           if (penalties) {
             o.counts = at::randint(3, {rows, vocab}, f32_on(b).dtype(at::kInt));
             o.in_prompt = at::randint(2, {rows, vocab}, f32_on(b).dtype(at::kByte));
           }
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             const Sampled s = sample(x[0].detach(), o, p);
             return std::vector<at::Tensor>{s.token, s.logprob};
           };
           i.cost = {0, static_cast<double>(i.inputs[0].nbytes()), 0, 0};
           return i;
         }};
  c.grad = false, c.perf = large;
  return c;
}

}  // namespace

std::vector<Case> adamw_cases() {
  return {adamw_row("5000", 5000, true, false), adamw_row("1", 1, true, false), adamw_row("0", 0, true, false),
          adamw_row("5000 coupled", 5000, false, false), adamw_row("2^28", int64_t{1} << 28, true, true)};
}

std::vector<Case> muon_cases() {
  std::vector<Case> all{momentum_row("5000", 5000, false, false), momentum_row("333 nesterov", 333, true, false), momentum_row("0", 0, true, false),
                        momentum_row("2^27", int64_t{1} << 27, true, true)};
  // Each step may stretch what the one before has rounded by 3.4.
  for (const Case& c : by_dtype({newton_schulz_row("40x70", 40, 70, 5, false), newton_schulz_row("65x33", 65, 33, 5, false), newton_schulz_row("1x8", 1, 8, 5, false),
                                 newton_schulz_row("4096x14336", 4096, 14336, 5, true)},
                                2e-2))
    all.push_back(c);
  return all;
}

std::vector<Case> grad_norm_cases() {
  return {norm_row("3 buffers", {70001, 1, 333}, false), norm_row("empty", {0}, false), compared(norm_row("2^26", {int64_t{1} << 26}, true)), timed(norm_row("2^28", {int64_t{1} << 28}, true))};
}

std::vector<Case> sample_cases() {
  SampleRow plain, greedy, cut, all;
  greedy.temperature = 0;
  cut.top_k = 40, cut.top_p = 0.9, cut.temperature = 0.8;
  all = cut, all.min_p = 0.05, all.repetition = 1.2, all.presence = 0.3, all.frequency = 0.2, all.top_k = 0;
  return {sample_row("17x333", 17, 333, plain, false, false),      sample_row("17x333 greedy", 17, 333, greedy, false, false),
          sample_row("17x333 top-k top-p", 17, 333, cut, false, false), sample_row("17x333 penalties, top-p, min-p", 17, 333, all, true, false),
          sample_row("3x1", 3, 1, cut, false, false),              sample_row("0x7", 0, 7, plain, false, false),
          sample_row("64x50304 top-k top-p", 64, 50304, cut, false, true)};
}

}  // namespace weft::ops::cases
