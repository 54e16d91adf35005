#include "ops/aten.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "ops/attention.h"
#include "ops/indexer.h"
#include "ops/sparse_mla.h"
#include "ops/tensors.h"
#include "cpu.h"

namespace weft::ops {
namespace {

at::Tensor all_earlier(int64_t T) { return at::arange(T, at::kInt).unsqueeze(0).expand({T, T}).contiguous(); }  // causality is the op's own

}  // namespace

TEST(SparseMla, EveryKeyIsDenseAttention) {
  at::manual_seed(1);
  const int64_t T = 50;
  const at::Tensor q = at::randn({T, 4, 12}), kv = at::randn({T, 12});
  const Packing p = Packing::of({20, 30});
  AttentionOptions o;
  o.scale = 0.2;
  const AttentionOut dense = attention(q, kv.unsqueeze(1), kv.narrow(1, 0, 8).unsqueeze(1), p, o, cpu());
  const SparseMlaOut sparse = sparse_mla(q, {kv, 8}, all_earlier(T), p, 0.2, cpu());
  EXPECT_TRUE(at::allclose(sparse.o_THV, dense.o_THV, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(sparse.lse_TH * std::log(2.0), dense.lse_TH, 1e-5, 1e-6));
}

TEST(SparseMla, AbsorbedIsTheExpandedForm) {
  at::manual_seed(2);
  const int64_t T = 40, H = 3, n = 6, c = 5, r = 4, v = 7;
  Weight up{"kv_up", at::randn({H * (n + v), c}), {}};
  const at::Tensor qn = at::randn({T, H, n}), qp = at::randn({T, H, r}), latent = at::randn({T, c}), kp = at::randn({T, r});
  const at::Tensor kn = at::einsum("tc,hnc->thn", {latent, up.value.view({H, n + v, c}).narrow(1, 0, n)});
  const at::Tensor values = at::einsum("tc,hvc->thv", {latent, up.value.view({H, n + v, c}).narrow(1, n, v)});
  AttentionOptions o;
  o.scale = 0.3;
  const Packing p = Packing::of({15, 25});
  const at::Tensor full = attention(at::cat({qn, qp}, 2), at::cat({kn, kp.unsqueeze(1).expand({T, H, r})}, 2), values, p, o, cpu()).o_THV;
  const at::Tensor q = at::cat({absorb(qn, up, {H, 0, n}, cpu()), qp}, 2);
  const at::Tensor o_latent = sparse_mla(q, {at::cat({latent, kp}, 1), c}, all_earlier(T), p, 0.3, cpu()).o_THV;
  EXPECT_TRUE(at::allclose(expand(o_latent, up, {H, n, v}, cpu()), full, 1e-4, 1e-5));
}

TEST(SparseMla, CodesAreCloseAndNothingElseIsKept) {  // nam56r.md F8
  at::manual_seed(5);
  const int64_t T = 90;
  const Packing p = Packing::of({50, 40});
  const at::Tensor q0 = at::randn({T, 4, 12}), kv0 = at::randn({T, 12}), d_o = at::randn({T, 4, 8}), indices = all_earlier(T);
  const auto run = [&](SparseMlaStorage storage, bool drop) {
    const at::Tensor leaf = q0.clone().requires_grad_(true), kv_leaf = kv0.clone().requires_grad_(true);
    at::Tensor q = leaf + 0, kv = kv_leaf + 0;
    const at::Tensor o = sparse_mla(q, {kv, 8}, indices, p, 0.2, cpu(), storage).o_THV;
    const auto weak = c10::weak_intrusive_ptr<c10::TensorImpl>(q.getIntrusivePtr()), weak_kv = c10::weak_intrusive_ptr<c10::TensorImpl>(kv.getIntrusivePtr());
    q.reset(), kv.reset();
    EXPECT_EQ(weak.expired(), drop);
    EXPECT_EQ(weak_kv.expired(), drop);
    o.backward(d_o);
    return std::vector<at::Tensor>{o.detach(), leaf.grad(), kv_leaf.grad()};
  };
  const auto exact = run(SparseMlaStorage::kSame, false);
  for (const SparseMlaStorage storage : {SparseMlaStorage::kF8Tensor, SparseMlaStorage::kF8Row}) {
    const auto coded = run(storage, true);
    for (size_t i = 0; i < exact.size(); ++i) {
      const double error = ((coded[i] - exact[i]).norm() / exact[i].norm()).item<double>();
      EXPECT_LE(error, 6e-2) << i;
      EXPECT_GT(error, 1e-4) << i << ": nothing was rounded";
    }
  }
}

TEST(SparseMla, ALaterTokenChangesNothing) {
  at::manual_seed(3);
  const int64_t T = 60;
  const at::Tensor q = at::randn({T, 2, 6}), kv = at::randn({T, 6});
  const Packing p = Packing::of({35, 25});
  const at::Tensor before = sparse_mla(q, {kv, 4}, all_earlier(T), p, 0.4, cpu()).o_THV;
  at::Tensor other = kv.clone();
  other[30].fill_(NAN);
  const at::Tensor after = sparse_mla(q, {other, 4}, all_earlier(T), p, 0.4, cpu()).o_THV;
  EXPECT_TRUE(after.narrow(0, 0, 30).equal(before.narrow(0, 0, 30)));
  EXPECT_TRUE(after.narrow(0, 35, 25).equal(before.narrow(0, 35, 25)));
  EXPECT_TRUE(at::isnan(after.narrow(0, 30, 5)).all().item<bool>());
}

TEST(SparseMla, ATokenWithoutKeysGivesZeroAndNoGradient) {
  const at::Tensor q = at::randn({4, 2, 6}).requires_grad_(true), kv = at::randn({4, 6}).requires_grad_(true);
  at::Tensor indices = all_earlier(4).clone();
  indices[2].fill_(-1);
  const SparseMlaOut out = sparse_mla(q, {kv, 4}, indices, Packing::of({4}), 1, cpu());
  EXPECT_EQ(out.o_THV[2].abs().max().item<float>(), 0);
  EXPECT_TRUE(at::isneginf(out.lse_TH[2]).all().item<bool>());
  out.o_THV.sum().backward();
  EXPECT_EQ(q.grad()[2].abs().max().item<float>(), 0);
  EXPECT_TRUE(at::isfinite(kv.grad()).all().item<bool>());
}

TEST(Indexer, ChoosesTheHighestAndBreaksTiesDownward) {
  // One head, gate 1, q = 1: the score of a key is its relu.
  const at::Tensor k = at::tensor({3.0f, 1.0f, 3.0f, -2.0f, 3.0f, NAN}).unsqueeze(1), q = at::ones({6, 1, 1}), gate = at::ones({6, 1});
  const at::Tensor idx = indexer_topk({q, k, gate}, Packing::of({6}), 2, cpu());
  EXPECT_TRUE(idx.equal(at::tensor({0, -1, 0, 1, 0, 2, 0, 2, 0, 2, 0, 5}, at::kInt).view({6, 2})));
  const at::Tensor two = indexer_topk({q, k, gate}, Packing::of({2, 4}), 3, cpu());
  EXPECT_TRUE(two[3].equal(at::tensor({2, 3, -1}, at::kInt)));
}

TEST(Indexer, ALaterTokenNeverChangesAChoice) {
  at::manual_seed(4);
  const at::Tensor q = at::randn({200, 2, 4}), gate = at::rand({200, 2});
  at::Tensor k = at::randn({200, 4});
  const at::Tensor before = indexer_topk({q, k, gate}, Packing::of({200}), 16, cpu());
  k[150].fill_(9);
  EXPECT_TRUE(indexer_topk({q, k, gate}, Packing::of({200}), 16, cpu()).narrow(0, 0, 150).equal(before.narrow(0, 0, 150)));
}

TEST(Indexer, LossIsZeroAtItsTargetAndPackedIsSeparate) {
  at::manual_seed(5);
  // One main head whose logits are the indexer's own scores: the two distributions are one.
  const at::Tensor q = at::randn({30, 1, 5}), k = at::randn({30, 5}), gate = at::ones({30, 1});
  const Packing p = Packing::of({12, 18});
  EXPECT_NEAR(indexer_loss({q, k, gate, false}, {q, k.unsqueeze(1), 1}, {}, {}, 1, p, cpu()).item<float>(), 0, 1e-6);
  const at::Tensor target = at::randn({30, 2, 5});
  const auto loss = [&](int64_t first, int32_t n) {
    return indexer_loss({q.narrow(0, first, n), k.narrow(0, first, n), gate.narrow(0, first, n)}, {target.narrow(0, first, n), k.narrow(0, first, n).unsqueeze(1), 1}, {}, {}, 1, Packing::of({n}), cpu()).item<float>();
  };
  const float both = indexer_loss({q, k, gate}, {target, k.unsqueeze(1), 1}, {}, {}, 1, p, cpu()).item<float>();
  EXPECT_NEAR(both, (12 * loss(0, 12) + 18 * loss(12, 18)) / 30, 1e-5);
}

TEST(Sparse, RefuseWhatBreaksTheContract) {
  const at::Tensor q = at::zeros({4, 2, 6}), kv = at::zeros({4, 6});
  EXPECT_THROW(sparse_mla(q, {at::zeros({4, 5}), 4}, all_earlier(4), Packing::of({4}), 1, cpu()), ShapeError);
  EXPECT_THROW(sparse_mla(q, {kv, 7}, all_earlier(4), Packing::of({4}), 1, cpu()), ShapeError);
  EXPECT_THROW(sparse_mla(q, {kv, 4}, all_earlier(4).to(at::kLong), Packing::of({4}), 1, cpu()), ShapeError);
  EXPECT_THROW(indexer_topk({q, at::zeros({4, 5}), at::zeros({4, 2})}, Packing::of({4}), 2, cpu()), ShapeError);
}

}  // namespace weft::ops
