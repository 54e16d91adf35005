#include "ops/aten.h"

#include "ops/rmsnorm.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"

namespace weft::ops::cases {

std::vector<Case> rmsnorm_cases() {
  const auto row = [](std::string name, int64_t rows, int64_t cols, bool small) {
    Case c{"rms_norm", std::move(name), {at::kFloat, at::kBFloat16}, [=](const Build& b) {
             at::manual_seed(b.seed);
             const auto options = at::TensorOptions().dtype(b.dtype).device(b.device);
             Instance i;
             i.inputs = {at::randn({rows, cols}, options)};
             i.weights.push_back({"w", at::randn({cols}, options), {}});
             i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
               return std::vector<at::Tensor>{rms_norm(x[0], w[0], 1e-5, p)};
             };
             const double moved = static_cast<double>(rows * cols) * static_cast<double>(i.inputs[0].element_size());
             i.cost = {0, 2 * moved, 0, 3 * moved};
             i.peer = "at::rms_norm", i.peer_op = [cols](const Tensors& x, const Tensors& w) { return Tensors{at::rms_norm(x[0], {cols}, w[0], 1e-5)}; };
             return i;
           }};
    c.grad = small, c.check = true, c.perf = !small;
    if (cols == 1) c.atol = 2e-2;  // dx is what eps leaves of two equal terms
    return c;
  };
  return {row("37x65", 37, 65, true), row("1x1", 1, 1, true), row("0x8", 0, 8, true), compared(row("8192x4096", 8192, 4096, false)), timed(row("32768x4096", 32768, 4096, false)),
          timed(row("16384x7168", 16384, 7168, false))};
}

}  // namespace weft::ops::cases
