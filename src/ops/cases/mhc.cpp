#include "ops/aten.h"

#include "ops/mhc.h"
#include "ops/mhc_layers.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

Case row(const char* op, std::string name, std::function<Instance(const Build&)> build) {
  Case c{op, std::move(name), kFloats, [build](const Build& b) {
           at::manual_seed(b.seed);
           return build(b);
         }};
  return c;
}

// Two layers and their edge; f of each is its u times a tensor.
Instance two_layers(const Build& b, int64_t tokens, int64_t n, int64_t dim, bool transposed) {
  Instance i;
  i.inputs = {normal(b, {tokens, n, dim}), normal(b, {tokens, dim}), normal(b, {tokens, dim})};
  for (int layer = 0; layer < 2; ++layer) {
    const std::string of = " of layer " + std::to_string(layer);
    i.weights.push_back({"w" + of, at::randn({n * n + 2 * n, n * dim}, f32_on(b)) / std::sqrt(static_cast<double>(n * dim)), {}});
    i.weights.push_back({"alpha" + of, at::randn({3}, f32_on(b)), {}});
    i.weights.push_back({"bias" + of, at::randn({n * n + 2 * n}, f32_on(b)), {}});
  }
  i.weights.push_back({"bias of f", normal(b, {dim}), {}});
  i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
    MhcMapping first{&w[0], &w[1], &w[2]}, second{&w[3], &w[4], &w[5]};
    first.transposed = second.transposed = transposed;
    const MhcStreams begun = mhc_begin(x[0], first, p), next = mhc_next(begun, begun.u_TC() * x[1], &w[6], second, p);
    return std::vector<at::Tensor>{mhc_end(next, next.u_TC() * x[2], nullptr, p)};
  };
  return i;
}

Instance sinkhorn(const Build& b, int64_t tokens, int64_t n) {
  Instance i;
  i.inputs = {2 * at::randn({tokens, n, n}, f32_on(b))};
  i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) { return std::vector<at::Tensor>{mhc_sinkhorn(x[0], 20, 1e-6, p)}; };
  return i;
}

Instance project(const Build& b, int64_t tokens, int64_t width, double weights) {
  Instance i;
  i.inputs = {normal(b, {tokens, width})};
  i.weights.push_back({"w", weights * at::randn({24, width}, f32_on(b)), {}});
  i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
    const MhcProjected out = mhc_project(x[0], w[0], 1e-6, p);
    return std::vector<at::Tensor>{out.proj_TO, out.r_T};
  };
  return i;
}

Instance map(const Build& b, int64_t tokens) {
  Instance i;
  i.inputs = {at::randn({tokens, 24}, f32_on(b)), at::rand({tokens}, f32_on(b))};
  i.weights.push_back({"alpha", at::randn({3}, f32_on(b)), {}});
  i.weights.push_back({"bias", at::randn({24}, f32_on(b)), {}});
  i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
    const MhcMapped out = mhc_map(x[0], x[1], w[0], w[1], 4, 1e-6, p);
    return std::vector<at::Tensor>{out.pre_Tn, out.post_Tn, out.res_Tnn};
  };
  return i;
}

Instance aggregate(const Build& b, int64_t tokens, int64_t n, int64_t dim) {
  Instance i;
  i.inputs = {normal(b, {tokens, n, dim}), at::randn({tokens, n}, f32_on(b))};
  i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) { return std::vector<at::Tensor>{mhc_aggregate(x[0], x[1], p)}; };
  return i;
}

Instance post(const Build& b, int64_t tokens, int64_t n, int64_t dim, bool bias, bool transposed) {
  Instance i;
  i.inputs = {normal(b, {tokens, n, dim}), normal(b, {tokens, dim}), at::randn({tokens, n, n}, f32_on(b)), at::randn({tokens, n}, f32_on(b))};
  if (bias) i.weights.push_back({"bias", normal(b, {dim}), {}});
  i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
    return std::vector<at::Tensor>{mhc_post(x[0], x[1], bias ? &w[0] : nullptr, x[2], x[3], transposed, p)};
  };
  return i;
}

}  // namespace

std::vector<Case> mhc_cases() {
  std::vector<Case> all;
  for (const int64_t tokens : {13, 1, 0}) {
    const std::string name = std::to_string(tokens) + "x4x10";
    all.push_back(row("mhc_sinkhorn", name, [=](const Build& b) { return sinkhorn(b, tokens, 4); }));
    all.push_back(row("mhc_project", name, [=](const Build& b) { return project(b, tokens, 40, 1); }));
    all.push_back(row("mhc_map", name, [=](const Build& b) { return map(b, tokens); }));
    all.push_back(row("mhc_aggregate", name, [=](const Build& b) { return aggregate(b, tokens, 4, 10); }));
    for (const bool transposed : {false, true})
      all.push_back(row("mhc_post", name + (transposed ? " transposed, no bias" : ""), [=](const Build& b) { return post(b, tokens, 4, 10, !transposed, transposed); }));
  }
  for (const int64_t tokens : {5, 1, 0}) all.push_back(row("mhc_layers", std::to_string(tokens) + "x4x6", [=](const Build& b) { return two_layers(b, tokens, 4, 6, false); }));
  all.push_back(row("mhc_layers", "5x2x7 transposed", [=](const Build& b) { return two_layers(b, 5, 2, 7, true); }));
  all.push_back(row("mhc_layers", "37x4x64", [=](const Build& b) { return two_layers(b, 37, 4, 64, false); }));
  all.back().grad = false, all.back().grad_why_not = "the smaller rows differentiate the same nodes";  // this one is for the kernels' shape
  // The goal's shape: 32,768 tokens of four streams of 7,168.
  const int64_t T = 32768, n = 4, C = 7168;
  const double stream = 2.0 * T * n * C, one = 2.0 * T * C;  // bytes
  const auto large = [&](const char* op, Cost cost, std::function<Instance(const Build&)> build) {
    Case c = row(op, "32768x4x7168", [=](const Build& b) {
      Instance i = build(b);
      i.cost = cost;
      return i;
    });
    c.dtypes = {at::kBFloat16}, c.grad = c.check = false, c.perf = true;
    all.push_back(c);
  };
  large("mhc_sinkhorn", {0, 128.0 * T, 0, 192.0 * T}, [=](const Build& b) { return sinkhorn(b, T, n); });
  large("mhc_project", {2.0 * T * 24 * n * C, stream, 4.0 * T * 24 * n * C, 2 * stream}, [=](const Build& b) { return project(b, T, n * C, 0.01); });
  large("mhc_map", {0, T * 4.0 * 49, 0, T * 4.0 * 74}, [=](const Build& b) { return map(b, T); });
  large("mhc_aggregate", {0, stream + one, 0, 2 * stream + one}, [=](const Build& b) { return aggregate(b, T, n, C); });
  large("mhc_post", {0, 2 * stream + one, 0, 3 * stream + 2 * one}, [=](const Build& b) { return post(b, T, n, C, false, false); });
  large("mhc_layers", {0, 7 * stream + 4 * one, 0, 12 * stream + 8 * one}, [=](const Build& b) { return two_layers(b, T, n, C, false); });
  return all;
}

}  // namespace weft::ops::cases
