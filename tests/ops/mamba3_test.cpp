#include "ops/aten.h"

#include "ops/mamba3.h"

#include <gtest/gtest.h>

#include <numbers>

#include "base/error.h"
#include "ops/tensors.h"
#include "cpu.h"

namespace weft::ops {
namespace {

Mamba3Scan scan(int64_t T, int64_t R, int64_t H = 4, int64_t G = 2, int64_t P = 3, int64_t N = 8, int64_t A = 2) {
  const auto t = at::kDouble;
  return {at::randn({T, H, P}, t), at::randn({T, H, P}, t), at::randn({T, R, G, N}, t), at::randn({T, R, G, N}, t), at::rand({T, H}, t) * 0.5, -at::rand({T, H}, t) * 0.5, at::rand({T, H}, t),
          at::randn({T, A}, t), at::randn({H, R, N}, t), at::randn({H, R, N}, t), at::randn({H, R, P}, t), at::randn({H, R, P}, t), at::randn({H, R, P}, t), at::randn({H}, t)};
}

// nam56r.md 2.3, head by head and token by token.
at::Tensor recurrence(const Mamba3Scan& in, const Packing& packing) {
  const int64_t H = in.x_THP.size(1), P = in.x_THP.size(2), R = in.B_TRGN.size(1), G = in.B_TRGN.size(2), N = in.B_TRGN.size(3), A = in.omega_TA.size(1);
  at::Tensor o = at::zeros_like(in.x_THP);
  const auto turn = [&](const at::Tensor& row, const at::Tensor& theta) {
    at::Tensor out = row.clone();
    for (int64_t i = 0; i < A; ++i) {
      const int64_t a = R > 1 ? i : 2 * i, b = R > 1 ? i + N / 2 : 2 * i + 1;
      out[a].copy_(row[a] * theta[i].cos() - row[b] * theta[i].sin());
      out[b].copy_(row[a] * theta[i].sin() + row[b] * theta[i].cos());
    }
    return out;
  };
  for (int64_t d = 0; d < packing.documents(); ++d)
    for (int64_t h = 0; h < H; ++h) {
      at::Tensor theta = at::zeros({A}, o.options()), S = at::zeros({N, P}, o.options()), U_before = S;
      for (int64_t t = packing.host_cu_q[d]; t < packing.host_cu_q[d + 1]; ++t) {
        theta = theta + in.omega_TA[t] * in.dt_TH[t][h];
        at::Tensor U = at::zeros({N, P}, o.options());
        std::vector<at::Tensor> v;
        for (int64_t r = 0; r < R; ++r) {
          v.push_back(in.x_THP[t][h] * in.mimo_x[h][r]);
          U = U + at::outer(turn(in.B_TRGN[t][r][h / (H / G)] + in.B_bias[h][r], theta), v.back());
        }
        const at::Tensor lambda = in.lambda_TH[t][h], dt = in.dt_TH[t][h], alpha = in.a_TH[t][h].exp();
        S = alpha * S + (1 - lambda) * dt * alpha * U_before + lambda * dt * U;
        U_before = U;
        for (int64_t r = 0; r < R; ++r) {
          const at::Tensor y = at::mv(S.t(), turn(in.C_TRGN[t][r][h / (H / G)] + in.C_bias[h][r], theta)) + in.D[h] * v[static_cast<size_t>(r)];
          o[t][h].add_(in.mimo_o[h][r] * y * at::silu(in.z_THP[t][h] * in.mimo_z[h][r]));
        }
      }
    }
  return o;
}

}  // namespace

TEST(Mamba3, ChunkedFormIsTheRecurrence) {
  for (const int64_t R : {1, 2, 4}) {
    at::manual_seed(R);
    const Packing packing = Packing::of({1, 37, 0, 16});
    const Mamba3Scan in = scan(54, R);
    const at::Tensor oracle = recurrence(in, packing);
    for (const int64_t chunk : {1, 3, 16, 64}) EXPECT_LT(relative(reference::mamba3_scan(in, packing, {}, false, chunk).o_THP, oracle), 1e-10) << R << " chunk " << chunk;
  }
}

TEST(Mamba3, LongRowsAgreeOverChunks) {
  for (const int32_t n : {127, 128, 1000}) {
    at::manual_seed(n);
    const Packing packing = Packing::of({n});
    const Mamba3Scan in = scan(n, 2, 2, 1, 3, 4, 1);
    EXPECT_LT(relative(reference::mamba3_scan(in, packing, {}, false, 16).o_THP, reference::mamba3_scan(in, packing, {}, false, 50).o_THP), 1e-10) << n;
    const at::Tensor d_o = at::randn_like(in.x_THP);
    const Mamba3ScanGrads a = reference::mamba3_scan_bwd(d_o, in, packing, 16), b = reference::mamba3_scan_bwd(d_o, in, packing, 50);
    EXPECT_LT(relative(a.dx, b.dx), 1e-10);
    EXPECT_LT(relative(a.dB, b.dB), 1e-10);
    EXPECT_LT(relative(a.d_dt, b.d_dt), 1e-9);
    EXPECT_LT(relative(a.d_omega, b.d_omega), 1e-9);
  }
}

TEST(Mamba3, PackedSplitAndSteppedRowsAgree) {
  for (const int64_t R : {1, 4}) {
    at::manual_seed(10 + R);
    const Mamba3Shape s{4, 2, 3, 8, R, 2};
    std::deque<Weight> w;
    w.push_back({"dt_bias", at::randn({4}) - 1, {}}), w.push_back({"B_norm", at::ones({8}), {}}), w.push_back({"C_norm", at::ones({8}), {}});
    w.push_back({"B_bias", at::ones({4, R, 8}), {}}), w.push_back({"C_bias", at::ones({4, R, 8}), {}}), w.push_back({"D", at::randn({4}), {}});
    for (int k = 0; k < 3; ++k) w.push_back({"mimo", at::randn({4, R, 3}), {}});
    const Mamba3Weights weights{w[0], w[1], w[2], w[3], w[4], &w[6], &w[7], &w[8], &w[5]};
    const at::Tensor in = at::randn({60, s.projected()});
    const at::Tensor whole = mamba3(in, s, weights, {}, Packing::of({13, 47}), nullptr, cpu());
    EXPECT_LT(relative(mamba3(in.narrow(0, 13, 47), s, weights, {}, Packing::of({47}), nullptr, cpu()), whole.narrow(0, 13, 47)), 1e-6);
    Mamba3State state;
    int64_t at = 13;
    for (int32_t n : {1, 20, 17, 1, 1, 7}) {
      EXPECT_LT(relative(mamba3(in.narrow(0, at, n), s, weights, {}, Packing::of({n}), &state, cpu()), whole.narrow(0, at, n)), 2e-5) << R << " at " << at;
      at += n;
    }
  }
}

TEST(Mamba3, RefusesWhatBreaksTheContract) {
  Weight h{"h", at::zeros({2}), {}}, n{"n", at::zeros({4}), {}}, b{"b", at::zeros({2, 2, 4}), {}};
  const Mamba3Weights w{h, n, n, b, b, nullptr, nullptr, nullptr, nullptr};
  const Mamba3Shape s{2, 1, 3, 4, 2, 1};
  EXPECT_THROW(mamba3(at::zeros({5, s.projected() + 1}), s, w, {}, Packing::of({5}), nullptr, cpu()), ShapeError);
  EXPECT_THROW(mamba3(at::zeros({5, s.projected()}), s, w, {}, Packing::of({5}), nullptr, cpu()), ShapeError);  // rank 2 without mimo weights
}

}  // namespace weft::ops
