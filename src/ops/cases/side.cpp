#include "ops/aten.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"
#include "ops/hadamard.h"
#include "ops/kl.h"
#include "ops/ngram.h"
#include "ops/quantize.h"
#include "ops/structure.h"

namespace weft::ops::cases {
namespace {

NgramTables small_tables(const Build& b) {
  const auto i64 = at::TensorOptions().dtype(at::kLong).device(b.device);
  return {at::randint(1 << 30, {4, 3}, i64) * 2 + 1, at::randint(1 << 30, {4}, i64), at::tensor({11, 13, 17, 19}, i64), at::tensor({0, 11, 24, 41}, i64),
          at::tensor({2, 2, 3, 1}, i64.dtype(at::kInt))};
}

Case ngram_row(std::string name, std::vector<int32_t> documents, bool cross) {
  Case c{"ngram_embedding", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           const auto packing = std::make_shared<Packing>(Packing::of(documents, b.device));
           const NgramTables tables = small_tables(b);
           const at::Tensor tokens = integers(b, 1 << 17, {packing->tokens()});
           i.weights.push_back({"w", normal(b, {60, 5}), {}});
           i.op = [=](const std::vector<at::Tensor>&, std::deque<Weight>& w, const Policy& p) {
             const Packing* k = cross ? nullptr : packing.get();
             return std::vector<at::Tensor>{ngram_rows(tokens, tables, k, p), ngram_embedding(tokens, tables, k, w[0], p)};
           };
           return i;
         }};
  return c;
}

Case quantize_row(std::string name, int64_t rows, int64_t cols, QuantizeOptions o, bool large = false) {
  Case c{"quantize", std::move(name), kFloats, [=](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           at::Tensor x = normal(b, {rows, cols}) * at::exp(normal(b, {rows, cols}));
           if (rows > 2) x[1].zero_();  // a block without a maximum
           i.inputs = {x};
           i.op = [=](const std::vector<at::Tensor>& in, std::deque<Weight>&, const Policy& p) {
             const at::Tensor x = in[0].detach();
             const Quantized q = quantize(x, o.block == QuantBlock::kTensor ? amax(x, p) : at::Tensor(), o, p);
             std::vector<at::Tensor> out{q.q.view(at::kByte), q.scale.contiguous().view(at::kInt)};  // exact, to the bit
             if (o.transposed) out.push_back(q.q_t.view(at::kByte));
             if (q.scale_t.defined()) out.push_back(q.scale_t.contiguous().view(at::kInt));
             return out;
           };
           // A maximum of all, or of every column, comes first.
           const double reads = o.block == QuantBlock::kTensor || (o.block == QuantBlock::kRow && o.transposed) ? 2 : 1;
           i.cost = {0, reads * static_cast<double>(x.nbytes()) + static_cast<double>(rows * cols) * (o.transposed ? 2 : 1), 0, 0};
           return i;
         }};
  c.grad = false, c.perf = large, c.check = !large;
  return c;
}

}  // namespace

// 262,144 tokens, 16 tables of half a million rows of 16 (nam56r.md 7).
Case large_ngram_row() {
  Case c{"ngram_embedding", "262144 of 16 tables of 499979 x 16", kFloats, [](const Build& b) {
           at::manual_seed(b.seed);
           constexpr int64_t kTables = 16, kPrime = 499979, kTokens = 262144, kDim = 16;
           const auto i64 = at::TensorOptions().dtype(at::kLong).device(b.device);
           const NgramTables tables{at::randint(1 << 30, {kTables, 3}, i64) * 2 + 1, at::randint(1 << 30, {kTables}, i64), at::full({kTables}, kPrime, i64),
                                    at::arange(kTables, i64) * kPrime, at::arange(kTables, i64).remainder(2).add(2).to(at::kInt)};
           const auto packing = std::make_shared<Packing>(Packing::of(std::vector<int32_t>(64, 4096), b.device));
           const at::Tensor tokens = integers(b, 1 << 17, {kTokens});
           Instance i;
           i.weights.push_back({"w", normal(b, {kTables * kPrime, kDim}), {}});
           i.op = [=](const std::vector<at::Tensor>&, std::deque<Weight>& w, const Policy& p) { return std::vector<at::Tensor>{ngram_embedding(tokens, tables, packing.get(), w[0], p)}; };
           const double numbers = static_cast<double>(kTokens * kTables * kDim), size = static_cast<double>(i.weights[0].value.element_size());
           i.cost = {0, 2 * numbers * size, 0, numbers * (size + 8)};
           return i;
         }};
  return timed(c);
}

std::vector<Case> ngram_cases() { return {large_ngram_row(), ngram_row("packed 1+12+0+30", {1, 12, 0, 30}, false), ngram_row("crossing 12+30", {12, 30}, true), ngram_row("0", {0}, false)}; }

