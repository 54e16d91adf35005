#include "ops/aten.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"
#include "ops/indexer.h"
#include "ops/sparse_mla.h"

namespace weft::ops::cases {
namespace {

at::TensorOptions data(const Build& b) { return at::TensorOptions().dtype(b.dtype).device(b.device); }
at::TensorOptions f32(const Build& b) { return data(b).dtype(b.dtype == at::kDouble ? at::kDouble : at::kFloat); }

// For each token K distinct keys of its own document, spread over what it may see; -1 beyond that. Drawn on the device: sorting T x T numbers takes minutes.
at::Tensor spread_indices(const Packing& packing, int64_t K, at::Device device) {
  std::vector<at::Tensor> all;
  const auto f64 = at::TensorOptions().dtype(at::kDouble).device(device);
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t first = packing.host_cu_q[d], n = packing.host_cu_q[d + 1] - first;
    const at::Tensor seen = at::arange(1, n + 1, f64).unsqueeze(1), at_k = at::arange(K, f64).unsqueeze(0);
    const at::Tensor step = at::maximum(seen / static_cast<double>(K), at::ones({}, f64));
    const at::Tensor key = at::floor(at_k * step + at::rand({n, K}, f64) * (step - 1));  // at least 1 apart, so no key twice
    all.push_back(at::where(key < seen, key + static_cast<double>(first), at::full({}, -1.0, f64)).to(at::kInt));
  }
  return at::cat(all, 0);
}

// K distinct tokens of the row for each token, some of them -1, of another document or later: those are masked.
at::Tensor random_indices(int64_t T, int64_t K, at::Device device) {
  if (T == 0) return at::zeros({0, K}, at::kInt).to(device);
  at::Tensor idx = std::get<1>(at::rand({T, std::max(T, K)}).sort(1)).narrow(1, 0, K);
  idx = idx.masked_fill((idx >= T).logical_or(at::rand({T, K}) < 0.2), -1);
  return idx.to(at::kInt).to(device);
}

struct Row {
  const char* name;
  std::vector<int32_t> lengths;
  int64_t heads, dim, dim_v, keys;
  bool large;
  SparseMlaStorage storage = SparseMlaStorage::kSame;
};

Case mla_row(const Row& r) {
  Case c{"sparse_mla", r.name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const Packing packing = Packing::of(r.lengths, b.device);
           const int64_t T = packing.tokens();
           const at::Tensor indices = r.large ? spread_indices(packing, r.keys, b.device) : random_indices(T, r.keys, b.device);
           Instance i;
           i.inputs = {at::randn({T, r.heads, r.dim}, data(b)), at::randn({T, r.dim}, data(b))};
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             return std::vector<at::Tensor>{sparse_mla(x[0], {x[1], r.dim_v}, indices, packing, 0.3, p, r.storage).o_THV};
           };
           const double work = 2.0 * static_cast<double>(T * r.heads * r.keys) * static_cast<double>(r.dim + r.dim_v);
           const double moved = static_cast<double>(T * (r.heads * (r.dim + r.dim_v) + r.dim)) * static_cast<double>(i.inputs[0].element_size());
           i.cost = {work, moved, 2.5 * work, 2 * moved};
           return i;
         }};
  const bool coded = r.storage != SparseMlaStorage::kSame;
  c.grad = !r.large && !coded, c.perf = r.large, c.check = !r.large;
  if (coded && !r.large) c.grad_why_not = "rounding to FP8 has no slope: the backward is that of the rows without codes, on the values that the codes stand for";
  return c;
}

Case head_row(const char* op, const char* name, int64_t T, int64_t C, HeadRows rows, int64_t per_head, bool large = false) {
  const bool absorbing = std::string(op) == "absorb";
  const Case c{op, name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
            at::manual_seed(b.seed);
            Instance i;
            i.inputs = {at::randn({T, rows.heads, absorbing ? rows.count : C}, data(b))};
            i.weights.push_back({"w", at::randn({rows.heads * per_head, C}, data(b)), {}});
            i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
              return std::vector<at::Tensor>{absorbing ? absorb(x[0], w[0], rows, p) : expand(x[0], w[0], rows, p)};
            };
            const double numbers = static_cast<double>(T * rows.heads), moved = numbers * static_cast<double>(rows.count + C) * static_cast<double>(i.inputs[0].element_size());
            i.cost = {2 * numbers * static_cast<double>(rows.count * C), moved, 4 * numbers * static_cast<double>(rows.count * C), 1.5 * moved};
            return i;
          }};
  return large ? timed(c) : c;
}

Case loss_row(const char* name, std::vector<int32_t> lengths, bool relu, bool sparse, bool weighted) {
  return {"indexer_loss", name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
            at::manual_seed(b.seed);
            const Packing packing = Packing::of(lengths, b.device);
            const int64_t T = packing.tokens(), J = 3, D = 4, H = 4;
            // Products stay clear of the kink of relu: q of the last head points against every k.
            at::Tensor q = at::rand({T, J, D}, data(b)) + 0.2, k = at::rand({T, D}, data(b)) + 0.2;
            if (T > 0) q.select(1, J - 1).neg_();
            const at::Tensor indices = sparse ? random_indices(T, 5, b.device) : at::Tensor(), weights = weighted ? at::rand({T}, f32(b)) : at::Tensor();
            const IndexerTarget target{at::randn({T, H, 6}, f32(b)), at::randn({T, 2, 6}, f32(b)), 0.4};
            Instance i;
            i.inputs = {q, k, at::randn({T, J}, f32(b))};
            i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
              return std::vector<at::Tensor>{indexer_loss({x[0], x[1], x[2], relu}, target, indices, weights, 0.7, packing, p)};
            };
            return i;
          }};
}

