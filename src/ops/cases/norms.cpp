#include "ops/aten.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"
#include "ops/rmsnorm.h"

namespace weft::ops::cases {

std::vector<Case> add_rmsnorm_cases() {
  const auto row = [](std::string name, int64_t rows, int64_t cols, bool large) {
    Case c{"add_rms_norm", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             i.inputs = {normal(b, {rows, cols}), normal(b, {rows, cols})};
             i.weights.push_back({"w", normal(b, {cols}), {}});
             i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
               const AddedNorm out = add_rms_norm(x[0], x[1], w[0], 1e-5, p);
               return std::vector<at::Tensor>{out.sum, out.normed};
             };
             // Like the kernel, the plain expression norms the rounded sum; the fp64 one has no such rounding.
             i.plain = [](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) {
               const at::Tensor sum = x[0] + x[1];
               return std::vector<at::Tensor>{sum, at::rms_norm(sum, {w[0].size(0)}, w[0], 1e-5)};
             };
             const double moved = static_cast<double>(rows * cols) * static_cast<double>(i.inputs[0].element_size());
             i.cost = {0, 4 * moved, 0, 4 * moved};
             return i;
           }};
    c.grad = !large, c.perf = large;
    if (cols == 1) c.atol = 2e-2;  // dx is what eps leaves of two equal terms
    return c;
  };
  return {row("37x65", 37, 65, false), row("1x1", 1, 1, false), row("0x8", 0, 8, false), row("8192x4096", 8192, 4096, true)};
}

std::vector<Case> gated_rmsnorm_cases() {
  const auto row = [](std::string name, int64_t rows, int64_t cols, int64_t groups, bool gate_first, bool shared, bool large) {
    Case c{"gated_rms_norm", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             i.inputs = {normal(b, {rows, cols}), normal(b, {rows, cols})};
             i.weights.push_back({"w", normal(b, {shared ? cols / groups : cols}), {}});
             i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
               return std::vector<at::Tensor>{gated_rms_norm(x[0], x[1], w[0], groups, 1e-5, p, gate_first)};
             };
             const double moved = static_cast<double>(rows * cols) * static_cast<double>(i.inputs[0].element_size());
             i.cost = {0, 3 * moved, 0, 5 * moved};
             return i;
           }};
    c.grad = !large, c.perf = large;
    if (cols == 1) c.atol = 2e-2;
    return c;
  };
  return {row("37x66 groups 1", 37, 66, 1, true, false, false),
          row("37x66 groups 3", 37, 66, 3, true, false, false),
          row("70x60 groups 4, gate last", 70, 60, 4, false, false, false),
          row("37x60 groups 4, gate last, shared", 37, 60, 4, false, true, false),
          row("1x1", 1, 1, 1, true, false, false),
          row("0x8", 0, 8, 2, true, false, false),
          row("8192x4096 groups 8", 8192, 4096, 8, true, false, true)};
}

}  // namespace weft::ops::cases
