// Token strings by id and ids by token string. Compact: one block of bytes, one table of ids.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft::text {

class Vocab {
 public:
  // Puts `token` at `id`; ids may come in any order and leave holes. False when the id or the string is taken already.
  bool add(std::string_view token, int32_t id);
  // As add, but the string is not found by id_of (two ids may then have one string).
  bool add_hidden(std::string_view token, int32_t id);
  // As add, but when the string is taken, id_of gives this id from now on. False when the id is taken.
  bool add_over(std::string_view token, int32_t id);
  int32_t id_of(std::string_view token) const;  // -1 when there is none
  bool has(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < spans_.size() && spans_[static_cast<size_t>(id)].used; }
  std::string_view token(int32_t id) const {  // empty for a hole
    if (!has(id)) return {};
    const Span& s = spans_[static_cast<size_t>(id)];
    return std::string_view(bytes_).substr(s.begin, s.length);
  }
  int32_t size() const { return static_cast<int32_t>(spans_.size()); }  // highest id + 1
  int32_t count() const { return count_; }                             // ids in use
  size_t longest() const { return longest_; }                          // bytes

 private:
  struct Span {
    uint64_t begin = 0;
    uint32_t length = 0;
    bool used = false;
  };
  size_t slot_of(std::string_view token) const;
  void grow();
  std::string bytes_;
  std::vector<Span> spans_;
  std::vector<int32_t> table_;  // open addressing, -1 is free
  size_t filled_ = 0, longest_ = 0;
  int32_t count_ = 0;
};

}  // namespace weft::text
