#include "ops/aten.h"

#include "ops/newton_schulz.h"

#include "kernels/newton_schulz/newton_schulz.h"
#include "ops/adamw.h"
#include "ops/composed.h"
#include "ops/linear.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::MuonMomentum;
using kernels::Polynomial;
using kernels::ScaleByNorm;

constexpr Candidate<MuonMomentum> kMomentum[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_muon_momentum_sm90>, nullptr, kernels::muon_momentum_sm90},
#endif
    kAtenOnCpu<MuonMomentum>,
};
constexpr Candidate<ScaleByNorm> kScale[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_scale_by_norm_sm90>, nullptr, kernels::scale_by_norm_sm90},
#endif
    kAtenOnCpu<ScaleByNorm>,
};
constexpr Candidate<Polynomial> kPolynomial[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_polynomial_sm90>, nullptr, kernels::polynomial_sm90},
#endif
    kAtenOnCpu<Polynomial>,
};

// y = a x + b z in fp32 (fp64 for fp64), rounded once.
at::Tensor combined(const at::Tensor& x, double a, const at::Tensor& z, double b, const Policy& policy) {
  Polynomial k{address(x), address(z), nullptr, x.numel(), static_cast<float>(a), static_cast<float>(b), dtype_of(x)};
  const auto* c = select<Polynomial>("newton_schulz_polynomial", kPolynomial, k, policy);
  if (composed(c)) return (x.to(wide(x)) * a + z.to(wide(x)) * b).to(x.scalar_type());
  const at::Tensor y = at::empty_like(x);
  k.y = y.data_ptr();
  run(*c, k, x);
  return y;
}

at::Tensor scaled(const at::Tensor& u, at::ScalarType to, const Policy& policy) {
  const at::Tensor sum_sq = grad_norm({u}, policy).sum_sq;
  ScaleByNorm k{floats(u), static_cast<const double*>(address(sum_sq)), nullptr, u.numel(), dtype_of(to)};
  const auto* c = u.scalar_type() == at::kDouble ? nullptr : select<ScaleByNorm>("newton_schulz_scale", kScale, k, policy);
  if (composed(c)) return (u / sum_sq.sqrt().clamp_min(1e-15).to(u.scalar_type())).to(to);
  const at::Tensor y = at::empty(u.sizes(), u.options().dtype(to));
  k.y = y.data_ptr();
  run(*c, k, u);
  return y;
}

}  // namespace

at::Tensor muon_momentum(const at::Tensor& grad, const at::Tensor& momentum, double mu, bool nesterov, const at::Tensor& grad_scale, const Policy& policy) {
  const at::NoGradGuard no_grad;
  check_shape(momentum.is_contiguous() && momentum.scalar_type() == wide(momentum), "muon_momentum", "momentum", describe(momentum), "f32 contiguous");
  check_shape(grad.sizes() == momentum.sizes() && grad.is_contiguous(), "muon_momentum", "gradient", describe(grad), describe(momentum));
  const at::Tensor u = at::empty_like(momentum);
  MuonMomentum k{address(grad), floats(momentum), floats(u), grad_scale.defined() ? floats(grad_scale) : nullptr, grad.numel(), static_cast<float>(mu), nesterov, dtype_of(grad)};
  const auto* c = momentum.scalar_type() == at::kDouble ? nullptr : select<MuonMomentum>("muon_momentum", kMomentum, k, policy);
  if (!composed(c)) {
    run(*c, k, momentum);
    return u;
  }
  at::Tensor g = grad.to(momentum.scalar_type());
  if (grad_scale.defined()) g = g * grad_scale.to(g.scalar_type());
  momentum.add_((g - momentum) * (1 - mu));
  u.copy_(nesterov ? g + (momentum - g) * mu : momentum);
  return u;
}

at::Tensor newton_schulz(const at::Tensor& u, std::span<const NewtonSchulzStep> steps, GemmRecipe::Kind products, const Policy& policy) {
  const at::NoGradGuard no_grad;
  check_shape(u.dim() == 2 && u.is_contiguous() && u.scalar_type() == wide(u), "newton_schulz", "u", describe(u), "[M, N] f32 contiguous");
  check_shape(products == GemmRecipe::kBf16 || products == GemmRecipe::kTf32 || products == GemmRecipe::kF32, "newton_schulz", "products",
              names(GemmRecipe::Kind{})[products], "bf16, tf32 or f32");
  const bool f64 = u.scalar_type() == at::kDouble, turned = u.size(0) > u.size(1);
  const Policy parts = of_parts(policy);
  at::Tensor x = scaled(turned ? u.t().contiguous() : u, f64 ? at::kDouble : products == GemmRecipe::kBf16 ? at::kBFloat16 : at::kFloat, policy);
  const int64_t m = x.size(0);
  GemmOptions o;
  o.tf32 = products == GemmRecipe::kTf32;
  for (const NewtonSchulzStep& s : steps) {
    const at::Tensor gram = at::empty({m, m}, x.options()), square = at::empty_like(gram), moved = at::empty_like(x);
    gemm("newton_schulz", x, false, x, true, gram, o, parts);
    if (s.c != 0) gemm("newton_schulz", gram, false, gram, false, square, o, parts);
    const at::Tensor b = s.c != 0 ? combined(gram, s.b, square, s.c, policy) : gram * s.b;
    gemm("newton_schulz", b, false, x, false, moved, o, parts);
    x = combined(x, s.a, moved, 1, policy);
  }
  return turned ? x.t().contiguous() : x;
}

}  // namespace weft::ops
