#include "ops/aten.h"

#include "ops/ssd.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/mamba2.h"
#include "ops/tensors.h"
#include "cpu.h"

namespace weft::ops {
namespace {

SsdInputs inputs(int64_t T, at::ScalarType type, int64_t H = 4, int64_t G = 2, int64_t P = 8, int64_t N = 6) {
  const auto wide_type = type == at::kDouble ? at::kDouble : at::kFloat;
  return {at::randn({T, H, P}, type), at::rand({T, H}, wide_type) * 0.3, -(at::rand({H}, wide_type) * 8 + 0.5), at::randn({T, G, N}, type), at::randn({T, G, N}, type), at::randn({H}, wide_type), {}};
}

// The recurrence as it is defined, token by token: (y, final state).
std::pair<at::Tensor, at::Tensor> recurrence(const SsdInputs& in, const Packing& packing) {
  const int64_t H = in.x_THP.size(1), share = H / in.B_TGN.size(1);
  std::vector<at::Tensor> y, last;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    at::Tensor S = in.initial_state_nHPN.defined() ? in.initial_state_nHPN[d] : at::zeros({H, in.x_THP.size(2), in.B_TGN.size(2)}, in.x_THP.options());
    for (int64_t t = packing.host_cu_q[d]; t < packing.host_cu_q[d + 1]; ++t) {
      const at::Tensor B = in.B_TGN[t].repeat_interleave(share, 0), C = in.C_TGN[t].repeat_interleave(share, 0), dt = in.dt_TH[t];
      S = (in.A_H * dt).exp().view({H, 1, 1}) * S + (dt.unsqueeze(1) * in.x_THP[t]).unsqueeze(2) * B.unsqueeze(1);
      y.push_back((S * C.unsqueeze(1)).sum(2) + in.D_H.unsqueeze(1) * in.x_THP[t]);
    }
    last.push_back(S);
  }
  return {at::stack(y), at::stack(last)};
}

}  // namespace

TEST(Ssd, ChunkedFormIsTheRecurrence) {
  for (const int32_t n : {1, 127, 128, 1000}) {
    at::manual_seed(n);
    const Packing packing = Packing::of({n, 3, 65});
    SsdInputs in = inputs(packing.tokens(), at::kDouble);
    in.initial_state_nHPN = at::randn({3, 4, 8, 6}, at::kDouble);
    const auto [y, last] = recurrence(in, packing);
    for (const int64_t chunk : {1, 7, 64, 128}) {
      const SsdOut out = reference::ssd_fwd(in, packing, true, chunk);
      EXPECT_LT(relative(out.y_THP, y), 1e-10) << n << " chunk " << chunk;
      EXPECT_LT(relative(out.final_state_nHPN, last), 1e-10) << n << " chunk " << chunk;
    }
    const at::Tensor dy = at::randn_like(y), d_last = at::randn_like(last);
    const SsdGrads a = reference::ssd_bwd(dy, in, d_last, packing, 64), b = reference::ssd_bwd(dy, in, d_last, packing, 5);
    EXPECT_LT(relative(a.dx, b.dx), 1e-10);
    EXPECT_LT(relative(a.d_dt, b.d_dt), 1e-10);
    EXPECT_LT(relative(a.dA, b.dA), 1e-9);
    EXPECT_LT(relative(a.dB, b.dB), 1e-10);
    EXPECT_LT(relative(a.dC, b.dC), 1e-10);
    EXPECT_LT(relative(a.d_initial_state, b.d_initial_state), 1e-10);
  }
}

TEST(Ssd, CpuKernelIsWithinItsToleranceOfTheRecurrence) {
  for (const int32_t n : {1, 127, 128, 1000}) {
    at::manual_seed(n);
    const Packing packing = Packing::of({n});
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const SsdInputs in = inputs(n, type, 4, 2, 64, 64);
      const auto d = [](const at::Tensor& t) { return t.defined() ? t.to(at::kDouble) : t; };
      const auto [y, last] = recurrence({d(in.x_THP), d(in.dt_TH), d(in.A_H), d(in.B_TGN), d(in.C_TGN), d(in.D_H), {}}, packing);
      EXPECT_LT(relative(ssd(in, packing, false, cpu()).y_THP.to(at::kDouble), y), type == at::kFloat ? 1e-4 : 2e-2) << n;
    }
  }
}

