#include "data/dataset.h"

#include <gtest/gtest.h>

#include <fstream>
#include <numeric>
#include <set>

#include "base/error.h"
#include "data/block_hashes.h"
#include "data/order.h"
#include "folder.h"

namespace weft::data {
namespace {

std::shared_ptr<const IndexedTokens> set_of(const Folder& folder, const std::vector<int>& lengths) {
  IndexedWriter writer(folder / "t", TokenType::kU16);
  int32_t next = 1;
  for (int n : lengths) {
    std::vector<int32_t> d(static_cast<size_t>(n));
    std::iota(d.begin(), d.end(), next);
    next += n;
    writer.add_document(d);
  }
  writer.finish();
  return std::make_shared<const IndexedTokens>(IndexedTokens::open(folder / "t"));
}

TEST(TokenWindows, CoverTheStreamAndMarkDocuments) {
  Folder folder;
  const auto tokens = set_of(folder, {3, 1, 6, 4});  // 14 tokens: documents at 0, 3, 4, 10
  const TokenWindows windows(tokens, 4, false);
  ASSERT_EQ(windows.size(), 3);
  const Sample a = windows.at(0);
  EXPECT_EQ(a.tokens, (std::vector<int32_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(a.document_starts, (std::vector<int32_t>{0, 3}));
  EXPECT_EQ(a.loss_weights, (std::vector<float>{1, 1, 0, 0}));  // token 5 begins a document too
  const Sample b = windows.at(1);
  EXPECT_EQ(b.tokens, (std::vector<int32_t>{5, 6, 7, 8, 9}));
  EXPECT_EQ(b.document_starts, (std::vector<int32_t>{0}));
  EXPECT_EQ(b.loss_weights, (std::vector<float>{1, 1, 1, 1}));
  const Sample c = windows.at(2);
  EXPECT_EQ(c.document_starts, (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(c.loss_weights, (std::vector<float>{1, 0, 1, 1}));
  EXPECT_THROW(windows.at(3), InputError);
  EXPECT_THROW(TokenWindows(tokens, 14, false), InputError);
  EXPECT_EQ(TokenWindows(tokens, 13, false).size(), 1);
}

TEST(TokenWindows, TheLastPartIsKeptAtWeightZeroPadding) {
  Folder folder;
  const auto tokens = set_of(folder, {3, 1, 6, 4});
  for (int64_t seq_len : {3, 4, 5, 6, 13, 20}) {
    const TokenWindows windows(tokens, seq_len, true);
    double weights = 0;
    for (int64_t i = 0; i < windows.size(); ++i) {
      const Sample s = windows.at(i);
      ASSERT_EQ(static_cast<int64_t>(s.tokens.size()), seq_len + 1);
      EXPECT_EQ(windows.starts(i).starts, s.document_starts);
      EXPECT_EQ(windows.starts(i).inputs, s.inputs());
      weights += std::accumulate(s.loss_weights.begin(), s.loss_weights.end(), 0.0);
      for (size_t k = 0; k < s.loss_weights.size(); ++k) {
        if (s.loss_weights[k] > 0) { EXPECT_EQ(s.tokens[k + 1], s.tokens[k] + 1); }
      }
    }
    EXPECT_EQ(weights, 14 - 4) << seq_len;  // every token but the first of each document
  }
  const Sample last = TokenWindows(tokens, 5, true).at(2);
  EXPECT_EQ(last.tokens, (std::vector<int32_t>{11, 12, 13, 14, 0, 0}));
  EXPECT_EQ(last.document_starts, (std::vector<int32_t>{0, 4}));
}

TEST(TokenWindows, WhereDocumentsStartIsKnownWithoutTheirTokens) {
  Folder folder;
  set_of(folder, {3, 1, 6, 4});
  write_block_hashes(folder / "t");
  std::fstream(folder / "t.bin", std::ios::in | std::ios::out | std::ios::binary).write("x", 1);  // its hash no longer fits
  const TokenWindows windows(std::make_shared<const IndexedTokens>(IndexedTokens::open(folder / "t")), 4, false);
  EXPECT_THROW(windows.at(0), InputError);
  EXPECT_EQ(windows.starts(0).starts, (std::vector<int32_t>{0, 3}));
  EXPECT_THROW(windows.starts(3), InputError);
}

TEST(Order, PermutationsAreBijectionsAndDiffer) {
  for (int64_t n : {1, 2, 3, 5, 16, 17, 1000, 4097}) {
    std::set<int64_t> seen;
    int64_t fixed = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t j = permute(i, n, 7);
      ASSERT_TRUE(j >= 0 && j < n);
      seen.insert(j);
      fixed += i == j;
    }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), n);
    if (n >= 1000) { EXPECT_LT(fixed, 12); }
  }
  const int64_t huge = int64_t{1} << 40;
  EXPECT_NE(permute(5, huge, 1), permute(5, huge, 2));
  // Neighbours land anywhere: the mean distance of two random places is a third of the range.
  double distance = 0;
  for (int64_t i = 0; i < 10000; ++i) distance += std::abs(static_cast<double>(permute(i, huge, 3) - permute(i + 1, huge, 3))) / static_cast<double>(huge);
  EXPECT_NEAR(distance / 10000, 1.0 / 3, 0.01);
}

TEST(Order, EpochsAreShuffledAnew) {
  const EpochOrder order(10, 42, true), same(10, 42, true), other(10, 43, true), plain(10, 42, false);
  std::vector<int64_t> first, second, third;
  for (int64_t i = 0; i < 10; ++i) first.push_back(order.at(i)), second.push_back(order.at(10 + i)), third.push_back(other.at(i));
  EXPECT_NE(first, second);
  EXPECT_NE(first, third);
  EXPECT_EQ(std::set<int64_t>(second.begin(), second.end()).size(), 10u);
  EXPECT_EQ(order.at(123456789), same.at(123456789));
  EXPECT_EQ(plain.at(13), 3);
  EXPECT_EQ(OnceOrder(4).at(3), 3);
  EXPECT_EQ(OnceOrder(4).at(4), -1);
}

TEST(Vocabulary, AnIdAboveItIsNamed) {
  Folder folder;
  const auto tokens = set_of(folder, {3, 4});
  check_vocabulary(*tokens, 8);
  EXPECT_NE(error_of<InputError>([&] { check_vocabulary(*tokens, 6); }).find("at token 5: got 6, want below 6"), std::string::npos);
}

}  // namespace
}  // namespace weft::data
