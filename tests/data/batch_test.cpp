#include "ops/aten.h"

#include "data/batch.h"
#include "data/blend.h"
#include "data/bench.h"
#include "data/gpt_dataset.h"
#include "data/side_streams.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "folder.h"

namespace weft::data {
namespace {

std::shared_ptr<const Dataset> windows_of(const Folder& folder, int64_t seq_len) {
  IndexedWriter writer(folder / "t", TokenType::kI32);
  int32_t next = 0;
  for (int d = 0; d < 40; ++d) {
    std::vector<int32_t> document;
    for (int k = 0; k < 1 + d * 5 % 17; ++k) document.push_back(next++);
    writer.add_document(document);
  }
  writer.finish();
  return std::make_shared<TokenWindows>(std::make_shared<const IndexedTokens>(IndexedTokens::open(folder / "t")), seq_len, false);
}

TEST(Batch, RowOfSamplesWithDocuments) {
  Folder folder;
  const auto windows = windows_of(folder, 8);
  const Batch b = make_batch(*windows, {3, 0, -1});
  ASSERT_EQ(b.tokens.sizes(), (std::vector<int64_t>{24}));
  EXPECT_EQ(b.tokens.scalar_type(), at::kLong);
  EXPECT_EQ(b.loss_weights.scalar_type(), at::kFloat);
  EXPECT_EQ(b.positions.scalar_type(), at::kInt);
  EXPECT_FALSE(b.streams.defined());
  EXPECT_EQ(b.tokens[0].item<int64_t>(), 24);
  EXPECT_EQ(b.tokens[8].item<int64_t>(), 0);
  EXPECT_TRUE(at::equal(b.targets, b.tokens + 1));  // ids count up through the whole file
  EXPECT_EQ(b.loss_weights.slice(0, 16, 24).sum().item<float>(), 0);
  const auto& cu = b.packing.host_cu_q;
  EXPECT_EQ(cu.front(), 0);
  EXPECT_EQ(cu.back(), 24);
  EXPECT_TRUE(std::count(cu.begin(), cu.end(), 8) == 1 && std::count(cu.begin(), cu.end(), 16) == 1);
  for (size_t d = 0; d + 1 < cu.size(); ++d) {
    for (int32_t i = cu[d]; i < cu[d + 1]; ++i) EXPECT_EQ(b.positions[i].item<int32_t>(), i - cu[d]);
    const int64_t last = cu[d + 1] - 1;  // inside a sample, what ends a document predicts nothing
    if (last % 8 != 7) { EXPECT_EQ(b.loss_weights[last].item<float>(), 0); }
  }
}

TEST(Batch, StreamsStandBesideTheTokensOfARow) {
  Folder folder;
  const auto windows = windows_of(folder, 8);
  const IndexedTokens set = IndexedTokens::open(folder / "t");
  std::vector<int32_t> counting(static_cast<size_t>(set.tokens())), low;
  for (size_t i = 0; i < counting.size(); ++i) counting[i] = static_cast<int32_t>(i), low.push_back(static_cast<int32_t>(i % 7));
  SideStreamWriter writer(folder / "t", 0);
  writer.add({std::span<const int32_t>(low), counting, counting, counting, counting});
  writer.finish();
  const TokenWindows with(std::make_shared<const IndexedTokens>(IndexedTokens::open(folder / "t")), 8, false);
  const Batch b = make_batch(with, {3, 0, -1});
  ASSERT_EQ(b.streams.sizes(), (std::vector<int64_t>{kNumStreams, 24}));
  EXPECT_EQ(b.streams.scalar_type(), at::kInt);
  for (int64_t s = 1; s < kNumStreams; ++s) EXPECT_TRUE(at::equal(b.streams[s].slice(0, 0, 16).to(at::kLong), b.tokens.slice(0, 0, 16)));
  EXPECT_TRUE(at::equal(b.streams[0].slice(0, 0, 16).to(at::kLong), b.tokens.slice(0, 0, 16).remainder(7)));
  EXPECT_TRUE(b.streams.slice(1, 16, 24).eq(-1).all().item<bool>());  // a padding sample has none
  // A blend of a set with streams and one without: absent where there are none, wherever the set with streams stands.
  Folder other;
  const BlendedDataset blend({windows_of(other, 8), std::make_shared<const TokenWindows>(with)},
                             std::make_shared<PlannedBlend>(BlendWalk(std::vector<double>{0.5, 0.5}), 2));
  const Batch mixed = make_batch(blend, {0, 1});
  EXPECT_TRUE(mixed.streams.slice(1, 0, 8).eq(-1).all().item<bool>());
  EXPECT_TRUE(at::equal(mixed.streams[1].slice(0, 8, 16).to(at::kLong), mixed.tokens.slice(0, 8, 16)));
}

TEST(BatchStream, ReadingAheadChangesNothingAndTheCursorIsWhatWasGiven) {
  Folder folder;
  const auto windows = windows_of(folder, 8);
  const auto order = std::make_shared<EpochOrder>(windows->size(), 5, true);
  BatchConfig config;
  config.micro_batch = 2;
  std::vector<at::Tensor> plain;
  config.read_ahead = 0;
  auto direct = make_stream(windows, order, config);
  for (int i = 0; i < 60; ++i) plain.push_back(direct->next().tokens);
  config.read_ahead = 3;
  auto ahead = make_stream(windows, order, config);
  for (int i = 0; i < 25; ++i) {
    EXPECT_EQ(ahead->cursor().consumed_samples, 2 * i);
    EXPECT_TRUE(at::equal(ahead->next().tokens, plain[static_cast<size_t>(i)]));
  }
  auto resumed = make_stream(windows, order, config, ahead->cursor());
  for (int i = 25; i < 60; ++i) EXPECT_TRUE(at::equal(resumed->next().tokens, plain[static_cast<size_t>(i)]));
}

TEST(BatchStream, RanksShareOneGlobalOrder) {
  Folder folder;
  const auto windows = windows_of(folder, 8);
  const auto order = std::make_shared<EpochOrder>(windows->size(), 5, true);
  BatchConfig one;
  one.micro_batch = 4;
  auto whole = make_stream(windows, order, one);
  for (int step = 0; step < 5; ++step) {
    std::vector<at::Tensor> parts;
    for (int64_t rank = 0; rank < 2; ++rank) {
      BatchConfig half{.micro_batch = 2, .rank = rank, .ranks = 2, .read_ahead = 0};
      parts.push_back(make_stream(windows, order, half, {step * 4, 5})->next().tokens);
    }
    EXPECT_TRUE(at::equal(whole->next().tokens, at::cat(parts)));
  }
}

TEST(BatchStream, AFiniteOrderEndsInWeightZero) {
  Folder folder;
  const auto windows = windows_of(folder, 8);
  BatchConfig config;
  config.micro_batch = 4;
  auto stream = make_stream(windows, std::make_shared<OnceOrder>(windows->size()), config);
  double weights = 0, want = 0;
  const int64_t batches = batches_in_pass(windows->size(), config);
  for (int64_t i = 0; i < batches; ++i) weights += stream->next().loss_weights.sum().item<double>();
  for (int64_t i = 0; i < windows->size(); ++i) {
    for (float w : windows->at(i).loss_weights) want += w;
  }
  EXPECT_EQ(weights, want);
  EXPECT_EQ(stream->next().loss_weights.sum().item<double>(), 0);
}

TEST(BatchStream, Speed) {
  Folder folder;
  BenchOptions o;
  o.folder = folder.path();
  o.tokens = 1 << 26;
  const double rate = bench_batches(o).at("batch_tokens_per_core_s").get<double>();
  std::printf("%.0f M tokens/s in batches on one core\n", rate / 1e6);
  EXPECT_GT(rate, 1e7);  // far below the goal of 150 M: a broken path shows, a busy machine does not
}

class Failing final : public Dataset {
 public:
  int64_t size() const override { return 100; }
  void read(int64_t index, Sample& out) const override {
    if (index == 5) throw InputError("sample 5 is broken");
    out.tokens.assign(5, 0);
    out.loss_weights.assign(4, 1);
    out.document_starts.assign(1, 0);
  }
};

TEST(BatchStream, AnErrorOfTheReaderComesOutOfNextInItsPlace) {
  auto stream = make_stream(std::make_shared<Failing>(), std::make_shared<OnceOrder>(100), {});
  for (int i = 0; i < 5; ++i) stream->next();
  EXPECT_EQ(error_of<InputError>([&] { stream->next(); }), "sample 5 is broken");
  EXPECT_THROW(make_stream(std::make_shared<Failing>(), std::make_shared<OnceOrder>(100), {.micro_batch = 0}), ConfigError);
  EXPECT_THROW(make_stream(std::make_shared<Failing>(), std::make_shared<OnceOrder>(100), {.rank = 2, .ranks = 2}), ConfigError);
}

}  // namespace
}  // namespace weft::data
