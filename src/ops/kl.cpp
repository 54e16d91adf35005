#include "ops/aten.h"

#include "ops/kl.h"

#include "kernels/kl/kl.h"
#include "ops/address.h"
#include "ops/composed.h"
#include "ops/node.h"
#include "ops/run.h"

namespace weft::ops {
namespace {

using kernels::KlBwd;
using kernels::KlFwd;

constexpr Candidate<KlFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_kl_fwd_sm90>, nullptr, kernels::kl_fwd_sm90},
#endif
    kAtenOnCpu<KlFwd>};
constexpr Candidate<KlBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_kl_bwd_sm90>, nullptr, kernels::kl_bwd_sm90},
#endif
    kAtenOnCpu<KlBwd>};

struct KlNode final : Node {
  SavedTensor student, teacher;
  at::Tensor log_sums;  // of the kernel's forward, else undefined
  double temperature = 1;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor s = unpack(student), t = unpack(teacher);
    KlBwd a{s.data_ptr(), t.data_ptr(), nullptr, nullptr, nullptr, s.size(0), s.size(1), static_cast<float>(temperature), dtype_of(s)};
    if (const auto* c = select<KlBwd>("kl_divergence_bwd", kBwd, a, policy); !composed(c)) {
      if (!log_sums.defined()) throw InternalError("kl_divergence_bwd: the forward kept no sums for the kernel");
      const at::Tensor g = grads[0].contiguous(), d = at::empty_like(s, s.options().requires_grad(false));
      a.log_sums = address_of<float>(log_sums), a.d_loss = address_of<float>(g), a.d_student = d.data_ptr();
      run(*c, a, s);
      return {d};
    }
    const auto f = wide(s);
    const at::Tensor difference = at::softmax(s.to(f) / temperature, -1) - at::softmax(t.to(f) / temperature, -1);
    return {(grads[0].to(f).unsqueeze(-1) * difference / temperature).to(s.scalar_type())};
  }
};

}  // namespace

at::Tensor kl_divergence(const at::Tensor& student, const at::Tensor& teacher, double temperature, const Policy& policy) {
  check_shape(student.dim() == 2 && student.size(1) > 0 && student.is_contiguous(), "kl_divergence", "student", describe(student), "[T, V] contiguous");
  check_shape(teacher.sizes() == student.sizes() && teacher.scalar_type() == student.scalar_type() && teacher.is_contiguous(), "kl_divergence", "teacher", describe(teacher),
              describe(student));
  check_shape(temperature > 0, "kl_divergence", "temperature", std::to_string(temperature), "above 0");
  auto node = make_node<KlNode>(policy, {student}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  KlFwd a{student.data_ptr(), teacher.data_ptr(), nullptr, nullptr, student.size(0), student.size(1), static_cast<float>(temperature), dtype_of(student)};
  if (const auto* c = select<KlFwd>("kl_divergence", kFwd, a, policy); !composed(c)) {
    const auto f32 = student.options().dtype(at::kFloat).requires_grad(false);
    const at::Tensor loss = at::empty({student.size(0)}, f32);
    a.loss = address_of<float>(loss);
    if (node) {
      node->student = save(student), node->teacher = save(teacher.detach()), node->temperature = temperature;
      node->log_sums = at::empty({2, student.size(0)}, f32), a.log_sums = address_of<float>(node->log_sums);
    }
    run(*c, a, student);
    return attach(node, loss);
  }
  const auto f = wide(student);
  const at::Tensor log_q = at::log_softmax(student.to(f) / temperature, -1), log_p = at::log_softmax(teacher.to(f) / temperature, -1);
  const at::Tensor p = log_p.exp();
  const at::Tensor loss = at::where(p > 0, p * (log_p - log_q), at::zeros_like(p)).sum(-1);  // 0 log 0 is 0
  if (node) node->student = save(student), node->teacher = save(teacher.detach()), node->temperature = temperature;
  return attach(node, loss);
}

}  // namespace weft::ops
