#include "ops/aten.h"

#include "optim/update.h"

#include "ops/adamw.h"

namespace weft::optim {
namespace reference {

void adamw_update(const AdamWStep& a) {
  // In blocks that stay in cache, over the library's threads inside each operation.
  constexpr int64_t kBlock = 1 << 16;
  const bool skip = a.skip.item<int32_t>() != 0;
  if (skip) return;
  for (int64_t at = 0; at < a.grad.numel(); at += kBlock) {
    const int64_t n = std::min(kBlock, a.grad.numel() - at);
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, at, n); };
    at::Tensor p = part(a.master), m = part(a.exp_avg), v = part(a.exp_avg_sq);
    at::Tensor g = part(a.grad) * a.grad_scale;
    if (!a.decoupled && a.decay != 0) g.add_(p, a.decay);
    m.mul_(a.beta1).add_(g, 1 - a.beta1);
    v.mul_(a.beta2).addcmul_(g, g, 1 - a.beta2);
    at::Tensor update = (m / a.correction1).div_((v / a.correction2).sqrt_().add_(a.eps));
    if (a.decoupled && a.decay != 0) update.add_(p, a.decay);
    p.sub_(update, a.lr);
    if (a.low.defined()) part(a.low).copy_(p);
  }
}

}  // namespace reference

void adamw_update(const AdamWStep& a, const ops::Policy& policy) {
  const bool low = a.low.defined();
  ops::adamw({low ? a.low : a.master, low ? a.master : at::Tensor(), {}, a.grad, a.exp_avg, a.exp_avg_sq, a.grad_scale, a.skip, a.lr, a.correction1,
              a.correction2, a.beta1, a.beta2, a.eps, a.decay, a.decoupled},
             policy);
}

at::Tensor sum_of_squares(const at::Tensor& flat, const ops::Policy& policy) { return ops::grad_norm({flat}, policy).sum_sq; }

}  // namespace weft::optim
