// The base of every op's backward: a typed autograd node instead of a map of saved values.
//
//   struct RmsNormNode final : Node {
//     SavedTensor x, rstd; Weight* w; ...
//     variable_list apply(variable_list&& dy) override { ... }
//   };
//   auto node = make_node<RmsNormNode>(policy, {x}, w.wants_grad());   // null when no backward can follow
//   if (node) node->x = save(x), ...;
//   return attach(node, y);
//
// A node whose tensor inputs need no gradient still runs when a weight wants one: it hangs on the output.
// Weights and the Policy are borrowed: both outlive the graph (Ctx and the module tree own them).
// Sources only: include after ops/aten.h.
#pragma once
#include "ops/aten.h"
#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

using torch::autograd::variable_list;
using SavedTensor = torch::autograd::SavedVariable;

struct Node : torch::autograd::Node {
  Policy policy;
  at::Tensor unpack(const SavedTensor& s) { return s.unpack(shared_from_this()); }
};

SavedTensor save(const at::Tensor&);  // undefined stays undefined

// Below the templates: compiled once, in node.cpp.
bool needs_backward(std::initializer_list<at::Tensor> inputs, bool weight_wants_grad);
void connect(Node&, const Policy&, std::initializer_list<at::Tensor> inputs);
void attach_to(const at::Tensor& out, std::shared_ptr<torch::autograd::Node>);

template <class N>
std::shared_ptr<N> make_node(const Policy& policy, std::initializer_list<at::Tensor> inputs, bool weight_wants_grad) {
  if (!needs_backward(inputs, weight_wants_grad)) return nullptr;
  auto node = std::shared_ptr<N>(new N(), torch::autograd::deleteNode);
  connect(*node, policy, inputs);
  return node;
}

template <class N>
at::Tensor attach(const std::shared_ptr<N>& node, at::Tensor out) {
  if (node) attach_to(out, node);
  return out;
}

}  // namespace weft::ops
