// Every single bit of a data set flipped once: with the side file of hashes each flip is refused; without it the flips are
// sorted into those refused by a rule, those that change nothing a reader returns, and those that no rule can see.
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "data/indexed.h"
#include "folder.h"

namespace weft::data {
namespace {

// All that a reader can learn from a set.
std::string all_of(const std::string& prefix) {
  const IndexedTokens set = IndexedTokens::open(prefix);
  std::string out = std::string(name_of(set.type())) + " " + std::to_string(set.sequences()) + "\n";
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < set.sequences(); ++i) {
    ids.resize(static_cast<size_t>(set.length(i)));
    set.read(i, 0, set.length(i), ids.data());
    for (int32_t id : ids) out += std::to_string(id) + " ";
    out += "\n";
  }
  for (int64_t d = 0; d <= set.documents(); ++d) out += std::to_string(set.boundary(d)) + " ";
  return out;
}

struct Sweep {
  int64_t flips = 0, refused = 0, unchanged = 0, unseen = 0;
  std::map<std::string, int64_t> unseen_where;
};

Sweep sweep(const Folder& folder, const std::string& prefix, bool hashes) {
  const std::string want = all_of(prefix);
  std::vector<std::string> ends{".idx", ".bin"};
  if (hashes) ends.push_back(".hashes");
  Sweep out;
  for (const std::string& end : ends) {
    const std::string good = slurp(prefix + end);
    const size_t s = 8;  // sequences
    for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
      std::string bad = good;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
      folder.write(prefix.substr(folder.path().size() + 1) + end, bad);
      ++out.flips;
      try {
        if (all_of(prefix) == want) {
          ++out.unchanged;
        } else {
          ++out.unseen;
          const size_t at = bit / 8;
          ++out.unseen_where[end == ".bin" ? "token values" : at < 34 ? "header" : at < 34 + 4 * s ? "lengths" : at < 34 + 12 * s ? "pointers" : "document boundaries"];
        }
      } catch (const InputError&) {
        ++out.refused;
      }
    }
    folder.write(prefix.substr(folder.path().size() + 1) + end, good);
  }
  return out;
}

TEST(FlipSweep, EveryBitOfEveryFile) {
  Folder folder;
  for (TokenType type : {TokenType::kU16, TokenType::kI32}) {
    const std::string prefix = folder / name_of(type);
    IndexedWriter writer(prefix, type);
    for (int d = 0; d < 6; ++d) {
      for (int k = 0; k < 1 + (d % 3 == 0); ++k) writer.add_sequence(std::vector<int32_t>(static_cast<size_t>(1 + d % 4), 7 * d + k));
      writer.end_document();
    }
    writer.finish();
    const Sweep bare = sweep(folder, prefix, false);
    std::printf("%s without hashes: %ld flips, %ld refused, %ld change nothing, %ld unseen:", name_of(type), bare.flips, bare.refused, bare.unchanged, bare.unseen);
    for (const auto& [where, n] : bare.unseen_where) std::printf(" %s %ld", where.c_str(), n);
    std::printf("\n");
    for (const auto& [where, n] : bare.unseen_where) EXPECT_TRUE(where == "token values" || where == "document boundaries") << where << " " << n;
    write_block_hashes(prefix);
    const Sweep hashed = sweep(folder, prefix, true);
    std::printf("%s with hashes: %ld flips, %ld refused\n", name_of(type), hashed.flips, hashed.refused);
    EXPECT_EQ(hashed.refused, hashed.flips);
  }
}

TEST(BlockHashes, OnlyBlocksThatAreReadAreChecked) {
  Folder folder;
  IndexedWriter writer(folder / "a", TokenType::kI32);
  for (int d = 0; d < 100; ++d) writer.add_document(std::vector<int32_t>(5000, d));
  writer.finish();
  write_block_hashes(folder / "a");
  std::string bin = slurp(folder / "a.bin");
  bin[1000000] ^= 4;
  folder.write("a.bin", bin);
  const IndexedTokens set = IndexedTokens::open(folder / "a");
  std::vector<int32_t> ids(5000);
  set.read(0, 0, 5000, ids.data());
  set.read(99, 0, 5000, ids.data());
  EXPECT_NE(error_of<InputError>([&] { set.read(50, 0, 10, ids.data()); }).find("block 15 "), std::string::npos);
  folder.write("a.bin", bin + "xxxx");
  EXPECT_NE(error_of<InputError>([&] { IndexedTokens::open(folder / "a"); }), "");
}

}  // namespace
}  // namespace weft::data
