#include "ops/aten.h"

#include "ops/rmsnorm.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace weft::ops {

TEST(RmsNorm, KernelGivesTheReferenceForwardAndBackward) {
  for (const at::ScalarType t : {at::kFloat, at::kBFloat16}) {
    at::manual_seed(1);
    const at::Tensor x = at::randn({37, 65}, t), dy = at::randn({37, 65}, t);
    Weight w{"w", at::randn({65}, t), at::zeros({65})};
    Policy policy;
    policy.device = this_cpu();
    at::Tensor xg = x.detach().requires_grad_(true);
    at::Tensor y = rms_norm(xg, w, 1e-5, policy);
    y.backward(dy);
    const double tol = t == at::kFloat ? 1e-5 : 4e-2;
    auto [dx, dw] = reference::rms_norm_bwd(dy, x, w.value, 1e-5);
    EXPECT_TRUE(at::allclose(y, reference::rms_norm(x, w.value, 1e-5), tol, tol));
    EXPECT_TRUE(at::allclose(xg.grad(), dx, tol, tol));
    EXPECT_TRUE(at::allclose(w.main_grad, dw, 1e-3, 1e-3));
  }
}

TEST(RmsNorm, RefusesWhatBreaksTheContract) {
  Weight w{"w", at::ones({4}), at::zeros({4})};
  Policy policy;
  EXPECT_THROW(rms_norm(at::ones({2, 5}), w, 1e-5, policy), ShapeError);
  Weight d{"w", at::ones({4}, at::kDouble), at::zeros({4}, at::kDouble)};
  EXPECT_THROW(rms_norm(at::ones({2, 4}, at::kDouble), d, 1e-5, policy), UnsupportedError);
}

}  // namespace weft::ops
