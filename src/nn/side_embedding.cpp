#include "ops/aten.h"

#include "nn/side_embedding.h"

#include "base/error.h"
#include "base/rng.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/ngram.h"
#include "ops/structure.h"

namespace weft::nn {
namespace {

bool is_prime(int64_t n) {
  for (int64_t d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return n > 1;
}

int64_t sum(const std::vector<int64_t>& v) {
  int64_t total = 0;
  for (int64_t n : v) total += n;
  return total;
}

}  // namespace

std::vector<int64_t> ngram_primes(const NgramConfig& c) {
  std::vector<int64_t> out;
  for (int64_t n = c.rows; static_cast<int>(out.size()) < c.tables(); ++n)
    if (is_prime(n)) out.push_back(n);
  return out;
}

std::vector<int64_t> StructureConfig::classes() const {
  std::vector<int64_t> all{9, dep_levels, depths, siblings, node_types};
  all.resize(static_cast<size_t>(streams));
  return all;
}

NgramEmbedding::NgramEmbedding(const NgramConfig& c, int64_t model_dim)
    : config_(c),
      table_(param({"table", {sum(ngram_primes(c)), c.dim}, Split::kNone, {}, {Init::kNormal, 1}, GradUse::kPerToken, false, false, false})),
      out_(param({"out.weight", {model_dim, int64_t{c.tables()} * c.dim}, Split::kNone, {}, {Init::kZero, 0}, GradUse::kPerToken, true, false, false})),
      mult_(buffer("mult", {c.tables(), c.max_order}, DType::kI64)), bias_(buffer("bias", {c.tables()}, DType::kI64)),
      prime_(buffer("prime", {c.tables()}, DType::kI64)), offset_(buffer("offset", {c.tables()}, DType::kI64)) {}

void NgramEmbedding::fill_buffers(uint64_t seed) {
  const uint64_t key = rng::mix(seed, path() + ".mult");
  const auto draw = [&](int64_t index) { return static_cast<int64_t>(rng::uniform(key, static_cast<uint64_t>(index)) * 2147483648.0); };
  const std::vector<int64_t> primes = ngram_primes(config_);
  const int64_t tables = config_.tables(), order = config_.max_order;
  std::vector<int64_t> mult, bias, offset{0};
  for (int64_t i = 0; i < tables * order; ++i) mult.push_back(draw(i) | 1);
  for (int64_t t = 0; t < tables; ++t) bias.push_back(draw(tables * order + t)), offset.push_back(offset.back() + primes[static_cast<size_t>(t)]);
  offset.pop_back();
  mult_.copy_(at::tensor(mult, at::kLong).view({tables, order}));
  bias_.copy_(at::tensor(bias, at::kLong)), prime_.copy_(at::tensor(primes, at::kLong)), offset_.copy_(at::tensor(offset, at::kLong));
}

std::vector<StateSpec> NgramEmbedding::states() const {
  return {{path() + ".history", StateSpec::kPerSequence, 0, {config_.max_order - 1}, DType::kI64, false}};
}

at::Tensor NgramEmbedding::rows(const CtxPtr& ctx) {
  const at::Tensor& tokens = ctx->tokens_T;
  if (!orders_.defined() || orders_.device() != tokens.device()) {
    std::vector<int32_t> orders;
    for (int t = 0; t < config_.tables(); ++t) orders.push_back(2 + t / config_.heads);
    orders_ = at::tensor(orders, at::kInt).to(tokens.device());
  }
  const ops::NgramTables n{mult_, bias_, prime_, offset_, orders_};
  if (ctx->state == nullptr) return ops::ngram_rows(tokens, n, config_.cross_documents ? nullptr : &ctx->packing, ctx->ops);
  // Each sequence with what stood before it; zeros before its begin are what the hash has there.
  const int64_t before = config_.max_order - 1, documents = ctx->packing.documents();
  const at::Tensor history = ctx->state->load(path() + ".history");
  std::vector<at::Tensor> parts, kept;
  std::vector<int32_t> lengths;
  for (int64_t i = 0; i < documents; ++i) {
    const int32_t begin = ctx->packing.host_cu_q[static_cast<size_t>(i)], end = ctx->packing.host_cu_q[static_cast<size_t>(i) + 1];
    parts.push_back(at::cat({history[i], tokens.slice(0, begin, end)}));
    kept.push_back(parts.back().slice(0, parts.back().size(0) - before));
    lengths.push_back(static_cast<int32_t>(before) + end - begin);
  }
  ctx->state->store(path() + ".history", at::stack(kept));
  const ops::Packing longer = ops::Packing::of(lengths, tokens.device());
  const at::Tensor all = ops::ngram_rows(at::cat(parts), n, &longer, ctx->ops);
  std::vector<at::Tensor> ours;
  for (int64_t i = 0; i < documents; ++i) ours.push_back(all.slice(0, longer.host_cu_q[static_cast<size_t>(i)] + before, longer.host_cu_q[static_cast<size_t>(i) + 1]));
  return at::cat(ours);
}

Flow NgramEmbedding::forward(Flow f, const CtxPtr& ctx) {
  const at::Tensor rows_TN = rows(ctx);
  const at::Tensor e = ops::embedding(rows_TN, table_, ctx->ops).view({rows_TN.size(0), rows_TN.size(1) * table_.value.size(1)});
  f.x_TD = f.x_TD + ops::linear(e, out_, {}, ctx->wgrad, ctx->ops);
  return f;
}

StructureEmbedding::StructureEmbedding(const StructureConfig& c, int64_t model_dim)
    : classes_(c.classes()),
      table_(param({"table", {sum(classes_), c.dim}, Split::kNone, {}, {Init::kNormal, 0.02}, GradUse::kPerToken, false, false, false})),
      scale_(param({"scale", {c.streams}, Split::kNone, {}, {Init::kConstant, 1.0 / c.streams}, GradUse::kPerToken, false, true, false})),
      up_(param({"up.weight", {model_dim, c.dim}, Split::kNone, {}, {Init::kZero, 0}, GradUse::kPerToken, false, false, false})) {}

Flow StructureEmbedding::forward(Flow f, const CtxPtr& ctx) {
  if (!ctx->streams_ST.defined()) return f;
  const int64_t tokens = ctx->tokens_T.size(0);
  std::vector<ops::StructureStream> streams;
  for (size_t i = 0; i < classes_.size(); ++i) streams.push_back({ctx->streams_ST.select(0, static_cast<int64_t>(i)), classes_[i]});
  const at::Tensor s = ops::structure_embedding(streams, tokens, table_, scale_, ctx->ops);
  f.x_TD = f.x_TD + ops::linear(s, up_, {}, ctx->wgrad, ctx->ops);
  return f;
}

}  // namespace weft::nn