std::vector<Case> structure_cases() {
  const auto row = [](std::string name, int64_t tokens, std::vector<bool> active) {
    Case c{"structure_embedding", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             std::vector<StructureStream> streams;
             int64_t total = 0;
             for (size_t k = 0; k < active.size(); ++k) {
               const int64_t classes = 3 + static_cast<int64_t>(k);
               const at::Tensor ids = at::randint(-1, classes + 2, {tokens}, at::TensorOptions().dtype(at::kInt).device(b.device));
               streams.push_back({active[k] ? ids : at::Tensor(), classes});
               total += classes;
             }
             i.weights.push_back({"table", normal(b, {total, 6}), {}});
             i.weights.push_back({"scale", at::randn({static_cast<int64_t>(active.size())}, f32_on(b)), {}});
             i.op = [=](const std::vector<at::Tensor>&, std::deque<Weight>& w, const Policy& p) {
               return std::vector<at::Tensor>{structure_embedding(streams, tokens, w[0], w[1], p)};
             };
             return i;
           }};
    return c;
  };
  Case large{"structure_embedding", "1048576 of 9 and 16 classes x 64", kFloats, [](const Build& b) {
               at::manual_seed(b.seed);
               constexpr int64_t kTokens = 1 << 20;
               const auto ids = [&](int64_t classes) { return at::randint(-1, classes, {kTokens}, at::TensorOptions().dtype(at::kInt).device(b.device)); };
               const std::vector<StructureStream> streams{{ids(9), 9}, {ids(16), 16}};
               Instance i;
               i.weights.push_back({"table", normal(b, {25, 64}), {}});
               i.weights.push_back({"scale", at::randn({2}, f32_on(b)), {}});
               i.op = [=](const std::vector<at::Tensor>&, std::deque<Weight>& w, const Policy& p) { return std::vector<at::Tensor>{structure_embedding(streams, kTokens, w[0], w[1], p)}; };
               const double moved = static_cast<double>(kTokens) * (8 + 64 * static_cast<double>(i.weights[0].value.element_size()));
               i.cost = {0, moved, 0, moved};
               return i;
             }};
  return {timed(large), row("37, all", 37, {true, true, true}), row("37, one missing", 37, {true, false, true}), row("9, none", 9, {false, false}), row("0", 0, {true})};
}

std::vector<Case> hadamard_cases() {
  const auto row = [](std::string name, int64_t rows, int64_t cols, bool large) {
    Case c{"hadamard", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             i.inputs = {normal(b, {rows, cols})};
             const double scale = 1 / std::sqrt(static_cast<double>(cols));
             i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) { return std::vector<at::Tensor>{hadamard(x[0], scale, p)}; };
             const double moved = static_cast<double>(i.inputs[0].nbytes());
             i.cost = {0, 2 * moved, 0, 2 * moved};
             return i;
           }};
    c.grad = !large, c.perf = large;
    return c;
  };
  return {row("37x64", 37, 64, false), row("3x1", 3, 1, false), row("0x8", 0, 8, false), compared(row("65536x128", 65536, 128, true)), timed(row("1048576x128", 1048576, 128, true)), timed(row("32768x4096", 32768, 4096, true))};
}

std::vector<Case> quantize_cases() {
  std::vector<Case> all;
  const std::pair<const char*, QuantBlock> blocks[] = {
      {"tensor", QuantBlock::kTensor}, {"row", QuantBlock::kRow}, {"1x128", QuantBlock::k1x128}, {"128x128", QuantBlock::k128x128}};
  for (const auto& [name, block] : blocks) {
    all.push_back(quantize_row(std::string(name) + " 150x270", 150, 270, {block, DType::kF8E4M3, false, true}));
    all.push_back(quantize_row(std::string(name) + " 37x65 e5m2, powers of two", 37, 65, {block, DType::kF8E5M2, true, false}));
    all.push_back(quantize_row(std::string(name) + " 32768x4096", 32768, 4096, {block, DType::kF8E4M3, false, true}, true));
  }
  return all;
}

std::vector<Case> kl_cases() {
  const auto row = [](std::string name, int64_t tokens, int64_t vocab, double temperature, bool large = false) {
    Case c{"kl_divergence", std::move(name), kFloats, [=](const Build& b) {
             at::manual_seed(b.seed);
             Instance i;
             i.inputs = {2 * normal(b, {tokens, vocab})};
             const at::Tensor teacher = 2 * normal(b, {tokens, vocab});
             i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>&, const Policy& p) {
               return std::vector<at::Tensor>{kl_divergence(x[0], teacher.to(x[0].scalar_type()), temperature, p)};
             };
             const double bytes = static_cast<double>(teacher.nbytes());
             i.cost = {0, 2 * bytes, 0, 3 * bytes};
             return i;
           }};
    c.grad = c.check = !large, c.perf = large;
    return c;
  };
  return {row("2048x131072", 2048, 131072, 1, true), row("37x65", 37, 65, 1), row("9x33 T 2", 9, 33, 2), row("1x1", 1, 1, 1), row("0x8", 0, 8, 1)};
}

}  // namespace weft::ops::cases
