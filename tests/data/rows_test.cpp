#include "data/conversation.h"
#include "data/fim.h"
#include "data/mock.h"
#include "data/packing.h"
#include "data/row_dataset.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "folder.h"
#include "text/bpe_train.h"

namespace weft::data {
namespace {

std::vector<int64_t> lengths_of(int n, int64_t most) {
  std::vector<int64_t> out;
  for (int i = 0; i < n; ++i) out.push_back(1 + static_cast<int64_t>(rng::bits(9, static_cast<uint64_t>(i)) % static_cast<uint64_t>(most)));
  return out;
}

TEST(Packing, EverySequenceOnceAndNoneOverTheCapacity) {
  const std::vector<int64_t> lengths = lengths_of(2000, 700);
  const double total = static_cast<double>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}));
  const auto check = [&](const std::vector<Pack>& packs) {
    std::vector<int> seen(lengths.size(), 0);
    for (const Pack& p : packs) {
      int64_t sum = 0;
      for (int64_t m : p.members) sum += lengths[static_cast<size_t>(m)], ++seen[static_cast<size_t>(m)];
      EXPECT_EQ(sum, p.tokens);
      EXPECT_LE(sum, 1024);
      EXPECT_TRUE(std::is_sorted(p.members.begin(), p.members.end()));
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<long>(seen.size()));
    return total / (1024.0 * static_cast<double>(packs.size()));
  };
  const double first = check(pack_first_fit(lengths, 1024)), next = check(pack_next_fit(lengths, 1024));
  EXPECT_GT(first, 0.95);
  EXPECT_GT(first, next + 0.1);
  EXPECT_THROW(pack_first_fit(std::vector<int64_t>{5, 1025}, 1024), ConfigError);
}

TEST(Packing, RanksGetEqualNumbersAndEvenWork) {
  std::vector<double> work;
  for (int64_t n : lengths_of(336, 700)) work.push_back(static_cast<double>(n * n));
  for (int64_t ranks : {1, 2, 4, 7, 16}) {
    const auto of_rank = spread(work, ranks);
    ASSERT_EQ(of_rank.size(), static_cast<size_t>(ranks));
    double most = 0, sum = 0;
    std::vector<int> seen(work.size(), 0);
    for (const auto& list : of_rank) {
      EXPECT_EQ(list.size(), work.size() / static_cast<size_t>(ranks));
      double mine = 0;
      for (int64_t p : list) ++seen[static_cast<size_t>(p)], mine += work[static_cast<size_t>(p)];
      most = std::max(most, mine), sum += mine;
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<long>(seen.size()));
    EXPECT_LT(most, 1.05 * sum / static_cast<double>(ranks)) << ranks;
  }
  EXPECT_THROW(spread(work, 5), ConfigError);
  EXPECT_THROW(spread(work, 0), ConfigError);
}

// Rows whose encoder gives as many tokens as the row says, all with the row's number.
RowEncoder counted(std::atomic<int>* calls = nullptr) {
  return [calls](std::string_view line, const std::string&) {
    if (calls != nullptr) ++*calls;
    const Json j = parse_json(line, "row");
    TokenRow r;
    r.tokens.assign(j.at("n").get<size_t>(), j.at("id").get<int32_t>());
    r.weights.assign(r.tokens.size(), 1.0f);
    return std::vector<TokenRow>{r};
  };
}
std::string counted_rows(int n, int most) {
  std::string out;
  for (int i = 0; i < n; ++i) out += "{\"id\":" + std::to_string(i + 1) + ",\"n\":" + std::to_string(rng::bits(3, static_cast<uint64_t>(i)) % static_cast<uint64_t>(most)) + "}\n" + (i % 7 == 0 ? "\n" : "");
  return out;
}

