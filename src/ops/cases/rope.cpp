#include "ops/aten.h"

#include "ops/rope.h"

#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

struct Row {
  const char* name;
  int64_t tokens, heads, dim, first, rotated;
  kernels::Rope::Pairing pairing;
  bool yarn, large;
};

Case rope_row(const Row& r) {
  Case c{"rope", r.name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           RopeSpec spec{r.rotated};
           if (r.yarn) spec.scaling = {RopeScaling::kYarn, 40, 4096};
           const RopeTable table = rope_table(spec, 4096, b.device);
           const at::Tensor positions = at::randint(4096, {r.tokens}, at::kInt).to(b.device);
           Instance i;
           i.inputs = {at::randn({r.tokens, r.heads, r.dim}, at::TensorOptions().dtype(b.dtype).device(b.device))};
           RopeOptions o;
           o.pairing = r.pairing, o.first = r.first;
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             return std::vector<at::Tensor>{rope(x[0], positions, table, o, p)};
           };
           const double n = static_cast<double>(r.tokens * r.heads * r.dim), bytes = 2 * n * static_cast<double>(i.inputs[0].element_size());
           i.cost = {3 * n, bytes, 3 * n, bytes};
           return i;
         }};
  c.grad = !r.large, c.perf = r.large;
  return c;
}

}  // namespace

std::vector<Case> rope_cases() {
  using R = kernels::Rope;
  return {rope_row({"7x3x8 half", 7, 3, 8, 0, 8, R::kHalf, false, false}),
          rope_row({"7x3x8 adjacent partial", 7, 3, 8, 2, 4, R::kAdjacent, false, false}),
          rope_row({"5x2x24 adjacent to half yarn", 5, 2, 24, 16, 8, R::kAdjacentToHalf, true, false}),
          rope_row({"1x1x2", 1, 1, 2, 0, 2, R::kHalf, false, false}),
          rope_row({"0x4x8", 0, 4, 8, 0, 8, R::kHalf, false, false}),
          rope_row({"8192x32x128", 8192, 32, 128, 0, 128, R::kHalf, false, true}),
          rope_row({"32768x32x128 last 64 adjacent to half", 32768, 32, 128, 64, 64, R::kAdjacentToHalf, false, true})};
}

}  // namespace weft::ops::cases
