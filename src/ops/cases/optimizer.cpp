#include "ops/aten.h"

#include "ops/adamw.h"

#include "base/rng.h"
#include "ops/cases/draw.h"
#include "ops/cases/rows.h"
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
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             std::vector<at::Tensor> own;
             for (const at::Tensor& t : x) own.push_back(large ? t.detach() : t.detach().clone());
             const bool low = b.dtype != at::kFloat && own[0].scalar_type() == at::kFloat;
             const at::Tensor param = low ? own[0].to(b.dtype) : own[0];
             adamw({param, low ? own[0] : at::Tensor(), {}, own[1], own[2], own[3], scale, skip, 1e-2, 1 - std::pow(0.9, 3), 1 - std::pow(0.95, 3), 0.9,
                    0.95, 1e-8, 0.1, decoupled},
                   p);
             return std::vector<at::Tensor>{param, own[0], own[2], own[3]};
           };
           i.cost = {0, static_cast<double>(count) * (28 + (b.dtype == at::kFloat ? 0 : 2)), 0, 0};
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
          adamw_row("5000 coupled", 5000, false, false), adamw_row("2^25", int64_t{1} << 25, true, true)};
}

std::vector<Case> grad_norm_cases() {
  return {norm_row("3 buffers", {70001, 1, 333}, false), norm_row("empty", {0}, false), norm_row("2^26", {int64_t{1} << 26}, true)};
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
