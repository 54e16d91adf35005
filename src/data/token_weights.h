// PREFIX.weights: how much each token of PREFIX.bin is learned, where that is not 1 for all (chat data: the assistant's turns).
//   u8 code of each token | f32 table, one entry a code | u32 entries | u64 tokens | u64 XXH3-64 of all before | "WEFTLOS1"
// A weight belongs to the token that is predicted. Exact for up to 256 different weights in one set.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "data/part_file.h"

namespace weft::data {

class TokenWeights {
 public:
  // Null when there is no such file. InputError when it is damaged (its table and size; check() looks at every byte) or has
  // another number of tokens than `tokens`.
  static std::shared_ptr<const TokenWeights> open(const std::string& prefix, int64_t tokens);
  void read(int64_t token, int64_t count, float* out) const;
  void check() const;  // InputError when the hash or a code is wrong

 private:
  std::string path_;
  std::shared_ptr<const MappedFile> map_;
  const uint8_t* codes_ = nullptr;
  int64_t tokens_ = 0;
  std::vector<float> table_;
};

class TokenWeightsWriter {
 public:
  struct Mark {
    int64_t tokens = 0;
    std::vector<float> table;
  };
  TokenWeightsWriter(const std::string& prefix, Mark from);
  void add(std::span<const float> weights);  // InputError at the 257th different weight
  Mark sync();
  void finish();
  void discard() { part_.discard(); }

 private:
  std::string prefix_;
  PartFile part_;
  std::vector<float> table_;
  std::vector<char> codes_;
};

}  // namespace weft::data