TEST(Rows, NumbersLinesOfSeveralFilesAndKeepsThem) {
  Folder folder;
  folder.write("a.jsonl", "{\"a\":1}\r\n\n{\"a\":2}\n");
  folder.write("b.jsonl", "\xEF\xBB\xBF{\"a\":3}");
  for (int pass = 0; pass < 2; ++pass) {
    const Rows rows({folder / "a.jsonl", folder / "b.jsonl"});
    ASSERT_EQ(rows.size(), 3);
    EXPECT_EQ(rows.line(0), "{\"a\":1}");
    EXPECT_EQ(rows.line(1), "{\"a\":2}");
    EXPECT_EQ(rows.line(2), "{\"a\":3}");
    EXPECT_TRUE(rows.where(1).ends_with("a.jsonl' row 2"));
    EXPECT_THROW(rows.line(3), InputError);
  }
  std::string side = slurp(folder / "a.jsonl.rows");
  side[44] ^= 1;
  folder.write("a.jsonl.rows", side);  // damaged: made again
  EXPECT_EQ(Rows({folder / "a.jsonl"}).line(1), "{\"a\":2}");
  folder.write("a.jsonl", "{\"a\":9}\n");  // changed: made again
  EXPECT_EQ(Rows({folder / "a.jsonl"}).size(), 1);
  folder.write("e.jsonl", "\n \n");
  EXPECT_THROW(Rows({folder / "e.jsonl"}), InputError);
  EXPECT_THROW(Rows({folder / "x.jsonl.gz"}), InputError);
}

TEST(RowDataset, PacksWholeSequencesEachOnce) {
  Folder folder;
  folder.write("r.jsonl", counted_rows(500, 90));
  const auto rows = std::make_shared<const Rows>(std::vector<std::string>{folder / "r.jsonl"});
  RowConfig c;
  c.seq_len = 96;
  c.block_rows = 64;
  c.align = 4;
  c.cache_folder = folder / "cache";
  std::atomic<int> calls{0};
  const RowDataset set(rows, counted(&calls), c);
  EXPECT_GT(set.skipped_rows(), 0);  // rows without tokens
  std::map<int32_t, int64_t> tokens, documents;
  for (int64_t i = 0; i < set.size(); ++i) {
    const Sample s = set.at(i);
    ASSERT_EQ(s.tokens.size(), 97u);
    EXPECT_EQ(set.starts(i).starts, s.document_starts);
    for (size_t d = 0; d < s.document_starts.size(); ++d) {
      const size_t begin = static_cast<size_t>(s.document_starts[d]), end = d + 1 < s.document_starts.size() ? static_cast<size_t>(s.document_starts[d + 1]) : 96;
      EXPECT_EQ(begin % 4, 0u);
      const int32_t id = s.tokens[begin];
      if (id != 0) ++documents[id];
      for (size_t k = begin; k < end; ++k) {
        if (s.tokens[k] != 0) {
          EXPECT_EQ(s.tokens[k], id);
          ++tokens[id];
        }
        EXPECT_EQ(s.loss_weights[k], k + 1 < end && s.tokens[k + 1] != 0 ? 1.0f : 0.0f) << i << " " << k;
      }
    }
  }
  for (int i = 0; i < 500; ++i) {
    const int64_t n = static_cast<int64_t>(rng::bits(3, static_cast<uint64_t>(i)) % 90);
    EXPECT_EQ(tokens[i + 1], n);
    EXPECT_EQ(documents[i + 1], n > 0 ? 1 : 0);
  }
  // Cached counts, any order of reading, any number of workers: the same samples.
  const int before = calls;
  c.workers = 3;
  const RowDataset again(rows, counted(&calls), c);
  EXPECT_EQ(calls, before);
  c.cache_folder = "";
  const RowDataset counted_anew(rows, counted(), c);
  ASSERT_EQ(again.size(), set.size());
  ASSERT_EQ(counted_anew.size(), set.size());
  for (int64_t i = set.size() - 1; i >= 0; i -= 3) {
    EXPECT_EQ(again.at(i).tokens, set.at(i).tokens);
    EXPECT_EQ(counted_anew.at(i).tokens, set.at(i).tokens);
  }
  c.seq_len = 95;
  EXPECT_THROW(RowDataset(rows, counted(), c), ConfigError);
}

TEST(RowDataset, StreamsKeepEveryTargetOnce) {
  Folder folder;
  folder.write("r.jsonl", counted_rows(200, 90));
  const auto rows = std::make_shared<const Rows>(std::vector<std::string>{folder / "r.jsonl"});
  RowConfig c;
  c.seq_len = 32;
  c.block_rows = 50;
  c.fill = RowConfig::kStream;
  const RowDataset set(rows, counted(), c);
  std::map<int32_t, double> targets;
  for (int64_t i = 0; i < set.size(); ++i) {
    const Sample s = set.at(i);
    for (size_t k = 0; k < 32; ++k) {
      targets[s.tokens[k + 1]] += s.loss_weights[k];
      if (s.loss_weights[k] > 0) { EXPECT_EQ(s.tokens[k], s.tokens[k + 1]); }
    }
  }
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(targets[i + 1], std::max<double>(0, static_cast<double>(rng::bits(3, static_cast<uint64_t>(i)) % 90) - 1)) << i;
  }
}

