#include "ops/aten.h"

#include "ops/kl.h"

#include "ops/composed.h"
#include "ops/node.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

struct KlArgs {  // what a candidate is asked about
  int64_t tokens, vocab;
  DType dtype;
};
// Softmax and reductions over rows are the tensor library's own kernels on both devices.
constexpr Candidate<KlArgs> kKl[] = {{"aten", [](const KlArgs&, const Policy&) { return kernels::Support{}; }, nullptr, nullptr}};

struct KlNode final : Node {
  SavedTensor student, teacher;
  double temperature = 1;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor s = unpack(student), t = unpack(teacher);
    const auto f = wide(s);
    const at::Tensor difference = at::softmax(s.to(f) / temperature, -1) - at::softmax(t.to(f) / temperature, -1);
    return {(grads[0].to(f).unsqueeze(-1) * difference / temperature).to(s.scalar_type())};
  }
};

}  // namespace

at::Tensor kl_divergence(const at::Tensor& student, const at::Tensor& teacher, double temperature, const Policy& policy) {
  check_shape(student.dim() == 2 && student.size(1) > 0 && student.is_contiguous(), "kl_divergence", "student", describe(student), "[T, V] contiguous");
  check_shape(teacher.sizes() == student.sizes() && teacher.scalar_type() == student.scalar_type(), "kl_divergence", "teacher", describe(teacher),
              describe(student));
  check_shape(temperature > 0, "kl_divergence", "temperature", std::to_string(temperature), "above 0");
  auto node = make_node<KlNode>(policy, {student}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  select<KlArgs>("kl_divergence", kKl, {student.size(0), student.size(1), dtype_of(student)}, policy);
  const auto f = wide(student);
  const at::Tensor log_q = at::log_softmax(student.to(f) / temperature, -1), log_p = at::log_softmax(teacher.to(f) / temperature, -1);
  const at::Tensor p = log_p.exp();
  const at::Tensor loss = at::where(p > 0, p * (log_p - log_q), at::zeros_like(p)).sum(-1);  // 0 log 0 is 0
  if (node) node->student = save(student), node->teacher = save(teacher.detach()), node->temperature = temperature;
  return attach(node, loss);
}

}  // namespace weft::ops
