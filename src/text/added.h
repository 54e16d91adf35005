// Added tokens: strings that are found in the text before the model sees it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft::text {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;  // not inside a word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // is looked for in the normalized text, in its normalized form
  bool special = false;
};

// Finds the leftmost, then longest, of a set of strings.
class AddedMatcher {
 public:
  static constexpr size_t kMaxLength = 8192;  // bytes of one string: bounds the work at one place in the text
  // `value` is any number >= 0. Of equal strings the last counts. The string is not empty and not above kMaxLength.
  void add(std::string_view string, int32_t value);
  bool empty() const { return strings_ == 0; }
  // The next match at or after `from`; false when there is none.
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end, int32_t& value) const;
  // The longest string that stands at text[at].
  bool match_at(std::string_view text, size_t at, size_t& length, int32_t& value) const;

 private:
  struct Edge {
    uint64_t key = ~uint64_t{0};  // node * 256 + byte
    uint32_t node = 0;
  };
  uint32_t child(uint32_t node, uint8_t byte) const;  // 0 when there is none
  void insert_edge(uint64_t key, uint32_t node);
  std::vector<Edge> edges_;
  std::vector<int32_t> value_ = {-1};  // of a node; -1 is no string's end
  std::vector<uint64_t> starts_;       // a bit for each pair of first bytes
  size_t strings_ = 0;
};

}  // namespace weft::text