TEST(Conversations, SchemasAndRefusals) {
  const auto of = [](const std::string& row) { return conversations_of(row, "f row 1"); };
  auto c = of(R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},{"role":"assistant","content":"a","weight":0.5},{"role":"system","content":"t"},{"role":"user","content":"v"}],"text":"no"})");
  ASSERT_EQ(c.size(), 2u);
  EXPECT_EQ(c[0].size(), 3u);
  EXPECT_EQ(c[0][2].weight, 0.5);
  EXPECT_EQ(c[1][0].content, "t");
  c = of(R"({"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"r"}]})");
  EXPECT_EQ(c[0][0].role, "user");
  EXPECT_EQ(c[0][1].role, "assistant");
  c = of(R"({"instruction":"i","context":"x","response":"o"})");
  EXPECT_EQ(c[0][0].content, "i\n\nx");
  EXPECT_EQ(c[0][1].content, "o");
  EXPECT_EQ(of(R"({"text":"t"})")[0][0].role, "assistant");
  for (const char* bad : {R"({"messages":[]})", R"({"messages":[{"role":"user","content":["x"]}]})", R"({"messages":[{"role":"king","content":"x"}]})",
                          R"({"messages":[{"content":"x"}]})", R"({"other":1})", R"([1])", R"({"messages":[{"role":"assistant","content":"x","weight":-1}]})", "{", R"({"messages":7})"}) {
    EXPECT_NE(error_of<InputError>([&] { of(bad); }).find("f row 1"), std::string::npos) << bad;
  }
  const RenderedChat chat = render_chatml(of(R"({"instruction":"q","output":"a1"})")[0]);
  ASSERT_EQ(chat.trained.size(), 1u);
  EXPECT_EQ(chat.text.substr(chat.trained[0].first, chat.trained[0].second - chat.trained[0].first), "a1<|im_end|>");
}

std::shared_ptr<const text::Tokenizer> tokenizer() {
  text::BpeTrainOptions o;
  o.vocab_size = 340;
  o.special_tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"};
  text::BpeTrainer trainer(o);
  trainer.add("the quick brown fox jumps over the lazy dog and the other dogs; the fox assistant user answers the question of the user\n");
  return std::make_shared<const text::Tokenizer>(trainer.train());
}

TEST(Conversations, WeightsCoverWhatTheModelWrites) {
  const auto t = tokenizer();
  const auto rows = chat_rows(t, render_chatml)(R"({"messages":[{"role":"user","content":"the question"},{"role":"assistant","content":"the answer","weight":2},{"role":"user","content":"q"},{"role":"assistant","content":"dogs","weight":0}]})", "f");
  ASSERT_EQ(rows.size(), 1u);
  std::vector<int32_t> trained;
  for (size_t i = 0; i < rows[0].tokens.size(); ++i) {
    if (rows[0].weights[i] > 0) {
      EXPECT_EQ(rows[0].weights[i], 2);
      trained.push_back(rows[0].tokens[i]);
    }
  }
  EXPECT_EQ(t->decode(trained), "the answer<|im_end|>");
  const auto pair = preference_rows(t, render_chatml)(R"({"prompt":"the question","chosen":"the fox","rejected":"the dog"})", "f");
  ASSERT_EQ(pair.size(), 2u);
  EXPECT_NE(t->decode(pair[0].tokens).find("assistant\nthe fox<|im_end|>"), std::string::npos);
  EXPECT_NE(t->decode(pair[1].tokens).find("assistant\nthe dog<|im_end|>"), std::string::npos);
  EXPECT_THROW(preference_rows(t, render_chatml)(R"({"prompt":"p","chosen":"c"})", "f"), InputError);
  const auto text = text_rows(t, "text", t->id_of("<|endoftext|>"))(R"({"text":"the fox"})", "f");
  EXPECT_EQ(t->decode(text[0].tokens), "the fox<|endoftext|>");
}