TEST(Ssd, PackedSplitAndSteppedRowsAgree) {
  at::manual_seed(5);
  const Packing packing = Packing::of({70, 1, 90});
  const SsdInputs in = inputs(161, at::kFloat);
  const auto cut = [&](int64_t first, int64_t n) {
    return SsdInputs{in.x_THP.narrow(0, first, n), in.dt_TH.narrow(0, first, n), in.A_H, in.B_TGN.narrow(0, first, n), in.C_TGN.narrow(0, first, n), in.D_H, {}};
  };
  const at::Tensor whole = ssd(in, packing, false, cpu()).y_THP;
  EXPECT_TRUE(ssd(cut(71, 90), Packing::of({90}), false, cpu()).y_THP.equal(whole.narrow(0, 71, 90)));
  at::Tensor state;  // the last document in pieces, then steps on a pool
  int64_t at = 71;
  for (int32_t n : {33, 1, 50}) {
    SsdInputs part = cut(at, n);
    part.initial_state_nHPN = state;
    const SsdOut out = ssd(part, Packing::of({n}), true, cpu());
    EXPECT_LT(relative(out.y_THP, whole.narrow(0, at, n)), 1e-5);
    state = out.final_state_nHPN, at += n;
  }
  const at::Tensor pool = at::zeros({3, 4, 8, 6});
  pool[2].copy_(state[0]);
  for (; at < 161; ++at) EXPECT_LT(relative(ssd_step(cut(at, 1), pool, at::tensor({2}, at::kInt), cpu())[0], whole[at]), 1e-5);
  EXPECT_EQ(pool[0].abs().max().item<float>(), 0);
}

TEST(Mamba2, PrefillAndStepsAreTheFullRow) {
  at::manual_seed(6);
  const Mamba2Shape s{4, 2, 8, 6};
  std::deque<Weight> w;
  w.push_back({"conv_w", at::randn({s.channels(), 4}), {}}), w.push_back({"conv_b", at::randn({s.channels()}), {}});
  w.push_back({"A_log", at::rand({4}), {}}), w.push_back({"dt_bias", at::randn({4}) - 2, {}}), w.push_back({"D", at::randn({4}), {}});
  const Mamba2Weights weights{w[0], &w[1], w[2], w[3], &w[4]};
  const at::Tensor in = at::randn({100, s.projected()});
  const at::Tensor whole = mamba2(in, s, weights, Packing::of({100}), nullptr, cpu()).y_TI;
  Mamba2State state;
  int64_t at = 0;
  for (int32_t n : {2, 70}) {
    EXPECT_LT(relative(mamba2(in.narrow(0, at, n), s, weights, Packing::of({n}), &state, cpu()).y_TI, whole.narrow(0, at, n)), 1e-5);
    at += n;
  }
  for (; at < 100; ++at)
    EXPECT_LT(relative(mamba2_step(in.narrow(0, at, 1), s, weights, state, at::tensor({0}, at::kInt), cpu()).y_TI[0], whole[at]), 1e-5);
}

TEST(Ssd, RefusesWhatBreaksTheContract) {
  SsdInputs in = inputs(5, at::kFloat);
  EXPECT_THROW(ssd(in, Packing::of({6}), false, cpu()), ShapeError);
  in.A_H = at::zeros({3});
  EXPECT_THROW(ssd(in, Packing::of({5}), false, cpu()), ShapeError);
  in = inputs(5, at::kFloat), in.dt_TH = in.dt_TH.to(at::kBFloat16);
  EXPECT_THROW(ssd(in, Packing::of({5}), false, cpu()), ShapeError);
}

}  // namespace weft::ops
