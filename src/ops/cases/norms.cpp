#include "ops/aten.h"

#include "ops/cases/draw.h"
#include "ops/add.h"
#include "ops/cases/rows.h"
#include "ops/dropout.h"
#include "ops/layernorm.h"
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
             i.peer = "add, at::rms_norm", i.peer_op = i.plain;
             return i;
           }};
    c.grad = !large, c.perf = large;
    if (cols == 1) c.atol = 2e-2;  // dx is what eps leaves of two equal terms
    return c;
  };
  return {row("37x65", 37, 65, false), row("1x1", 1, 1, false), row("0x8", 0, 8, false), compared(row("8192x4096", 8192, 4096, true)), timed(row("32768x4096", 32768, 4096, true))};
}

std::vector<Case> add_cases() {
  const auto row = [](std::string name, std::vector<int64_t> shape, int addends, bool large) {
    Case c{"add", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             for (int k = 0; k < addends; ++k) i.inputs.push_back(normal(b, shape));
             i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) { return std::vector<at::Tensor>{add(x, p)}; };
             i.cost = {0, (addends + 1) * static_cast<double>(i.inputs[0].nbytes()), 0, 0};  // the gradient is passed on as it is
             i.peer = "x + y", i.peer_op = [](const Tensors& x, const Tensors&) {
               at::Tensor y = x[0] + x[1];
               for (size_t k = 2; k < x.size(); ++k) y = y + x[k];
               return Tensors{y};
             };
             return i;
           }};
    c.grad = !large, c.perf = large, c.check = !large;
    return c;
  };
  return {row("37x65", {37, 65}, 2, false),         row("3 of 9x33", {9, 33}, 3, false),      row("4 of 5x2x7", {5, 2, 7}, 4, false), row("1", {1}, 2, false),
          row("0x8", {0, 8}, 3, false),             row("32768x4096", {32768, 4096}, 2, true), row("3 of 32768x4096", {32768, 4096}, 3, true)};
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
          compared(row("8192x4096 groups 8", 8192, 4096, 8, true, false, true)), timed(row("32768x4096 groups 32", 32768, 4096, 32, true, false, true)),
          timed(row("32768x8192 groups 8", 32768, 8192, 8, true, false, true))};
}

std::vector<Case> layernorm_cases() {
  const auto row = [](const char* op, std::string name, int64_t rows, int64_t cols, bool added, bool bias, bool large) {
    // Two values norm to plus and minus one, and with a small eps the gradient of x is all cancellation, which no bound can judge.
    const double eps = cols == 2 ? 0.5 : 1e-5;
    Case c{op, std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             i.inputs = {normal(b, {rows, cols}) + 0.5};
             if (added) i.inputs.push_back(normal(b, {rows, cols}));
             i.weights.push_back({"w", normal(b, {cols}), {}});
             if (bias) i.weights.push_back({"b", normal(b, {cols}), {}});
             i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
               Weight* b = bias ? &w[1] : nullptr;
               if (!added) return std::vector<at::Tensor>{layer_norm(x[0], w[0], b, eps, p)};
               const AddedNorm out = add_layer_norm(x[0], x[1], w[0], b, eps, p);
               return std::vector<at::Tensor>{out.sum, out.normed};
             };
             // Like the kernel, the plain expression norms the rounded sum; the fp64 one has no such rounding.
             i.plain = [=](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) {
               const at::Tensor v = added ? x[0] + x[1] : x[0];
               const at::Tensor y = at::layer_norm(v, {cols}, w[0], bias ? w[1] : at::Tensor(), eps);
               return added ? std::vector<at::Tensor>{v, y} : std::vector<at::Tensor>{y};
             };
             const double moved = static_cast<double>(rows * cols) * static_cast<double>(i.inputs[0].element_size());
             i.cost = {0, (added ? 4 : 2) * moved, 0, (added ? 4 : 3) * moved};
             i.peer = added ? "add, at::layer_norm" : "at::layer_norm", i.peer_op = i.plain;
             return i;
           }};
    c.grad = !large, c.perf = large;
    if (cols == 1) c.atol = 1;  // the gradient of x is zero but for rounding
    return c;
  };
  return {row("layer_norm", "37x65", 37, 65, false, true, false),      row("layer_norm", "37x65 no bias", 37, 65, false, false, false),
          row("layer_norm", "1x2", 1, 2, false, true, false),          row("layer_norm", "0x8", 0, 8, false, true, false),
          compared(row("layer_norm", "8192x4096", 8192, 4096, false, true, true)),
          timed(row("layer_norm", "32768x4096", 32768, 4096, false, true, true)), timed(row("layer_norm", "32768x768", 32768, 768, false, true, true)), row("add_layer_norm", "70x65", 70, 65, true, true, false),
          row("add_layer_norm", "0x8", 0, 8, true, false, false),      compared(row("add_layer_norm", "8192x4096", 8192, 4096, true, true, true)),
          timed(row("add_layer_norm", "32768x4096", 32768, 4096, true, true, true))};
}

std::vector<Case> dropout_cases() {
  const auto row = [](std::string name, std::vector<int64_t> shape, double rate, bool residual, bool large) {
    Case c{"dropout", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             i.inputs = {normal(b, shape)};
             if (residual) i.inputs.push_back(normal(b, shape));
             i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
               return std::vector<at::Tensor>{dropout(x[0], residual ? x[1] : at::Tensor(), rate, {b.seed, 5, 8}, p)};
             };
             const double moved = static_cast<double>(i.inputs[0].nbytes());
             i.cost = {0, (residual ? 3 : 2) * moved, 0, 2 * moved};
             if (residual) i.peer = "at::dropout, add", i.peer_op = [rate](const Tensors& x, const Tensors&) { return Tensors{at::dropout(x[0], rate, true) + x[1]}; };
             return i;
           }};
    c.grad = !large, c.perf = large;
    return c;
  };
  return {row("37x65 p 0.3", {37, 65}, 0.3, true, false), row("5 p 0", {5}, 0, false, false), row("0", {0}, 0.5, false, false),
          compared(row("8192x4096 p 0.1", {8192, 4096}, 0.1, true, true)), timed(row("32768x4096 p 0.1", {32768, 4096}, 0.1, true, true))};
}

}  // namespace weft::ops::cases
