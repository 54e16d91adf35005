// PREFIX.hashes: a hash of every 64 KiB of .idx and .bin, so that a flipped bit is refused when its block is first read.
//   8 bytes "WEFTHSH1" | u64 block bytes | u64 .idx bytes | u64 .bin bytes | u64 XXH3-64 of each block, .idx first
//   | u64 XXH3-64 of all that stands before. Little endian.
#pragma once
#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"

namespace weft::data {

void write_block_hashes(const std::string& prefix);  // of the files as they are now; atomic

class BlockHashes {  // calls from several threads at once are fine
 public:
  // Null when there is no side file. InputError when it is damaged or belongs to files of other sizes.
  static std::shared_ptr<const BlockHashes> open(const std::string& prefix, std::span<const std::byte> idx, std::span<const std::byte> bin);
  void check_idx() const { check(0, idx_.size(), true); }
  // Hashes the blocks of .bin that [begin, end) touches and that were not hashed before. InputError names file and block.
  void check_bin(size_t begin, size_t end) const { check(begin, end, false); }

 private:
  void check(size_t begin, size_t end, bool idx) const;
  std::string prefix_;
  std::span<const std::byte> idx_, bin_;
  std::vector<uint64_t> hashes_;
  size_t block_ = 0, idx_blocks_ = 0;
  mutable std::vector<std::atomic<uint8_t>> checked_;
};

}  // namespace weft::data
