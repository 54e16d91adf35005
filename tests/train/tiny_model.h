// A model of two layers that learns in milliseconds, and an endless stream of batches that is a function of the place.
#pragma once
#include "ops/aten.h"

#include "base/rng.h"
#include "data/batch.h"
#include "nn/module.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/rmsnorm.h"

namespace weft::train {

constexpr int64_t kVocab = 17, kDim = 8, kSeq = 12;

class TinyModel final : public nn::Module {
 public:
  TinyModel()
      : embed_(param({"embed", {kVocab, kDim}, nn::Split::kVocab, {}, {nn::Init::kNormal, 0.5}, nn::GradUse::kPerToken, true, false, false})),
        norm_(param({"norm", {kDim}, nn::Split::kNone, {}, {nn::Init::kOne, 1}, nn::GradUse::kPerToken, false, false, false})),
        head_(param({"head", {kVocab, kDim}, nn::Split::kVocab, {}, {nn::Init::kNormal, 0.5}, nn::GradUse::kPerToken, true, false, true})),
        load_(buffer("load", {2}, DType::kF32)) {}

  void after_step(const nn::StepStats&) override { load_.add_(1); }

 protected:
  nn::Flow forward(nn::Flow f, const nn::CtxPtr& ctx) override {
    at::Tensor x = ops::embedding(ctx->tokens_T, embed_, ctx->ops);
    x = ops::rms_norm(x, norm_, 1e-5, ctx->ops);
    const at::Tensor logits = ops::linear(x, head_, {}, nullptr, ctx->ops).to(at::kFloat);
    const at::Tensor nll = -at::log_softmax(logits, -1).gather(1, ctx->targets_T.clamp_min(0).unsqueeze(1)).squeeze(1);
    const at::Tensor lm = (nll * ctx->loss_weights_T).sum();
    f.x_TD = x;
    f.loss = lm * ctx->loss_scale.lm;
    if (nn::StepStats* s = ctx->figures()) s->add("loss", lm, ctx->loss_weight_sum);
    return f;
  }

 private:
  ops::Weight &embed_, &norm_, &head_;
  at::Tensor& load_;
};

inline void fill(nn::Module& model, at::ScalarType dtype, uint64_t seed) {
  model.visit_params([&](nn::Param& p) {
    at::Tensor v = at::ones(p.spec.shape);
    if (p.spec.init.kind == nn::Init::kNormal) rng::fill_normal(rng::mix(seed, p.weight.name), 0, std::span(v.data_ptr<float>(), static_cast<size_t>(v.numel())));
    p.weight.value = p.spec.init.kind == nn::Init::kNormal ? (v * p.spec.init.scale).to(dtype) : v.to(dtype);
  });
  model.visit_buffers([](const std::string&, at::Tensor& t) { t = at::zeros(t.sizes()); });
}

// Token t + 1 follows from token t; row r of place p starts anywhere. Some positions have no weight.
class TinySet final : public data::Dataset {
 public:
  int64_t size() const override { return 1000; }
  void read(int64_t index, data::Sample& s) const override {
    s.tokens.assign(1, static_cast<int32_t>(rng::below(7, static_cast<uint64_t>(index), kVocab)));
    for (int64_t i = 0; i < kSeq; ++i) s.tokens.push_back((s.tokens.back() * 3 + 1) % static_cast<int32_t>(kVocab));
    s.loss_weights.assign(kSeq, 1);
    for (int64_t i = 0; i < index % 5; ++i) s.loss_weights[static_cast<size_t>(2 * i)] = 0;
    s.document_starts = {0};
    s.streams.clear();
  }
};

inline std::unique_ptr<data::BatchStream> tiny_stream(int64_t micro_batch, int64_t consumed = 0, int64_t rank = 0, int64_t ranks = 1) {
  data::BatchConfig c;
  c.micro_batch = micro_batch, c.rank = rank, c.ranks = ranks, c.read_ahead = 0;
  auto set = std::make_shared<TinySet>();
  return data::make_stream(set, std::make_shared<data::EpochOrder>(set->size(), 3, true), c, {consumed, 3});
}

}  // namespace weft::train