class Documents final : public Dataset {  // samples of documents, each ending in eod
 public:
  Documents(std::shared_ptr<const text::Tokenizer> t, int64_t n) : t_(std::move(t)), n_(n) {}
  int64_t size() const override { return 40; }
  void read(int64_t index, Sample& out) const override {
    out.tokens.clear();
    out.document_starts.clear();
    for (uint64_t d = 0; static_cast<int64_t>(out.tokens.size()) <= n_; ++d) {
      if (static_cast<int64_t>(out.tokens.size()) < n_) out.document_starts.push_back(static_cast<int32_t>(out.tokens.size()));
      std::string text;
      for (uint64_t w = 0; w < 3 + rng::bits(static_cast<uint64_t>(index), d) % 9; ++w) text += w % 2 ? "the fox \xC3\xA9" : "jumps over\n";
      t_->encode_append(text, {}, out.tokens);
      out.tokens.push_back(t_->id_of("<|endoftext|>"));
    }
    out.tokens.resize(static_cast<size_t>(n_ + 1));
    out.loss_weights.assign(static_cast<size_t>(n_), 1);
  }

 private:
  std::shared_ptr<const text::Tokenizer> t_;
  int64_t n_;
};

TEST(Fim, SameSampleInAnyOrderLengthKeptAndTextPreserved) {
  const auto t = tokenizer();
  const auto base = std::make_shared<Documents>(t, 600);
  FimConfig c;
  c.rate = 1;
  const FimDataset set(base, t, c), same(base, t, c);
  const int32_t pre = t->id_of("<fim_prefix>"), mid = t->id_of("<fim_middle>"), suf = t->id_of("<fim_suffix>"), eod = t->id_of("<|endoftext|>");
  int64_t psm = 0, spm = 0;
  for (int64_t i = 39; i >= 0; --i) {
    const Sample s = set.at(i), before = base->at(i);
    ASSERT_EQ(s.tokens.size(), before.tokens.size());
    EXPECT_EQ(same.at(i).tokens, s.tokens);
    // Undo the first documents: their texts come back.
    auto from = s.tokens.begin(), was = before.tokens.begin();
    for (int d = 0; d < 3; ++d) {
      const auto to = std::find(from, s.tokens.end(), eod), old = std::find(was, before.tokens.end(), eod);
      ASSERT_NE(to, s.tokens.end());
      ASSERT_EQ(*from, pre);
      const auto s_at = std::find(from, to, suf), m_at = std::find(from, to, mid);
      const auto text = [&](auto a, auto b) { return t->decode(std::vector<int32_t>(a, b)); };
      const bool suffix_first = s_at == from + 1;
      ++(suffix_first ? spm : psm);
      // PSM: prefix, suffix, middle. SPM: suffix, then prefix and middle in one.
      const std::string got = suffix_first ? text(m_at + 1, to) + text(s_at + 1, m_at) : text(from + 1, s_at) + text(m_at + 1, to) + text(s_at + 1, m_at);
      EXPECT_EQ(got, text(was, old));
      from = to + 1, was = old + 1;
    }
    EXPECT_EQ(s.document_starts[0], 0);
    for (size_t d = 1; d < s.document_starts.size(); ++d) EXPECT_EQ(s.tokens[static_cast<size_t>(s.document_starts[d]) - 1], eod);
  }
  EXPECT_GT(psm, 30);
  EXPECT_GT(spm, 30);
  c.rate = 0;
  EXPECT_EQ(FimDataset(base, t, c).at(7).tokens, base->at(7).tokens);
  c.middle = "<nothing>";
  EXPECT_THROW(FimDataset(base, t, c), ConfigError);
}

TEST(Mock, SaysSoAndIsAFunctionOfTheIndex) {
  MockConfig c;
  c.vocab_size = 97, c.seq_len = 5000, c.size = 10;
  const MockDataset set(c);
  EXPECT_TRUE(set.describe().starts_with("mock data"));
  EXPECT_EQ(set.at(3).tokens, MockDataset(c).at(3).tokens);
  EXPECT_NE(set.at(3).tokens, set.at(4).tokens);
  for (int32_t id : set.at(5).tokens) EXPECT_TRUE(id >= 0 && id < 97);
  EXPECT_THROW(set.at(10), InputError);
}

}  // namespace
}  // namespace weft::data
