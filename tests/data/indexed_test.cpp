#include "data/indexed.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "folder.h"

namespace weft::data {
namespace {

using Documents = std::vector<std::vector<int32_t>>;

void write_set(const std::string& prefix, TokenType type, const Documents& documents) {
  IndexedWriter writer(prefix, type);
  for (const auto& d : documents) writer.add_document(d);
  writer.finish();
}

Documents some_documents(int n) {
  Documents out;
  uint32_t x = 7;
  for (int i = 0; i < n; ++i) {
    out.emplace_back();
    for (int k = 0; k < 1 + (i * 7) % 13; ++k) out.back().push_back(static_cast<int32_t>((x = x * 1664525u + 1013904223u) >> 20));
  }
  return out;
}

TEST(Indexed, BytesOfAKnownFile) {
  Folder folder;
  write_set(folder / "a", TokenType::kU16, {{1, 2, 3}, {258}});
  EXPECT_EQ(slurp(folder / "a.bin"), std::string("\1\0\2\0\3\0\2\1", 8));
  std::string want("MMIDIDX\0\0", 9);
  want += std::string("\1\0\0\0\0\0\0\0\10", 9) + std::string("\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0", 16);
  want += std::string("\3\0\0\0\1\0\0\0", 8) + std::string("\0\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0", 16);
  want += std::string("\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 24);
  EXPECT_EQ(slurp(folder / "a.idx"), want);
  EXPECT_FALSE(std::filesystem::exists(folder / "a.lengths.part"));
}

TEST(Indexed, RoundTripInEveryIntegerType) {
  Folder folder;
  const Documents documents{{5, 6, 7}, {1}, {100, 101}};
  for (TokenType t : {TokenType::kU8, TokenType::kI8, TokenType::kI16, TokenType::kU16, TokenType::kI32, TokenType::kI64}) {
    const std::string prefix = folder / name_of(t);
    write_set(prefix, t, documents);
    const IndexedTokens set = IndexedTokens::open(prefix);
    ASSERT_EQ(set.type(), t);
    ASSERT_EQ(set.sequences(), 3);
    ASSERT_EQ(set.documents(), 3);
    EXPECT_EQ(set.tokens(), 6);
    EXPECT_EQ(set.max_token(), 101);
    for (int64_t i = 0; i < 3; ++i) {
      std::vector<int32_t> got(static_cast<size_t>(set.length(i)));
      set.read(i, 0, set.length(i), got.data());
      EXPECT_EQ(got, documents[static_cast<size_t>(i)]) << name_of(t);
    }
    int32_t part = 0;
    set.read(0, 2, 1, &part);
    EXPECT_EQ(part, 7);
    EXPECT_EQ(set.sequence_at(0), 0);
    EXPECT_EQ(set.sequence_at(3), 1);
    EXPECT_EQ(set.sequence_at(5), 2);
    EXPECT_THROW(set.read(0, 2, 2, &part), InputError);
    EXPECT_THROW(set.read(3, 0, 1, &part), InputError);
  }
}

TEST(Indexed, MergeShiftsDocuments) {
  Folder folder;
  const Documents a = some_documents(5), b = some_documents(9);
  Documents both = a;
  both.insert(both.end(), b.begin(), b.end());
  write_set(folder / "a", TokenType::kI32, a);
  write_set(folder / "b", TokenType::kI32, b);
  write_set(folder / "both", TokenType::kI32, both);
  IndexedWriter merged(folder / "m", TokenType::kI32);
  merged.append(IndexedTokens::open(folder / "a"));
  merged.append(IndexedTokens::open(folder / "b"));
  merged.finish();
  EXPECT_EQ(slurp(folder / "m.bin"), slurp(folder / "both.bin"));
  EXPECT_EQ(slurp(folder / "m.idx"), slurp(folder / "both.idx"));
  write_set(folder / "short", TokenType::kU16, {{1, 2}});
  IndexedWriter mixed(folder / "x", TokenType::kI32);
  EXPECT_NE(error_of<InputError>([&] { mixed.append(IndexedTokens::open(folder / "short")); }).find("mixed token types"), std::string::npos);
}

TEST(Indexed, PointersBeyond32Bits) {  // more than 2^32 bytes of tokens, in a file with a hole
  Folder folder;
  const int64_t half = int64_t{1} << 30;
  std::string idx("MMIDIDX\0\0", 9);
  const auto put = [&](auto value) { idx.append(reinterpret_cast<const char*>(&value), sizeof value); };
  put(uint64_t{1}), put(uint8_t{4}), put(uint64_t{3}), put(uint64_t{2});
  for (int i = 0; i < 3; ++i) put(static_cast<int32_t>(half));
  for (int i = 0; i < 3; ++i) put(i * half * 4);
  put(int64_t{0}), put(int64_t{3});
  folder.write("big.idx", idx);
  folder.write("big.bin", "");
  std::filesystem::resize_file(folder / "big.bin", static_cast<uintmax_t>(3 * half * 4));
  const IndexedTokens set = IndexedTokens::open(folder / "big");
  EXPECT_EQ(set.tokens(), 3 * half);
  EXPECT_EQ(set.sequence_at(2 * half + 5), 2);
  int32_t token = 1;
  set.read(2, half - 1, 1, &token);
  EXPECT_EQ(token, 0);
}

TEST(Indexed, EveryRuleIsNamed) {
  Folder folder;
  write_set(folder / "good", TokenType::kU16, {{1, 2, 3}, {4}, {5, 6}});
  const std::string idx = slurp(folder / "good.idx"), bin = slurp(folder / "good.bin");
  const auto refused = [&](std::string i, std::string b) {
    folder.write("bad.idx", i);
    folder.write("bad.bin", b);
    return error_of<InputError>([&] { IndexedTokens::open(folder / "bad"); });
  };
  const auto with = [&](size_t at, char value) {
    std::string s = idx;
    s[at] = value;
    return s;
  };
  const size_t pointers = 34 + 4 * 3, documents = 34 + 12 * 3;
  const std::vector<std::tuple<const char*, std::string, std::string>> cases = {
      {"header-size", idx.substr(0, 33), bin},
      {"magic", with(0, 'X'), bin},
      {"version", with(9, 2), bin},
      {"token-type", with(17, 9), bin},
      {"token-type", with(17, 0), bin},
      {"sequence-count", with(25, 1), bin},
      {"document-count", with(33, 1), bin},
      {"index-size", with(18, 4), bin},
      {"index-size", idx.substr(0, idx.size() - 1), bin},
      {"index-size", idx + "x", bin},
      {"bin-size", idx, bin.substr(0, bin.size() - 1)},
      {"bin-end", idx, bin.substr(0, bin.size() - 2)},
      {"bin-end", idx, bin + "xx"},
      {"length", with(34, 0), bin},
      {"length", with(37, -1), bin},
      {"pointer", with(34, 4), bin},
      {"pointer", with(pointers + 8, 2), bin},
      {"first-document", with(documents, 1), bin},
      {"last-document", with(documents + 24, 2), bin},
      {"document-order", with(documents + 8, 3), bin},
  };
  for (const auto& [rule, i, b] : cases) {
    const std::string text = refused(i, b);
    EXPECT_NE(text.find(std::string("rule ") + rule + " broken"), std::string::npos) << rule << ": " << text;
  }
  EXPECT_NE(error_of<InputError>([&] { IndexedTokens::open(folder / "absent"); }).find("absent.idx"), std::string::npos);
}

TEST(Indexed, StampRemembersACheckUntilTheFileChanges) {
  Folder folder;
  write_set(folder / "s", TokenType::kU16, {{1, 2, 3}, {4}, {5, 6}});
  IndexedTokens::open(folder / "s", IndexCheck::kStamped);
  EXPECT_TRUE(std::filesystem::exists(folder / "s.idx.checked"));
  IndexedTokens::open(folder / "s", IndexCheck::kStamped);
  std::string idx = slurp(folder / "s.idx");
  idx[34] = 1, idx[38] = 3;  // the sums stay, the pointers do not fit
  folder.write("s.idx", idx);
  EXPECT_THROW(IndexedTokens::open(folder / "s", IndexCheck::kStamped), InputError);
}

TEST(Indexed, WriterRefusesWhatDoesNotFit) {
  Folder folder;
  IndexedWriter writer(folder / "w", TokenType::kU16);
  EXPECT_NE(error_of<InputError>([&] { writer.add_document(std::vector<int32_t>{1, 70000}); }).find("ids 1 to 70000"), std::string::npos);
  EXPECT_THROW(writer.add_document(std::vector<int32_t>{}), InputError);
  IndexedWriter bytes(folder / "b", TokenType::kU8);
  EXPECT_THROW(bytes.add_document(std::vector<int32_t>{-1}), InputError);
  EXPECT_FALSE(std::filesystem::exists(folder / "w.idx"));
}

TEST(Indexed, ContinuesFromAMark) {
  Folder folder;
  const Documents documents = some_documents(20);
  write_set(folder / "whole", TokenType::kI32, documents);
  IndexedWriter::Mark mark;
  {
    IndexedWriter writer(folder / "cut", TokenType::kI32);
    for (int i = 0; i < 9; ++i) writer.add_document(documents[static_cast<size_t>(i)]);
    mark = writer.sync();
    writer.add_document(documents[3]);  // lost: it came after the mark
    writer.sync();
  }
  IndexedWriter writer(folder / "cut", TokenType::kI32, mark);
  for (size_t i = 9; i < 20; ++i) writer.add_document(documents[i]);
  writer.finish();
  EXPECT_EQ(slurp(folder / "cut.bin"), slurp(folder / "whole.bin"));
  EXPECT_EQ(slurp(folder / "cut.idx"), slurp(folder / "whole.idx"));
}

TEST(Indexed, DiskFullIsAnIoError) {
  Folder folder;
  std::filesystem::create_symlink("/dev/full", folder / "f.bin.part");
  IndexedWriter writer(folder / "f", TokenType::kI32);
  const std::string text = error_of<IoError>([&] {
    for (int i = 0; i < 1000; ++i) writer.add_document(std::vector<int32_t>(1000, i));
    writer.finish();
  });
  EXPECT_NE(text.find("No space left on device"), std::string::npos) << text;
  EXPECT_FALSE(std::filesystem::exists(folder / "f.idx"));
}

}  // namespace
}  // namespace weft::data
