#include "ops/aten.h"

#include "ops/rope.h"

#include "ops/address.h"
#include "ops/node.h"
#include "ops/run.h"

namespace weft::ops {

namespace reference {

at::Tensor rope(const at::Tensor& x_THR, const at::Tensor& positions_T, const RopeTable& table, const RopeOptions& o) {
  const int64_t half = table.cos_PF.size(1), rotated = 2 * half;
  const at::Tensor p = positions_T.to(at::kLong);
  const at::Tensor cos = table.cos_PF.index_select(0, p).to(wide(x_THR)).unsqueeze(1);
  const at::Tensor sin = table.sin_PF.index_select(0, p).to(wide(x_THR)).unsqueeze(1) * (o.inverse ? -1.0 : 1.0);
  const at::Tensor part = x_THR.narrow(2, o.first, rotated).to(wide(x_THR));
  const bool turns_half = o.pairing == kernels::Rope::kAdjacentToHalf;
  const bool in_adjacent = o.pairing == kernels::Rope::kAdjacent || (turns_half && !o.inverse);
  const bool out_adjacent = o.pairing == kernels::Rope::kAdjacent || (turns_half && o.inverse);
  const at::Tensor u = in_adjacent ? part.slice(2, 0, rotated, 2) : part.narrow(2, 0, half);
  const at::Tensor w = in_adjacent ? part.slice(2, 1, rotated, 2) : part.narrow(2, half, half);
  const at::Tensor a = u * cos - w * sin, b = u * sin + w * cos;
  const at::Tensor turned = out_adjacent ? at::stack({a, b}, 3).flatten(2) : at::cat({a, b}, 2);
  const int64_t rest = o.first + rotated;
  return at::cat({x_THR.narrow(2, 0, o.first), turned.to(x_THR.scalar_type()), x_THR.narrow(2, rest, x_THR.size(2) - rest)}, 2);
}

}  // namespace reference

namespace {

RopeOptions turned_back(RopeOptions o) {
  o.inverse = !o.inverse;
  return o;
}

constexpr Candidate<kernels::Rope> kRope[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_rope_sm90>, nullptr, kernels::rope_sm90},
#endif
    {"cpu", on_device<kernels::supports_rope_cpu>, nullptr, kernels::rope_cpu},
};

// y = rope(x), both [T, heads, dim] with contiguous heads; no autograd.
void rope_into(const char* op, const at::Tensor& x, const at::Tensor& y, const at::Tensor& positions, const RopeTable& table,
               const RopeOptions& o, const Policy& policy) {
  const auto i32 = [](int64_t n) { return static_cast<int32_t>(n); };
  // Where nothing has data, what is not in place still has two addresses.
  void* const to = y.is_meta() && !y.is_same(x) ? static_cast<char*>(any_address()) + 128 : address(y);
  const kernels::Rope a{address(x), to, address_of<float>(table.cos_PF), address_of<float>(table.sin_PF), address_of<int32_t>(positions),
                        x.size(0), x.stride(0), x.size(2), y.stride(0), y.size(2),
                        i32(x.size(1)), i32(x.size(2)), i32(o.first), i32(2 * table.cos_PF.size(1)), i32(table.cos_PF.size(0)),
                        o.pairing, o.inverse, dtype_of(x)};
  const auto* c = select<kernels::Rope>(op, kRope, a, policy);
  if (c == nullptr) y.copy_(reference::rope(x, positions, table, o));
  else run(*c, a, x);
}

bool heads_contiguous(const at::Tensor& x) {
  return x.dim() == 3 && (x.size(2) <= 1 || x.stride(2) == 1) && (x.size(1) <= 1 || x.stride(1) == x.size(2));
}

void check_table(const char* op, int64_t tokens, int64_t dim, const at::Tensor& positions_T, const RopeTable& table, const RopeOptions& o) {
  check_shape(o.first >= 0 && o.first + 2 * table.cos_PF.size(1) <= dim, op, "dims that turn",
              std::to_string(o.first) + ".." + std::to_string(o.first + 2 * table.cos_PF.size(1)), "at most " + std::to_string(dim));
  check_shape(positions_T.dim() == 1 && positions_T.size(0) == tokens && positions_T.scalar_type() == at::kInt && positions_T.is_contiguous(), op,
              "positions", describe(positions_T), "[" + std::to_string(tokens) + "] i32");
  if (positions_T.is_cpu() && tokens > 0) {
    const int64_t low = positions_T.min().item<int32_t>(), high = positions_T.max().item<int32_t>();
    check_shape(low >= 0 && high < table.cos_PF.size(0), op, "positions", std::to_string(low) + ".." + std::to_string(high),
                "within 0.." + std::to_string(table.cos_PF.size(0) - 1));
  }
}

struct RopeNode final : Node {
  at::Tensor positions;
  RopeTable table;
  RopeOptions back;
  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dx = at::empty_like(dy);
    rope_into("rope_bwd", dy, dx, positions, table, back, policy);
    return {dx};
  }
};

}  // namespace

at::Tensor rope(const at::Tensor& x, const at::Tensor& positions_T, const RopeTable& table, const RopeOptions& o, const Policy& policy) {
  check_shape(heads_contiguous(x), "rope", "layout of x", describe(x), "[tokens, heads, dim] with contiguous heads");
  check_table("rope", x.size(0), x.size(2), positions_T, table, o);
  auto node = make_node<RopeNode>(policy, {x}, false);
  at::Tensor y = at::empty(x.sizes(), x.options().requires_grad(false));
  {
    at::AutoDispatchBelowADInplaceOrView below;
    rope_into("rope", x, y, positions_T, table, o, policy);
  }
  if (node) node->positions = positions_T, node->table = table, node->back = turned_back(o);
  return attach(node, y);
}

}  // namespace weft::ops
