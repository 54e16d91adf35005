#include "ops/aten.h"

#include "ops/activation.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

// `wide_range`: inputs of a few units, where tails and clamps are met.
Case act_row(const char* op, Act kind, std::string name, int64_t rows, int64_t cols, bool weighted, bool large) {
  Case c{op, std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {away_from(2 * normal(b, {rows, cols}), 0)};
           if (weighted) i.inputs.push_back(at::rand({rows}, f32_on(b)));
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             return std::vector<at::Tensor>{activation(x[0], kind, p, weighted ? x[1] : at::Tensor())};
           };
           const double moved = static_cast<double>(rows * cols) * static_cast<double>(i.inputs[0].element_size());
           i.cost = {0, 2 * moved, 0, 3 * moved};
           if (large && kind == Act::kGeluExact) i.peer = "at::gelu", i.peer_op = [](const Tensors& x, const Tensors&) { return Tensors{at::gelu(x[0])}; };
           if (large && kind == Act::kGeluTanh) i.peer = "at::gelu", i.peer_op = [](const Tensors& x, const Tensors&) { return Tensors{at::gelu(x[0], "tanh")}; };
           if (large && kind == Act::kSilu) i.peer = "at::silu", i.peer_op = [](const Tensors& x, const Tensors&) { return Tensors{at::silu(x[0])}; };
           if (large && kind == Act::kRelu) i.peer = "at::relu", i.peer_op = [](const Tensors& x, const Tensors&) { return Tensors{at::relu(x[0])}; };
           return i;
         }};
  c.grad = !large, c.perf = large;
  return c;
}

Case glu_row(const char* op, Glu kind, std::string name, int64_t rows, int64_t cols, GluOptions o, bool weighted, bool large) {
  Case c{op, std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           at::Tensor x = 2 * normal(b, {rows, 2 * cols});
           if (o.clamp > 0) x = away_from(away_from(x, o.clamp), -o.clamp);
           if (kind == Glu::kReglu) x = away_from(x, 0);
           i.inputs = {x};
           if (weighted) i.inputs.push_back(at::rand({rows}, f32_on(b)));
           i.op = [=](const std::vector<at::Tensor>& in, std::deque<Weight>&, const Policy& p) {
             return std::vector<at::Tensor>{glu(in[0], kind, o, p, weighted ? in[1] : at::Tensor())};
           };
           const double moved = static_cast<double>(rows * cols) * static_cast<double>(x.element_size());
           i.cost = {0, 3 * moved, 0, 5 * moved};
           if (large && kind == Glu::kSwiglu)
             i.peer = "at::silu, mul", i.peer_op = [cols](const Tensors& x, const Tensors&) { return Tensors{at::silu(x[0].narrow(1, 0, cols)) * x[0].narrow(1, cols, cols)}; };
           return i;
         }};
  c.grad = !large, c.perf = large;
  return c;
}

}  // namespace

std::vector<Case> activation_cases() {
  std::vector<Case> all;
  const std::pair<const char*, Act> kinds[] = {{"gelu", Act::kGeluExact}, {"gelu_tanh", Act::kGeluTanh}, {"quick_gelu", Act::kQuickGelu},
                                               {"silu", Act::kSilu},      {"relu", Act::kRelu},          {"relu2", Act::kReluSquared}};
  for (const auto& [op, kind] : kinds) {
    all.push_back(act_row(op, kind, "37x65", 37, 65, false, false));
    all.push_back(act_row(op, kind, "9x33 weighted", 9, 33, true, false));
    all.push_back(act_row(op, kind, "1x1", 1, 1, false, false));
    all.push_back(act_row(op, kind, "0x8", 0, 8, false, false));
    all.push_back(compared(act_row(op, kind, "8192x4096", 8192, 4096, false, true)));
    all.push_back(timed(act_row(op, kind, "32768x3072", 32768, 3072, false, true)));
  }
  const std::pair<const char*, Glu> glus[] = {{"swiglu", Glu::kSwiglu},
                                              {"quick_geglu", Glu::kQuickGeglu},
                                              {"geglu", Glu::kGegluExact},
                                              {"geglu_tanh", Glu::kGegluTanh},
                                              {"reglu", Glu::kReglu}};
  for (const auto& [op, kind] : glus) {
    all.push_back(glu_row(op, kind, "37x65", 37, 65, {}, false, false));
    all.push_back(glu_row(op, kind, "9x33 clamped, offset, weighted", 9, 33, {1.5, 1}, true, false));
    all.push_back(glu_row(op, kind, "1x1", 1, 1, {}, false, false));
    all.push_back(glu_row(op, kind, "0x8", 0, 8, {}, false, false));
    all.push_back(compared(glu_row(op, kind, "8192x4096", 8192, 4096, {}, false, true)));
    all.push_back(timed(glu_row(op, kind, "16384x14336", 16384, 14336, {}, false, true)));
  }
  return all;
}

}  // namespace weft::ops::cases
