#include "ops/aten.h"

#include "ops/node.h"

#include <c10/util/Type.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

namespace weft::ops {
namespace {

struct GraphNode final : torch::autograd::Node {
  std::unique_ptr<ops::Node> op;
  variable_list apply(variable_list&& grads) override { return op->apply(std::move(grads)); }
  std::string name() const override { return c10::demangle(typeid(*op).name()); }
};

struct Dropped final : torch::autograd::Node {
  variable_list apply(variable_list&&) override { return {}; }
};

}  // namespace

at::Tensor Node::unpack(const SavedTensor& s) const { return s.unpack(graph->getptr()); }  // s may be an output of this node

bool Node::wants_gradient(size_t input) const { return graph->task_should_compute_output(input); }

SavedTensor save(const at::Tensor& t) { return t.defined() ? SavedTensor(t, /*is_output=*/false) : SavedTensor(); }

bool needs_backward(std::initializer_list<at::Tensor> inputs, bool weight_wants_grad) {
  if (!at::GradMode::is_enabled()) return false;
  bool any = weight_wants_grad;
  for (const at::Tensor& t : inputs) any = any || (t.defined() && t.requires_grad());
  return any;
}

std::shared_ptr<Node> enter_graph(std::unique_ptr<Node> op, const Policy& policy, std::initializer_list<at::Tensor> inputs) {
  const std::shared_ptr<GraphNode> node(new GraphNode(), torch::autograd::deleteNode);
  torch::autograd::edge_list edges;
  edges.reserve(inputs.size());
  for (const at::Tensor& t : inputs)
    edges.push_back(t.defined() && t.requires_grad() ? torch::autograd::impl::gradient_edge(t) : torch::autograd::Edge());
  node->set_next_edges(std::move(edges));
  op->graph = node.get(), op->policy = policy;
  if (!policy.trace_backward) op->policy.trace = nullptr;
  node->op = std::move(op);
  return {node, node->op.get()};
}

void attach_to(const at::Tensor& out, const Node& node) { torch::autograd::set_history(out, node.graph->getptr()); }

void run_backward(const variable_list& roots, const variable_list& seeds) { torch::autograd::backward(roots, seeds); }

variable_list gradients_of(const variable_list& outputs, const variable_list& inputs, const variable_list& seeds) {
  return torch::autograd::grad(outputs, inputs, seeds);
}

at::Tensor in_the_middle(const at::Tensor& t) {
  const at::Tensor x = t.detach();
  if (x.is_floating_point()) torch::autograd::set_history(x, std::shared_ptr<Dropped>(new Dropped(), torch::autograd::deleteNode));
  return x;
}

}  // namespace weft::ops
