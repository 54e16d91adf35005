#include "data/block_hashes.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "data/source.h"

namespace weft::data {
namespace {

constexpr char kMagic[8] = {'W', 'E', 'F', 'T', 'H', 'S', 'H', '1'};
constexpr size_t kBlock = 65536, kHead = 32;

size_t blocks_of(size_t bytes, size_t block) { return (bytes + block - 1) / block; }
uint64_t hash_of(std::span<const std::byte> file, size_t block, size_t i) {
  return XXH3_64bits(file.data() + i * block, std::min(block, file.size() - i * block));
}

}  // namespace

void write_block_hashes(const std::string& prefix) {
  // Read, not mapped: pages of a map would count as this process's memory.
  std::string hashes, block(kBlock, '\0');
  uint64_t sizes[2] = {0, 0};
  const auto put = [](std::string& to, uint64_t value) { to.append(reinterpret_cast<const char*>(&value), 8); };
  for (int f = 0; f < 2; ++f) {
    const auto source = open_source(prefix + (f == 0 ? ".idx" : ".bin"), Packed::kPlain);
    for (;;) {
      size_t n = 0;
      while (n < kBlock) {
        const int64_t got = source->read(block.data() + n, static_cast<int64_t>(kBlock - n));
        if (got == 0) break;
        n += static_cast<size_t>(got);
      }
      if (n == 0) break;
      put(hashes, XXH3_64bits(block.data(), n));
      sizes[f] += n;
    }
  }
  std::string out(kMagic, sizeof kMagic);
  put(out, kBlock), put(out, sizes[0]), put(out, sizes[1]);
  out += hashes;
  put(out, XXH3_64bits(out.data(), out.size()));
  write_file_atomic(prefix + ".hashes", out);
}

std::shared_ptr<const BlockHashes> BlockHashes::open(const std::string& prefix, std::span<const std::byte> idx, std::span<const std::byte> bin) {
  const std::string path = prefix + ".hashes";
  if (!std::filesystem::exists(path)) return nullptr;
  const std::string text = read_file(path);
  const auto broken = [&](const char* rule) { throw InputError("hashes '" + path + "': rule " + rule + " broken\ntry: remove the file if the data is known to be good"); };
  const auto word = [&](size_t at) {
    uint64_t value;
    std::memcpy(&value, text.data() + at, 8);
    return value;
  };
  if (text.size() < kHead + 8 || std::memcmp(text.data(), kMagic, sizeof kMagic) != 0) broken("magic");
  if (word(text.size() - 8) != XXH3_64bits(text.data(), text.size() - 8)) broken("own-hash");
  auto out = std::make_shared<BlockHashes>();
  out->prefix_ = prefix;
  out->idx_ = idx;
  out->bin_ = bin;
  out->block_ = word(8);
  if (out->block_ < 4096) broken("block-bytes");
  if (word(16) != idx.size()) broken("idx-bytes");
  if (word(24) != bin.size()) broken("bin-bytes");
  out->idx_blocks_ = blocks_of(idx.size(), out->block_);
  const size_t blocks = out->idx_blocks_ + blocks_of(bin.size(), out->block_);
  if (text.size() != kHead + 8 * blocks + 8) broken("block-count");
  out->hashes_.resize(blocks);
  std::memcpy(out->hashes_.data(), text.data() + kHead, 8 * blocks);
  out->checked_ = std::vector<std::atomic<uint8_t>>(blocks);
  return out;
}

void BlockHashes::check(size_t begin, size_t end, bool idx) const {
  if (begin >= end) return;
  const size_t first = idx ? 0 : idx_blocks_;
  for (size_t i = begin / block_; i <= (end - 1) / block_; ++i) {
    if (checked_[first + i].load(std::memory_order_relaxed)) continue;
    if (hash_of(idx ? idx_ : bin_, block_, i) != hashes_[first + i]) {
      throw InputError("data: '" + prefix_ + (idx ? ".idx" : ".bin") + "' was changed after it was written: block " + std::to_string(i) + " (bytes " + std::to_string(i * block_) +
                       " to " + std::to_string((i + 1) * block_) + ") does not have its recorded hash");
    }
    checked_[first + i].store(1, std::memory_order_relaxed);
  }
}

}  // namespace weft::data
