#include "ops/aten.h"

#include "ops/conv1d.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/tensors.h"
#include "cpu.h"

namespace weft::ops {

TEST(CausalConv1d, PackedSplitAndSteppedRowsAgree) {
  at::manual_seed(2);
  const int64_t C = 70;
  Weight w{"w", at::randn({C, 4}), at::zeros({C, 4})}, bias{"b", at::randn({C}), at::zeros({C})};
  const at::Tensor x = at::randn({30, 3 * C}).narrow(1, C, C);  // strided rows
  const at::Tensor whole = causal_conv1d(x, w, &bias, true, Packing::of({2, 28}), {}, false, cpu()).y_TC;
  const at::Tensor alone = causal_conv1d(x.narrow(0, 2, 28), w, &bias, true, Packing::of({28}), {}, false, cpu()).y_TC;
  EXPECT_TRUE(whole.narrow(0, 2, 28).equal(alone));
  // Document 1 again in pieces of 1, 20, 2 tokens through states, then 5 single steps on a pool's slot 3.
  at::Tensor state = at::zeros({1, C, 3});
  int64_t at = 2;
  for (int32_t n : {1, 20, 2}) {
    const ConvOut part = causal_conv1d(x.narrow(0, at, n), w, &bias, true, Packing::of({n}), state, true, cpu());
    EXPECT_TRUE(part.y_TC.equal(whole.narrow(0, at, n)));
    state = part.final_state_nCW, at += n;
  }
  const at::Tensor pool = at::zeros({5, C, 3});
  pool[3].copy_(state[0]);
  for (; at < 30; ++at) {
    const at::Tensor rows = at::cat({x.narrow(0, at, 1), x.narrow(0, 0, 1)}, 0);
    const at::Tensor y = causal_conv1d_step(rows, w, &bias, true, pool, at::tensor({3, -1}, at::kInt), cpu());
    EXPECT_TRUE(at::allclose(y[0], whole[at], 1e-5, 1e-6));
    EXPECT_EQ(y[1].abs().max().item<float>(), 0);
  }
}

TEST(CausalConv1d, RefusesWhatBreaksTheContract) {
  Weight w{"w", at::zeros({4, 3}), {}};
  EXPECT_THROW(causal_conv1d(at::zeros({5, 3}), w, nullptr, true, Packing::of({5}), {}, false, cpu()), ShapeError);
  EXPECT_THROW(causal_conv1d(at::zeros({5, 4}), w, nullptr, true, Packing::of({4}), {}, false, cpu()), ShapeError);
  EXPECT_THROW(causal_conv1d(at::zeros({5, 4}), w, nullptr, true, Packing::of({5}), at::zeros({1, 4, 3}), false, cpu()), ShapeError);
  EXPECT_THROW(causal_conv1d(at::zeros({5, 4}, at::kBFloat16), w, nullptr, true, Packing::of({5}), {}, false, cpu()), ShapeError);
}

}  // namespace weft::ops
