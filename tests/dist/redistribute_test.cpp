#include "ops/aten.h"

#include "dist/redistribute.h"

#include <gtest/gtest.h>

#include <mutex>

#include "base/error.h"
#include "comm/threads.h"

namespace weft {
namespace {

using enum Axis;

Place shard(int dim, int replicas = 1, bool zigzag = false) { return {Place::kShard, static_cast<int8_t>(dim), static_cast<int16_t>(replicas), zigzag}; }
constexpr Place kAddend{Place::kPartial}, kCopy{};

// The local tensor of `whole` under a layout; addends are whole / n with a bump that sums to nothing.
at::Tensor local(const at::Tensor& whole, const Layout& layout, const Mesh& mesh) {
  at::Tensor t = whole.clone();
  for (const auto& [axis, place] : layout.major_to_minor)
    if (place.kind == Place::kPartial) {
      const double n = mesh.size(axis), c = mesh.coord(axis);
      t = t / n + (c - (n - 1) / 2);
    }
  std::vector<at::Tensor> parts;
  const std::vector<Box> boxes = local_boxes(layout, whole.sizes().vec(), mesh);
  if (boxes.size() == 1) {
    for (int64_t d = 0; d < t.dim(); ++d) t = t.narrow(d, boxes[0].offset[static_cast<size_t>(d)], boxes[0].shape[static_cast<size_t>(d)]);
    return t.contiguous();
  }
  int64_t dim = 0;  // the boxes differ in one dim
  while (boxes[0].offset[static_cast<size_t>(dim)] == boxes[1].offset[static_cast<size_t>(dim)]) ++dim;
  for (const Box& b : boxes) {
    at::Tensor p = t;
    for (int64_t d = 0; d < t.dim(); ++d) p = p.narrow(d, b.offset[static_cast<size_t>(d)], b.shape[static_cast<size_t>(d)]);
    parts.push_back(p);
  }
  return at::cat(parts, dim).contiguous();
}

bool has_addends(const Layout& l) {
  return std::any_of(l.major_to_minor.begin(), l.major_to_minor.end(), [](const auto& s) { return s.second.kind == Place::kPartial; });
}

}  // namespace

TEST(Redistribute, EveryPairOfLayoutsGivesTheSameWholeTensor) {
  const std::vector<Layout> layouts = {{},
                                       {{{kTp, shard(0)}}, {}},
                                       {{{kTp, shard(1)}}, {}},
                                       {{{kTp, kAddend}}, {}},
                                       {{{kTp, shard(0, 1, true)}}, {}},
                                       {{{kTp, shard(1)}}, {8, 12, 4}},
                                       {{{kTp, shard(0, 2)}}, {}},
                                       {{{kTp, shard(1)}, {kDp, shard(1)}}, {8, 16}},
                                       {{{kDp, shard(0)}, {kTp, shard(1)}}, {}},
                                       {{{kDp, kAddend}, {kTp, kAddend}}, {}}};
  at::manual_seed(2);
  const at::Tensor whole = at::randn({16, 24, 3}, at::kDouble);
  run_ranks(8, [&](World& world) {
    const Mesh mesh = Mesh::build({.dp = 2, .tp = 4}, world);
    for (size_t a = 0; a < layouts.size(); ++a)
      for (size_t b = 0; b < layouts.size(); ++b) {
        if (a == b) continue;
        const at::Tensor out = redistribute(local(whole, layouts[a], mesh), layouts[a], layouts[b], {}, mesh);
        if (has_addends(layouts[b])) {
          EXPECT_TRUE(at::allclose(redistribute(out, layouts[b], {}, {}, mesh), whole)) << a << " " << b;
        } else {
          EXPECT_TRUE(at::allclose(out, local(whole, layouts[b], mesh))) << a << " " << b;
        }
      }
  });
}

// A column-parallel product and a row-parallel one, each rank for its slice: loss and gradients are those of one rank.
TEST(Redistribute, TheCotangentFixesTheBackward) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({8, 6}, at::kDouble), w1 = at::randn({12, 6}, at::kDouble), w2 = at::randn({6, 12}, at::kDouble), g = at::randn({8, 6}, at::kDouble);
  at::Tensor ref = x.clone().requires_grad_(true);
  (at::linear(at::linear(ref, w1).tanh(), w2) * g).sum().backward();
  for (bool wrong : {false, true})
    run_ranks(4, [&](World& world) {
      const Mesh mesh = Mesh::build({.tp = 4}, world);
      const Layout rows{{{kTp, shard(0)}}, {}}, whole{}, addends{{{kTp, kAddend}}, {}};
      at::Tensor mine = local(x, rows, mesh).requires_grad_(true);
      // Gather the rows: each rank uses all of them for its part of the sum, so the gradient comes back as addends.
      const at::Tensor all = redistribute(mine, rows, whole, wrong ? whole : addends, mesh);
      const at::Tensor h = at::linear(all, local(w1, {{{kTp, shard(0)}}, {}}, mesh)).tanh();
      const at::Tensor part = at::linear(h, local(w2, {{{kTp, shard(1)}}, {}}, mesh));
      const at::Tensor y = redistribute(part, addends, rows, rows, mesh);
      (y * local(g, rows, mesh)).sum().backward();
      EXPECT_EQ(at::allclose(mine.grad(), local(ref.grad(), rows, mesh)), !wrong);
    });
}

TEST(Redistribute, RefusesWhatCannotBeCut) {
  run_ranks(2, [](World& world) {
    const Mesh mesh = Mesh::build({.tp = 2}, world);
    EXPECT_THROW(redistribute(at::ones({3, 2}), {}, {{{kTp, shard(0)}}, {}}, {}, mesh), ShapeError);
    EXPECT_THROW(redistribute(at::ones({4, 2}), {}, {{{kTp, shard(2)}}, {}}, {}, mesh), ShapeError);
  });
}

}  // namespace weft
