#include "ckpt/piece.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "base/error.h"

namespace weft::ckpt {
namespace {

// A random partition of `whole` by repeated cuts.
std::vector<Box> cut_up(const Box& whole, std::mt19937& random, int cuts) {
  std::vector<Box> boxes{whole};
  for (int i = 0; i < cuts && !whole.shape.empty(); ++i) {
    const size_t b = random() % boxes.size(), d = random() % whole.shape.size();
    if (boxes[b].shape[d] < 2) continue;
    const int64_t at = 1 + static_cast<int64_t>(random()) % (boxes[b].shape[d] - 1);
    Box right = boxes[b];
    right.offset[d] += at, right.shape[d] -= at;
    boxes[b].shape[d] = at;
    boxes.push_back(right);
  }
  return boxes;
}

template <class F>
void each_element(const Box& box, F f) {
  for (int64_t i = 0; i < numel(box.shape); ++i) {
    std::vector<int64_t> at = box.offset;
    int64_t rest = i;
    for (size_t d = box.shape.size(); d-- > 0;) at[d] += rest % box.shape[d], rest /= box.shape[d];
    f(at);
  }
}

int32_t value_at(const std::vector<int64_t>& at) {
  int64_t v = 7;
  for (int64_t x : at) v = v * 101 + x;
  return static_cast<int32_t>(v);
}

}  // namespace

TEST(Pieces, AnyCutIsCopiedToAnyOtherWithEachWantedElementWrittenOnce) {
  std::mt19937 random(1);
  for (int round = 0; round < 400; ++round) {
    std::vector<int64_t> shape(random() % 4);
    for (int64_t& n : shape) n = 1 + static_cast<int64_t>(random() % 7);
    const Box whole{std::vector<int64_t>(shape.size()), shape};
    std::vector<Piece> have, want;
    std::vector<std::vector<int32_t>> src, dst;
    std::vector<std::vector<int>> writes;
    for (int replica = 0; replica < 1 + static_cast<int>(random() % 3); ++replica)
      for (const Box& b : cut_up(whole, random, 4)) have.push_back({"w", DType::kI32, shape, b});
    std::shuffle(have.begin(), have.end(), random);
    for (const Box& b : cut_up(whole, random, 5)) want.push_back({"w", DType::kI32, shape, b});
    if (round % 2 == 0) want.pop_back();
    for (const Piece& p : have) {
      src.emplace_back();
      each_element(p.box, [&](const auto& at) { src.back().push_back(value_at(at)); });
    }
    for (const Piece& p : want) {
      dst.emplace_back(static_cast<size_t>(numel(p.box.shape)), 0);
      writes.emplace_back(dst.back().size(), 0);
    }
    for (const Copy& c : plan_copies(have, want)) {
      copy_box(reinterpret_cast<const std::byte*>(src[c.src].data()), have[c.src].box, reinterpret_cast<std::byte*>(dst[c.dst].data()), want[c.dst].box, c.box, DType::kI32);
      each_element(c.box, [&](const auto& at) {
        int64_t i = 0;
        for (size_t d = 0; d < at.size(); ++d) i = i * want[c.dst].box.shape[d] + at[d] - want[c.dst].box.offset[d];
        ++writes[c.dst][static_cast<size_t>(i)];
      });
    }
    for (size_t w = 0; w < want.size(); ++w) {
      size_t i = 0;
      each_element(want[w].box, [&](const auto& at) { ASSERT_EQ(dst[w][i++], value_at(at)) << "round " << round; });
      for (int n : writes[w]) ASSERT_EQ(n, 1);
    }
  }
}

TEST(Pieces, WhatIsMissingOrOfAnotherShapeIsNamed) {
  const std::vector<Piece> have{{"w", DType::kF32, {4, 4}, {{0, 0}, {2, 4}}}};
  const auto refusal = [&](Piece want) -> std::string {
    try {
      plan_copies(have, std::vector<Piece>{want});
    } catch (const InputError& e) {
      return e.what();
    }
    return "taken";
  };
  EXPECT_EQ(refusal({"w", DType::kF32, {4, 4}, {{1, 1}, {1, 3}}}), "taken");
  EXPECT_NE(refusal({"v", DType::kF32, {4, 4}, {{0, 0}, {4, 4}}}).find("'v'"), std::string::npos);
  EXPECT_NE(refusal({"w", DType::kF32, {4, 5}, {{0, 0}, {4, 5}}}).find("got shape [4, 4], want [4, 5]"), std::string::npos);
  EXPECT_NE(refusal({"w", DType::kBf16, {4, 4}, {{0, 0}, {4, 4}}}).find("got f32, want bf16"), std::string::npos);
  EXPECT_NE(refusal({"w", DType::kF32, {4, 4}, {{0, 0}, {4, 4}}}).find("no piece has the box at [2, 0]"), std::string::npos);
  EXPECT_NE(refusal({"w", DType::kF32, {4, 4}, {{3, 0}, {2, 4}}}).find("want a box within"), std::string::npos);
}

TEST(Pieces, CoverMeansEveryElementOnce) {
  const Piece left{"w", DType::kF32, {4, 4}, {{0, 0}, {4, 2}}}, right{"w", DType::kF32, {4, 4}, {{0, 2}, {4, 2}}};
  const Piece more{"w", DType::kF32, {4, 4}, {{3, 1}, {1, 2}}};
  EXPECT_NO_THROW(check_cover(std::vector<Piece>{left, right}));
  EXPECT_THROW(check_cover(std::vector<Piece>{left}), InputError);
  EXPECT_THROW(check_cover(std::vector<Piece>{left, right, more}), InputError);
  EXPECT_THROW(check_cover(std::vector<Piece>{left, left}), InputError);
  const Piece scalar{"s", DType::kI64, {}, {}};
  EXPECT_NO_THROW(check_cover(std::vector<Piece>{scalar}));
  EXPECT_THROW(check_cover(std::vector<Piece>{scalar, scalar}), InputError);
}

}  // namespace weft::ckpt
