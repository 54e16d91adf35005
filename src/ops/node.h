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
// Only node.cpp includes the engine's headers: with them every source that has a backward would compile twice as long.
// Sources only: include after ops/aten.h.
#pragma once
#include "ops/aten.h"
#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

using variable_list = std::vector<at::Tensor>;
using SavedTensor = torch::autograd::SavedVariable;

class Node {
 public:
  virtual ~Node() = default;
  virtual variable_list apply(variable_list&& grads) = 0;  // of the outputs, as they were attached -> of the inputs of make_node
  at::Tensor unpack(const SavedTensor&) const;
  bool wants_gradient(size_t input) const;  // asked in apply
  Policy policy;
  torch::autograd::Node* graph = nullptr;  // the engine's node, which owns this one
};

SavedTensor save(const at::Tensor&);  // undefined stays undefined

// Below the templates: compiled once, in node.cpp.
bool needs_backward(std::initializer_list<at::Tensor> inputs, bool weight_wants_grad);
std::shared_ptr<Node> enter_graph(std::unique_ptr<Node>, const Policy&, std::initializer_list<at::Tensor> inputs);
void attach_to(const at::Tensor& out, const Node&);

template <class N>
std::shared_ptr<N> make_node(const Policy& policy, std::initializer_list<at::Tensor> inputs, bool weight_wants_grad) {
  if (!needs_backward(inputs, weight_wants_grad)) return nullptr;
  return std::static_pointer_cast<N>(enter_graph(std::make_unique<N>(), policy, inputs));
}

template <class N>
at::Tensor attach(const std::shared_ptr<N>& node, at::Tensor out) {
  if (node) attach_to(out, *node);
  return out;
}

// Runs the graph of `roots` back; an undefined seed of a scalar stands for one.
void run_backward(const variable_list& roots, const variable_list& seeds);
// Of sum(seed . output), for each input.
variable_list gradients_of(const variable_list& outputs, const variable_list& inputs, const variable_list& seeds);
// The same numbers as an output whose gradient nobody keeps, as in the middle of a model (a leaf would copy one that two inputs share).
at::Tensor in_the_middle(const at::Tensor&);

}  // namespace weft::ops
