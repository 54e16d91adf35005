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

inline SavedTensor save(const at::Tensor& t) { return t.defined() ? SavedTensor(t, /*is_output=*/false) : SavedTensor(); }

template <class N>
std::shared_ptr<N> make_node(const Policy& policy, std::initializer_list<at::Tensor> inputs, bool weight_wants_grad) {
  if (!at::GradMode::is_enabled()) return nullptr;
  bool any = weight_wants_grad;
  for (const at::Tensor& t : inputs) any = any || (t.defined() && t.requires_grad());
  if (!any) return nullptr;
  auto node = std::shared_ptr<N>(new N(), torch::autograd::deleteNode);
  torch::autograd::edge_list edges;
  edges.reserve(inputs.size());
  for (const at::Tensor& t : inputs)
    edges.push_back(t.defined() && t.requires_grad() ? torch::autograd::impl::gradient_edge(t) : torch::autograd::Edge());
  node->set_next_edges(std::move(edges));
  node->policy = policy;
  if (!policy.trace_backward) node->policy.trace = nullptr;
  return node;
}

template <class N>
at::Tensor attach(const std::shared_ptr<N>& node, at::Tensor out) {
  if (node) torch::autograd::set_history(out, node);
  return out;
}

}  // namespace weft::ops
