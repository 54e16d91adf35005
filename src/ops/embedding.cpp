#include "ops/aten.h"

#include "ops/embedding.h"

#include "kernels/embedding/embedding.h"
#include "ops/address.h"
#include "ops/node.h"
#include "ops/run.h"

namespace weft::ops {
namespace reference {

at::Tensor embedding(const at::Tensor& tokens, const at::Tensor& w, int64_t begin) {
  const at::Tensor row = tokens - begin, mine = (row >= 0).logical_and(row < w.size(0));
  std::vector<int64_t> shape = tokens.sizes().vec();
  shape.push_back(w.size(1));
  if (w.size(0) == 0) return at::zeros(shape, w.options());
  const at::Tensor y = w.index_select(0, row.clamp(0, w.size(0) - 1).reshape({-1})).view(shape);
  return at::where(mine.unsqueeze(-1), y, at::zeros_like(y));
}

at::Tensor embedding_bwd(const at::Tensor& dy, const at::Tensor& tokens, const at::Tensor& w, int64_t begin) {
  const at::Tensor row = (tokens - begin).reshape({-1}), mine = (row >= 0).logical_and(row < w.size(0));
  const at::Tensor dw = at::zeros(w.sizes(), w.options().dtype(wide(w)));
  if (w.size(0) == 0) return dw;
  return dw.index_add_(0, row.clamp(0, w.size(0) - 1), dy.reshape({-1, w.size(1)}).to(wide(w)).masked_fill(mine.logical_not().unsqueeze(1), 0));
}

}  // namespace reference

namespace {

using kernels::EmbeddingBwd;
using kernels::EmbeddingFwd;

constexpr Candidate<EmbeddingFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_embedding_fwd_sm90>, nullptr, kernels::embedding_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_embedding_fwd_cpu>, nullptr,
     kernels::embedding_fwd_cpu},
};
constexpr Candidate<EmbeddingBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_embedding_bwd_sm90>, kernels::workspace_embedding_bwd_sm90, kernels::embedding_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_embedding_bwd_cpu>, nullptr,
     kernels::embedding_bwd_cpu},
};

struct EmbeddingNode final : Node {
  at::Tensor tokens;  // not differentiable: kept as it is
  Weight* w = nullptr;
  int64_t begin = 0;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    EmbeddingBwd a{dy.data_ptr(), address_of<int64_t>(tokens), nullptr, tokens.numel(), begin, w->value.size(0),
                   static_cast<int32_t>(w->value.size(1)), dtype_of(dy)};
    const auto* c = select<EmbeddingBwd>("embedding_bwd", kBwd, a, policy);
    if (c == nullptr) {
      w->accumulate(reference::embedding_bwd(dy, tokens, w->value, begin));
    } else {
      a.dtable = address_of<float>(w->main_grad);
      run(*c, a, dy);
      w->done();
    }
    return {};
  }
};

}  // namespace

void check_embedding_table(const at::Tensor& w) { check_shape(w.dim() == 2 && w.is_contiguous(), "embedding", "table", describe(w), "[V, D] contiguous"); }

at::Tensor embedding_gradient(const at::Tensor& y, const at::Tensor& tokens, Weight& w, const Policy& policy) {
  auto node = make_node<EmbeddingNode>(policy, {}, w.wants_grad());
  if (node) node->tokens = tokens, node->w = &w;
  return attach(node, y);
}

at::Tensor embedding(const at::Tensor& tokens, Weight& w, const Policy& policy, VocabCut cut) {
  check_shape(tokens.scalar_type() == at::kLong && tokens.is_contiguous(), "embedding", "tokens", describe(tokens), "contiguous i64");
  check_embedding_table(w.value);
  const int64_t total = cut.total == 0 ? w.value.size(0) : cut.total;
  if (tokens.is_cpu() && tokens.numel() > 0) {
    const auto [low, high] = tokens.aminmax();
    const int64_t bad = low.item<int64_t>() < 0 ? low.item<int64_t>() : high.item<int64_t>();
    check_shape(bad >= 0 && bad < total, "embedding", "token id", std::to_string(bad), "0 to " + std::to_string(total - 1));
  }
  auto node = make_node<EmbeddingNode>(policy, {}, w.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  std::vector<int64_t> shape = tokens.sizes().vec();
  shape.push_back(w.value.size(1));
  EmbeddingFwd a{w.value.data_ptr(), address_of<int64_t>(tokens), nullptr, tokens.numel(), cut.begin, w.value.size(0),
                 static_cast<int32_t>(w.value.size(1)), dtype_of(w.value)};
  const auto* c = select<EmbeddingFwd>("embedding", kFwd, a, policy);
  at::Tensor y;
  if (c == nullptr) {
    y = reference::embedding(tokens, w.value, cut.begin);
  } else {
    y = at::empty(shape, w.value.options());
    a.y = y.data_ptr();
    run(*c, a, w.value);
  }
  if (node) node->tokens = tokens, node->w = &w, node->begin = cut.begin;
  return attach(node, y);
}

}  // namespace weft::ops
