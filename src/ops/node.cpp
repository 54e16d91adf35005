#include "ops/aten.h"

#include "ops/node.h"

namespace weft::ops {

SavedTensor save(const at::Tensor& t) { return t.defined() ? SavedTensor(t, /*is_output=*/false) : SavedTensor(); }

bool needs_backward(std::initializer_list<at::Tensor> inputs, bool weight_wants_grad) {
  if (!at::GradMode::is_enabled()) return false;
  bool any = weight_wants_grad;
  for (const at::Tensor& t : inputs) any = any || (t.defined() && t.requires_grad());
  return any;
}

void connect(Node& node, const Policy& policy, std::initializer_list<at::Tensor> inputs) {
  torch::autograd::edge_list edges;
  edges.reserve(inputs.size());
  for (const at::Tensor& t : inputs)
    edges.push_back(t.defined() && t.requires_grad() ? torch::autograd::impl::gradient_edge(t) : torch::autograd::Edge());
  node.set_next_edges(std::move(edges));
  node.policy = policy;
  if (!policy.trace_backward) node.policy.trace = nullptr;
}

void attach_to(const at::Tensor& out, std::shared_ptr<torch::autograd::Node> node) { torch::autograd::set_history(out, node); }

}  // namespace weft::ops
