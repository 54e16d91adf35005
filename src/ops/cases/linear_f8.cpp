#include "ops/aten.h"

#include "ops/linear.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

// The tensor core adds FP8 products in 14 bits until they are promoted to fp32: the absolute part of the bound.
constexpr double kSumOf14Bits = 1e-3;

Case row(GemmRecipe::Kind kind, int64_t tokens, int64_t in, int64_t out, bool bias, bool large, bool exact) {
  std::string name = std::string(names(GemmRecipe::Kind{})[kind]) + " " + std::to_string(tokens) + "x" + std::to_string(in) + "->" + std::to_string(out);
  if (bias) name += " + b";
  if (exact) name += ", straight through";
  Case c{"linear", name, {at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {normal(b, {tokens, in})};
           i.weights.push_back({"w", normal(b, {out, in}) / std::sqrt(static_cast<double>(in)), {}});
           if (bias) i.weights.push_back({"b", normal(b, {out}), {}});
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             return std::vector<at::Tensor>{linear(x[0], w[0], {kind, exact, nullptr}, nullptr, p, bias ? &w[1] : nullptr)};
           };
           const double flops = 2.0 * static_cast<double>(tokens) * static_cast<double>(in * out);
           const double moved = 2.0 * static_cast<double>(tokens * in + in * out + tokens * out);
           i.cost = {flops, moved, 2 * flops, 2 * moved};
           i.f8_products = true;
           i.peer = "at::linear bf16", i.peer_op = [](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) { return std::vector<at::Tensor>{at::linear(x[0], w[0])}; };
           return i;
         }};
  c.grad = exact, c.check = !exact && !large, c.perf = large, c.atol = kSumOf14Bits;
  if (!exact && !large) c.grad_why_not = "rounding to FP8 has no slope: the rows 'straight through' hold the function that the backward differentiates";
  return c;
}

}  // namespace

std::vector<Case> linear_f8_cases() {
  std::vector<Case> all;
  for (const auto kind : {GemmRecipe::kF8Tensor, GemmRecipe::kF8Row, GemmRecipe::kF8Block}) {
    all.push_back(row(kind, 37, 48, 32, true, false, true));
    all.push_back(row(kind, 37, 48, 32, true, false, false));
    all.push_back(row(kind, 300, 272, 144, false, false, false));
    all.push_back(row(kind, 1, 128, 16, false, false, false));
    all.push_back(row(kind, 0, 128, 16, false, false, false));
    all.push_back(row(kind, 16384, 4096, 4096, false, true, false));
    all.push_back(row(kind, 16384, 4096, 14336, false, true, false));
  }
  return all;
}

}  // namespace weft::ops::cases
