#include "ops/aten.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "ops/delta.h"
#include "ops/m2rnn.h"
#include "ops/tensors.h"
#include "cpu.h"

namespace weft::ops {
namespace {

DeltaInputs delta_inputs(int64_t T, at::ScalarType type) {
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, {-1}, true); };
  return {unit(at::randn({T, 2, 8}, type)), unit(at::randn({T, 2, 8}, type)), at::randn({T, 4, 6}, type), -at::rand({T, 4}, type) * 0.4, at::rand({T, 4}, type), {}, {}, 1 / std::sqrt(8.0)};
}

// The same rule for the token-by-token form: one gate value for every channel, key heads repeated.
DeltaInputs spread(const DeltaInputs& in) {
  const auto repeat = [](const at::Tensor& x) { return x.repeat_interleave(2, 1); };
  const auto over = [](const at::Tensor& gate, int64_t n) { return gate.unsqueeze(2).expand({-1, -1, n}).contiguous(); };
  return {repeat(in.q), repeat(in.k), in.v, over(in.g, 8), over(in.beta, 8), over(in.beta, 6), in.initial_state, in.scale};
}

DeltaInputs cut(const DeltaInputs& in, int64_t first, int64_t n) {
  const auto rows = [&](const at::Tensor& t) { return t.narrow(0, first, n); };
  return {rows(in.q), rows(in.k), rows(in.v), rows(in.g), rows(in.beta), {}, {}, in.scale};
}

}  // namespace

TEST(GatedDelta, ChunkedFormIsTheRecurrence) {
  for (const int32_t n : {1, 127, 128, 1000}) {
    at::manual_seed(n);
    const Packing packing = Packing::of({n, 3});
    DeltaInputs in = delta_inputs(n + 3, at::kDouble);
    in.initial_state = at::randn({2, 4, 8, 6}, at::kDouble);
    const DeltaOut oracle = reference::gated_delta2(spread(in), packing, true), got = reference::gated_delta(in, packing, true);
    EXPECT_LT(relative(got.o, oracle.o), 1e-10) << n;
    EXPECT_LT(relative(got.final_state, oracle.final_state), 1e-10) << n;
    if (n > 200) continue;
    const at::Tensor d_o = at::randn_like(got.o), d_last = at::randn_like(got.final_state);
    const DeltaGrads a = reference::gated_delta_bwd(d_o, in, d_last, packing), b = reference::gated_delta2_bwd(d_o, spread(in), d_last, packing);
    const auto share = [](const at::Tensor& x) { return x.view({x.size(0), 2, 2, x.size(2)}).sum(2); };
    EXPECT_LT(relative(a.dq, share(b.dq)), 1e-10);
    EXPECT_LT(relative(a.dk, share(b.dk)), 1e-10);
    EXPECT_LT(relative(a.dv, b.dv), 1e-10);
    EXPECT_LT(relative(a.dg, b.dg.sum(2)), 1e-9);
    EXPECT_LT(relative(a.d_beta, b.d_beta.sum(2) + b.d_write.sum(2)), 1e-9);
    EXPECT_LT(relative(a.d_initial_state, b.d_initial_state), 1e-10);
  }
}

TEST(GatedDelta, PackedSplitAndSteppedRowsAgree) {
  at::manual_seed(2);
  const DeltaInputs in = delta_inputs(150, at::kFloat);
  const at::Tensor whole = gated_delta(in, Packing::of({70, 80}), false, cpu()).o;
  EXPECT_TRUE(gated_delta(cut(in, 70, 80), Packing::of({80}), false, cpu()).o.equal(whole.narrow(0, 70, 80)));
  at::Tensor state;
  int64_t at = 70;
  for (int32_t n : {1, 64, 11, 1, 1, 2}) {
    DeltaInputs part = cut(in, at, n);
    part.initial_state = state;
    const DeltaOut out = gated_delta(part, Packing::of({n}), true, cpu());
    EXPECT_LT(relative(out.o, whole.narrow(0, at, n)), 1e-5);
    state = out.final_state, at += n;
  }
}

TEST(GatedDelta, ProductOfOneStepIsTheRule) {
  at::manual_seed(3);
  DeltaInputs in = delta_inputs(40, at::kFloat);
  const at::Tensor one = gated_delta(in, Packing::of({15, 25}), false, cpu()).o;
  in.k = in.k.unsqueeze(1), in.v = in.v.unsqueeze(1), in.beta = in.beta.unsqueeze(1);
  EXPECT_TRUE(gated_delta_product(in, Packing::of({15, 25}), false, cpu()).o.equal(one));
}

TEST(M2rnn, PackedSplitAndSteppedRowsAgree) {
  at::manual_seed(4);
  const M2rnnInputs in{at::randn({60, 5}), at::randn({60, 5}), at::randn({60, 3, 4}), at::rand({60, 3}), at::randn({3, 4, 4}) * 0.3, at::randn({3, 4}), {}};
  const auto part = [&](int64_t first, int64_t n) {
    return M2rnnInputs{in.q_TK.narrow(0, first, n), in.k_TK.narrow(0, first, n), in.v_THV.narrow(0, first, n), in.f_TH.narrow(0, first, n), in.W_HVV, in.D_HV, {}};
  };
  const at::Tensor whole = m2rnn(in, Packing::of({20, 40}), false, cpu()).y_THV;
  EXPECT_TRUE(m2rnn(part(20, 40), Packing::of({40}), false, cpu()).y_THV.equal(whole.narrow(0, 20, 40)));
  at::Tensor state;
  int64_t at = 20;
  for (int32_t n : {30, 1, 9}) {
    M2rnnInputs p = part(at, n);
    p.initial_nHKV = state;
    const M2rnnOut out = m2rnn(p, Packing::of({n}), true, cpu());
    EXPECT_LT(relative(out.y_THV, whole.narrow(0, at, n)), 1e-6);
    state = out.final_nHKV, at += n;
  }
}

// The backward of the scan does not depend on how often states are kept.
TEST(M2rnn, RecomputedStatesGiveTheSameGradient) {
  at::manual_seed(5);
  const M2rnnInputs in{at::randn({50, 5}, at::kDouble), at::randn({50, 5}, at::kDouble), at::randn({50, 3, 4}, at::kDouble), at::rand({50, 3}, at::kDouble), at::randn({3, 4, 4}, at::kDouble), {}, {}};
  const Packing p = Packing::of({33, 17});
  const at::Tensor dy = at::randn({50, 3, 4}, at::kDouble);
  const M2rnnGrads a = reference::m2rnn_bwd(dy, in, {}, p, 64), b = reference::m2rnn_bwd(dy, in, {}, p, 7);
  EXPECT_TRUE(a.dq.equal(b.dq) && a.dk.equal(b.dk) && a.dv.equal(b.dv) && a.df.equal(b.df) && a.dW.equal(b.dW));
}

TEST(Recurrent, RefuseWhatBreaksTheContract) {
  DeltaInputs in = delta_inputs(6, at::kFloat);
  EXPECT_THROW(gated_delta(in, Packing::of({5}), false, cpu()), ShapeError);
  in.g = in.g.narrow(1, 0, 2);
  EXPECT_THROW(gated_delta(in, Packing::of({6}), false, cpu()), ShapeError);
  EXPECT_THROW(m2rnn({at::zeros({3, 2}), at::zeros({3, 2}), at::zeros({3, 2, 2}), at::zeros({3, 2}), at::zeros({2, 2, 3}), {}, {}}, Packing::of({3}), false, cpu()), ShapeError);
}

}  // namespace weft::ops
