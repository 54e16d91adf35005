#include "ops/aten.h"

#include "ops/add.h"

#include "kernels/add/add.h"
#include "ops/composed.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

constexpr Candidate<kernels::Add> kAdd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_add_sm90>, nullptr, kernels::add_sm90},
#endif
    {"cpu", on_device<kernels::supports_add_cpu>, nullptr, kernels::add_cpu},
    kAtenOnCpu<kernels::Add>,
};

at::Tensor expression(const std::vector<at::Tensor>& addends) {
  at::Tensor sum = addends[0].to(wide(addends[0]));
  for (size_t i = 1; i < addends.size(); ++i) sum = sum + addends[i].to(sum.scalar_type());
  return sum.to(addends[0].scalar_type());
}

constexpr size_t kMost = 4;

struct AddNode final : Node {
  variable_list apply(variable_list&& grads) override { return variable_list(kMost, grads[0]); }
};

}  // namespace

at::Tensor add(const std::vector<at::Tensor>& addends, const Policy& policy) {
  check_shape(addends.size() >= 2 && addends.size() <= kMost, "add", "addends", std::to_string(addends.size()), "2 to 4");
  for (const at::Tensor& t : addends)
    check_shape(t.is_contiguous() && t.sizes() == addends[0].sizes() && t.scalar_type() == addends[0].scalar_type(), "add", "addend", describe(t),
                describe(addends[0]) + " contiguous");
  const at::Tensor none;
  const auto at_or_none = [&](size_t i) { return i < addends.size() ? addends[i] : none; };
  auto node = make_node<AddNode>(policy, {addends[0], addends[1], at_or_none(2), at_or_none(3)}, false);
  const at::AutoDispatchBelowADInplaceOrView below;
  kernels::Add a{{}, nullptr, addends[0].numel(), static_cast<int32_t>(addends.size()), dtype_of(addends[0])};
  for (size_t i = 0; i < addends.size(); ++i) a.in[i] = address(addends[i]);
  const auto* c = select<kernels::Add>("add", kAdd, a, policy);
  at::Tensor y;
  if (composed(c)) {
    y = expression(addends);
  } else {
    y = at::empty_like(addends[0], addends[0].options().requires_grad(false));
    a.y = y.data_ptr();
    run(*c, a, addends[0]);
  }
  return attach(node, y);
}

}  // namespace weft::ops
