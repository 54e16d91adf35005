// Lines of JSONL files by number: their offsets are found once and kept beside each file as FILE.rows.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace weft::data {

class Rows {
 public:
  // Plain .jsonl files; InputError for packed ones (they have no random access) and when no line is left. A side file that does
  // not fit the file's size and time is made again; one that cannot be written is done without.
  explicit Rows(const std::vector<std::string>& files);
  int64_t size() const { return starts_.back(); }
  std::string_view line(int64_t row) const;   // without its line end
  std::string where(int64_t row) const;       // "'FILE' row N", for messages; N counts from 1 without blank lines
  const std::string& identity() const { return identity_; }  // hash of names, sizes and times

 private:
  struct File {
    std::string path;
    std::shared_ptr<const MappedFile> text, side;  // side: null when the offsets are in `own`
    std::vector<uint64_t> own;
    const uint64_t* offsets = nullptr;
  };
  size_t file_of(int64_t row) const;
  std::vector<File> files_;
  std::vector<int64_t> starts_;  // first row of each file, and the end
  std::string identity_;
};

}  // namespace weft::data
