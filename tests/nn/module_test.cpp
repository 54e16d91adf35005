#include "ops/aten.h"

#include "nn/module.h"

#include <gtest/gtest.h>

namespace weft::nn {
namespace {

class Leaf final : public Module {
 public:
  Leaf() : w_(param({"", {2, 3}, Split::kNone, {}, {Init::kOne, 0}, GradUse::kPerToken, true, false, true})) {}
  ops::Weight& w_;

 protected:
  Flow forward(Flow f, const CtxPtr&) override {
    f.x_TD = f.x_TD + 1;
    return f;
  }
};

class Tree final : public Module {
 public:
  explicit Tree(int depth) {
    param({"scale", {1}, Split::kNone, {}, {Init::kZero, 0}, GradUse::kPerToken, true, false, false});
    if (depth == 0) leaf_ = &child("leaf", std::make_unique<Leaf>());
    if (depth > 0) child("sub", std::make_unique<Tree>(depth - 1));
  }
  Leaf* leaf_ = nullptr;

 protected:
  Flow forward(Flow f, const CtxPtr&) override { return f; }
};

class Note final : public Wrap {
 public:
  Note(Order order, std::string name, std::string& log) : order_(order), name_(std::move(name)), log_(log) {}
  Order order() const override { return order_; }
  Flow around(Flow f, const CtxPtr& ctx, const Next& next) override {
    log_ += name_ + "(";
    f = next(std::move(f), ctx);
    log_ += ")";
    return f;
  }

 private:
  Order order_;
  std::string name_;
  std::string& log_;
};

}  // namespace

TEST(Module, NamesAreGlobalHoweverDeepTheTree) {
  Tree root(2);
  std::vector<std::string> names;
  root.visit_params([&](Param& p) { names.push_back(p.weight.name); });
  EXPECT_EQ(names, (std::vector<std::string>{"scale", "sub.scale", "sub.sub.scale", "sub.sub.leaf"}));
}

TEST(Module, WrapsRunInTheirOrderHoweverAdded) {
  Leaf leaf;
  std::string log;
  leaf.add(std::make_unique<Note>(Order::kBoundary, "boundary", log));
  leaf.add(std::make_unique<Note>(Order::kFsdp, "fsdp", log));
  leaf.add(std::make_unique<Note>(Order::kRecompute, "recompute", log));
  const at::Tensor y = leaf(at::zeros({1}), std::make_shared<Ctx>());
  EXPECT_EQ(log, "fsdp(recompute(boundary()))");
  EXPECT_EQ(y.item<float>(), 1);
}

TEST(StepStats, AddsUpAndStartsAnew) {
  StepStats stats;
  stats.add("loss", at::ones({}), 2);
  stats.add("loss", at::ones({}), 3);
  const auto first = stats.take();
  EXPECT_EQ(first.at("loss").sum.item<float>(), 2);
  EXPECT_EQ(first.at("loss").count, 5);
  EXPECT_TRUE(stats.take().empty());
}

}  // namespace weft::nn