// Over the chosen keys of a DSA layer: 256 of 4,096 in each of 8 documents.
Case large_loss_row() {
  return timed({"indexer_loss", "8x4096 h32 d64 k256", {at::kFloat, at::kBFloat16}, [](const Build& b) {
                  at::manual_seed(b.seed);
                  const Packing packing = Packing::of(std::vector<int32_t>(8, 4096), b.device);
                  const int64_t T = packing.tokens(), J = 32, D = 64, H = 32, K = 256;
                  const at::Tensor indices = spread_indices(packing, K, b.device);
                  const IndexerTarget target{at::randn({T, H, 128}, data(b)), at::randn({T, 1, 128}, data(b)), 0.1};
                  Instance i;
                  i.inputs = {at::randn({T, J, D}, data(b)), at::randn({T, D}, data(b)), at::randn({T, J}, f32(b))};
                  i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
                    return std::vector<at::Tensor>{indexer_loss({x[0], x[1], x[2], true}, target, indices, {}, 0.7, packing, p)};
                  };
                  const double pairs = static_cast<double>(T * K), work = 2 * pairs * static_cast<double>(J * D + H * 128);
                  i.cost = {work + 4 * pairs * static_cast<double>(J * D), static_cast<double>(T * (J * D + H * 128)) * static_cast<double>(i.inputs[0].element_size()), 0, 0};
                  return i;
                }});
}

Case topk_row(const char* name, std::vector<int32_t> lengths, int64_t heads, int64_t dim, int64_t top_k, bool large) {
  Case c{"indexer_topk", name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           const Packing packing = Packing::of(lengths, b.device);
           const int64_t T = packing.tokens();
           Instance i;
           // Small whole numbers: products and sums are exact in every dtype, so that the choice is too, ties included.
           i.inputs = {at::randint(-3, 4, {T, heads, dim}, data(b)), at::randint(-3, 4, {T, dim}, data(b)), at::randint(1, 4, {T, heads}, f32(b))};
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
             return std::vector<at::Tensor>{indexer_topk({x[0], x[1], x[2]}, packing, top_k, p)};
           };
           double pairs = 0;
           for (int32_t n : lengths) pairs += 0.5 * n * (n + 1.0);
           i.cost = {2 * pairs * static_cast<double>(heads * dim), static_cast<double>(T * (heads * dim + dim)) * static_cast<double>(i.inputs[0].element_size()), 0, 0};
           return i;
         }};
  c.grad = false, c.grad_why_not = "its output is a choice";
  c.perf = large, c.check = !large;
  return c;
}

}  // namespace

std::vector<Case> sparse_cases() {
  std::vector<Case> all = by_dtype(
      {mla_row({"packed 1+9+0+4 k5", {1, 9, 0, 4}, 2, 6, 4, 5, false}), mla_row({"130 k64 128/64", {130}, 2, 128, 64, 64, false}), mla_row({"one token", {1}, 1, 3, 3, 2, false}),
       mla_row({"no token", {0}, 2, 4, 2, 3, false}), mla_row({"no index", {3}, 2, 4, 2, 0, false}), mla_row({"8x4096 h32 128/64 k256", std::vector<int32_t>(8, 4096), 32, 128, 64, 256, true}),
       mla_row({"f8 packed 1+9+0+4 k5", {1, 9, 0, 4}, 2, 6, 4, 5, false, SparseMlaStorage::kF8Tensor}), mla_row({"f8 130 k64 128/64", {130}, 2, 128, 64, 64, false, SparseMlaStorage::kF8Tensor}),
       mla_row({"f8 rows 130 k64 128/64", {130}, 2, 128, 64, 64, false, SparseMlaStorage::kF8Row}), mla_row({"f8 no token", {0}, 2, 4, 2, 3, false, SparseMlaStorage::kF8Tensor}),
       mla_row({"f8 8x4096 h32 128/64 k256", std::vector<int32_t>(8, 4096), 32, 128, 64, 256, true, SparseMlaStorage::kF8Tensor}),
       head_row("absorb", "5 h3", 5, 4, {3, 0, 2}, 5), head_row("expand", "5 h3 upper rows", 5, 4, {3, 2, 3}, 5), head_row("absorb", "no token", 0, 4, {2, 0, 2}, 2),
       loss_row("dense 1+8+0+3", {1, 8, 0, 3}, true, false, false), loss_row("dense linear weighted 9", {9}, false, false, true), loss_row("sparse 7+5", {7, 5}, true, true, false),
       loss_row("sparse weighted 6", {6}, true, true, true)},
      1e-2);
  all.push_back(head_row("absorb", "32768 h32 64->64", 32768, 64, {32, 0, 64}, 128, true));  // NAM56R's
  all.push_back(head_row("expand", "32768 h32 64->64", 32768, 64, {32, 64, 64}, 128, true));
  all.push_back(head_row("absorb", "32768 h32 128->512", 32768, 512, {32, 0, 128}, 256, true));
  all.push_back(head_row("expand", "32768 h32 512->128", 32768, 512, {32, 128, 128}, 256, true));
  all.push_back(large_loss_row());
  all.push_back(topk_row("packed 1+40+0+9 k6", {1, 40, 0, 9}, 3, 8, 6, false));
  all.push_back(topk_row("300 k64", {300}, 4, 16, 64, false));
  all.push_back(topk_row("8x4096 h32 d64 k256", std::vector<int32_t>(8, 4096), 32, 64, 256, true));
  return all;
}

}  // namespace weft::ops::cases
