// A layer: one signature for every kind, parameters with required specs, wraps that add parallelism from outside.
//
// Goals: a layer reads like its equations; TP, CP, EP, FSDP and recompute are added to a finished tree (parallel/), so no layer
// names a mesh or a collective at its edge. Forward takes head counts and widths from the tensors it holds, never from the
// config, so that local shapes just work. Non-goals: registries, hooks on activations, parameters as autograd leaves.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nn/ctx.h"
#include "nn/param.h"
#include "nn/state.h"

namespace weft::nn {

struct Boundary {
  enum In : uint8_t { kOwnTokens, kWholeSequence } in = kOwnTokens;  // whole: of this cp rank
  enum Out : uint8_t { kTokens, kSum } out = kTokens;                // sum: addends over tp
};

using Next = std::function<Flow(Flow, const CtxPtr&)>;
enum class Order : uint8_t { kFsdp, kOffload, kRecompute, kBoundary };  // outermost first, however added

class Wrap {
 public:
  virtual ~Wrap() = default;
  virtual Order order() const = 0;
  virtual Flow around(Flow, const CtxPtr&, const Next&) = 0;
};

class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  Flow operator()(Flow f, const CtxPtr& ctx) { return call(0, std::move(f), ctx); }
  at::Tensor operator()(at::Tensor x, const CtxPtr& ctx);  // for modules that only map x_TD

  virtual Boundary boundary() const { return {}; }
  virtual std::vector<StateSpec> states() const { return {}; }
  virtual void after_step(const StepStats&) {}  // expert bias, QK-clip
  virtual void fill_buffers(uint64_t /*seed*/) {}  // when a new model comes to life: numbers that are kept and not trained

  void add(std::unique_ptr<Wrap>);  // keeps Order
  bool wrapped() const { return !wraps_.empty(); }
  // Every module of the tree whose path matches the glob (`*` within a part, `**` across), parents first.
  void visit(std::string_view glob, const std::function<void(Module&)>&);
  void visit_params(const std::function<void(Param&)>&);   // the whole tree, in the order of construction
  void visit_buffers(const std::function<void(const std::string& name, at::Tensor&)>&);
  const std::string& path() const { return path_; }        // "layers.17.mla"; the root is ""

 protected:
  virtual Flow forward(Flow, const CtxPtr&) = 0;
  ops::Weight& param(ParamSpec);  // on the meta device until materialize()
  at::Tensor& buffer(std::string name, std::vector<int64_t> shape, DType);  // checkpointed, not trained; zeros
  template <class M>
  M& child(std::string name, std::unique_ptr<M> module) {
    M& made = *module;
    adopt(std::move(name), std::move(module));
    return made;
  }

 private:
  struct Buffer { std::string name; at::Tensor tensor; };
  Flow call(size_t i, Flow f, const CtxPtr& ctx);
  void adopt(std::string name, std::unique_ptr<Module>);
  void rename(const std::string& path);
  std::string qualified(const std::string& name) const;

  std::string path_, name_;
  std::deque<Param> params_;    // deques: ops and wraps keep pointers
  std::deque<Buffer> buffers_;
  std::vector<std::unique_ptr<Module>> children_;
  std::vector<std::unique_ptr<Wrap>> wraps_;
};

}  // namespace weft::nn
