// What must not break prepare or grow with the corpus: long lines, NUL bytes, memory, indices of many documents.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "data/bench.h"
#include "data/indexed.h"
#include "data/prepare.h"
#include "folder.h"

namespace weft::data {
namespace {

class Bytes final : public TextEncoder {  // id = byte
 public:
  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    for (unsigned char c : text) out.push_back(c);
  }
  int64_t vocab_size() const override { return 256; }
  int32_t eod() const override { return -1; }
  std::string file() const override { return "{}"; }
};

TokenizerMaker bytes_maker() {
  TokenizerMaker maker;
  maker.identity = "bytes";
  maker.needs_text = false;
  maker.make = [](const TextFeed&) { return std::make_unique<Bytes>(); };
  maker.load = [](const std::string&) { return std::make_unique<Bytes>(); };
  return maker;
}

PrepareOptions options_for(const Folder& folder, const std::string& input, const std::string& out) {
  PrepareOptions o;
  o.inputs = {folder / input};
  o.output = folder / out;
  o.hold_out_every = 0;
  o.memory = int64_t{256} << 20;
  return o;
}

// Peak memory of a call in a process of its own, in bytes; 0 when it fails.
int64_t peak_of(const std::function<void()>& call) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      call();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  rusage used{};
  ::wait4(child, &status, 0, &used);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? used.ru_maxrss * 1024 : 0;
}

TEST(Limits, ALineOfOneGigabyteIsRefusedInLittleMemory) {
  Folder folder;
  folder.write("long.jsonl", "{\"text\":\"short\"}\n{\"text\":\"");
  std::filesystem::resize_file(folder / "long.jsonl", uintmax_t{1} << 30);  // a hole: NUL bytes without a line end
  std::string says;
  const int64_t peak = peak_of([&] {
    const std::string e = error_of<InputError>([&] { prepare(options_for(folder, "long.jsonl", "out"), bytes_maker()); });
    if (e.find("long.jsonl' line 2: the line is too long: got more than 16777216 bytes") == std::string::npos) throw InternalError("got: " + e);
  });
  EXPECT_GT(peak, 0);
  EXPECT_LT(peak, int64_t{300} << 20);
  std::printf("a line of 1 GiB: refused, peak memory %ld MiB\n", static_cast<long>(peak >> 20));
}

TEST(Limits, NulBytesAreTextAndEmptyDocumentsAreCounted) {
  Folder folder;
  folder.write("a.jsonl", "{\"text\":\"a\\u0000b\"}\n{\"text\":\"\"}\n{\"text\":\"c\"}\n");
  PrepareReport r = prepare(options_for(folder, "a.jsonl", "a"), bytes_maker());
  EXPECT_EQ(r.train.documents, 2);
  EXPECT_EQ(r.empty_documents, 1);
  std::vector<int32_t> ids(3);
  IndexedTokens::open(folder / "a/train_text_document").read(0, 0, 3, ids.data());
  EXPECT_EQ(ids, (std::vector<int32_t>{'a', 0, 'b'}));
  folder.write("b.txt", std::string_view("x\0y", 3));
  r = prepare(options_for(folder, "b.txt", "b"), bytes_maker());
  EXPECT_EQ(r.train.tokens, 3);
}

TEST(Limits, MemoryOfPrepareIsConstantInTheCorpus) {
#ifdef __SANITIZE_ADDRESS__
  constexpr int64_t quarantine = int64_t{256} << 20;  // freed memory that AddressSanitizer keeps
#else
  constexpr int64_t quarantine = 0;
#endif
  Folder folder;
  std::string line = "{\"text\":\"";
  for (int i = 0; i < 200; ++i) line += "some words ";
  line += "\"}\n";
  std::string some;
  while (some.size() < (size_t{4} << 20)) some += line;
  int64_t before = 0;
  for (int times : {2, 8, 32}) {
    std::ofstream out(folder / "corpus.jsonl", std::ios::binary);
    for (int i = 0; i < times; ++i) out.write(some.data(), static_cast<std::streamsize>(some.size()));
    out.close();
    PrepareOptions o = options_for(folder, "corpus.jsonl", "out" + std::to_string(times));
    o.workers = 2;
    const int64_t peak = peak_of([&] { prepare(o, bytes_maker()); });
    std::printf("prepare of %d MiB of JSON lines: peak memory %ld MiB\n", 4 * times, static_cast<long>(peak >> 20));
    ASSERT_GT(peak, 0);
    EXPECT_LT(peak, o.memory + quarantine);
    if (times == 32) { EXPECT_LT(static_cast<double>(peak), 1.5 * static_cast<double>(before)); }
    before = peak;
    std::filesystem::remove_all(o.output);
  }
}

TEST(Limits, ManyDocumentsOpenAtOnce) {  // data_tool scale FOLDER 1000000000 is the whole of it
  Folder folder;
  const Json r = bench_scale(folder.path(), 3'000'000);
  std::printf("%s\n", r.dump().c_str());
  EXPECT_LT(r.at("warm_open_s").get<double>(), 1);
  EXPECT_LT(r.at("warm_plan_s").get<double>(), 1);
  EXPECT_LT(r.at("cold_open_s").get<double>() + r.at("cold_plan_s").get<double>(), 30);
}

}  // namespace
}  // namespace weft::data
