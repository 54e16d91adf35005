#include "ops/aten.h"

#include "ops/conv1d.h"

#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

struct Row {
  const char* name;
  std::vector<int32_t> lengths;
  int64_t channels, width;
  bool silu, bias, states, large;
};

Case conv_row(const Row& r) {
  Case c{"causal_conv1d", r.name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const Packing packing = Packing::of(r.lengths, b.device);
           const auto options = at::TensorOptions().dtype(b.dtype).device(b.device);
           Instance i;
           i.inputs = {at::randn({packing.tokens(), r.channels}, options)};
           if (r.states) i.inputs.push_back(at::randn({packing.documents(), r.channels, r.width - 1}, options));
           i.weights.push_back({"w", at::randn({r.channels, r.width}, options), {}});
           if (r.bias) i.weights.push_back({"bias", at::randn({r.channels}, options), {}});
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             const ConvOut out = causal_conv1d(x[0], w[0], r.bias ? &w[1] : nullptr, r.silu, packing, r.states ? x[1] : at::Tensor(), r.states, p);
             return r.states ? std::vector<at::Tensor>{out.y_TC, out.final_state_nCW} : std::vector<at::Tensor>{out.y_TC};
           };
           const double n = static_cast<double>(packing.tokens() * r.channels), moved = 2 * n * static_cast<double>(i.inputs[0].element_size());
           i.cost = {2 * n * static_cast<double>(r.width), moved, 6 * n * static_cast<double>(r.width), 1.5 * moved};
           return i;
         }};
  c.grad = !r.large, c.perf = r.large, c.check = !r.large;
  return c;
}

}  // namespace

std::vector<Case> conv1d_cases() {
  return {conv_row({"packed 1+6+0+2 w4 silu states", {1, 6, 0, 2}, 5, 4, true, true, true, false}),
          conv_row({"9 w4 no bias", {9}, 70, 4, true, false, false, false}),
          conv_row({"5+2 w3 linear", {5, 2}, 3, 3, false, true, true, false}),
          conv_row({"4 w1", {4}, 2, 1, true, true, false, false}),
          conv_row({"no token", {0}, 4, 4, true, true, false, false}),
          conv_row({"32768x10240 w4", {32768}, 10240, 4, true, true, false, true}),
          conv_row({"4x1024x1280 w4", {1024, 1024, 1024, 1024}, 1280, 4, true, true, false, true})};
}

}  // namespace weft::ops::cases
