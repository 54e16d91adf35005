// What the parser found, file by file on the disk: memory does not grow with the texts, and a stopped run goes on.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "base/files.h"
#include "data/part_file.h"
#include "data/structure/cpp_source.h"

namespace weft::data {

std::string packed(const CppSource&);
// InputError when it is damaged. `names`: where in the record each piece's name begins; its text stands 4 bytes behind the name.
CppSource unpacked(std::string_view record, std::vector<uint32_t>* names = nullptr);

class Spool {  // records behind each other, each with its length in front
 public:
  static void append(PartFile& to, std::string_view record);
  explicit Spool(const std::string& path) : file_(std::make_unique<const MappedFile>(path)) {}
  // Calls use(record's number, CppSource) for each, in order.
  template <class F>
  void for_each(F&& use) const {
    int64_t at = 0;
    for (int64_t i = 0; at < static_cast<int64_t>(file_->text().size()); ++i) use(i, next(at));
  }
  std::string_view record(int64_t& at) const;  // at the offset; moves it on
  CppSource next(int64_t& at) const { return unpacked(record(at)); }
  std::string_view bytes(int64_t at, int64_t count) const { return file_->text().substr(static_cast<size_t>(at), static_cast<size_t>(count)); }
  int64_t bytes() const { return static_cast<int64_t>(file_->text().size()); }

 private:
  std::unique_ptr<const MappedFile> file_;
};

}  // namespace weft::data
