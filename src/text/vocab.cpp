#include "text/vocab.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace weft::text {

size_t Vocab::slot_of(std::string_view token) const {
  const size_t mask = table_.size() - 1;
  size_t slot = XXH3_64bits(token.data(), token.size()) & mask;
  while (table_[slot] >= 0 && this->token(table_[slot]) != token) slot = (slot + 1) & mask;
  return slot;
}

void Vocab::grow() {
  std::vector<int32_t> old = std::move(table_);
  table_.assign(old.empty() ? 1024 : old.size() * 2, -1);
  for (const int32_t id : old) {
    if (id >= 0) table_[slot_of(token(id))] = id;
  }
}

bool Vocab::add_hidden(std::string_view token, int32_t id) {
  if (id < 0 || has(id)) return false;
  const size_t i = static_cast<size_t>(id);
  if (i >= spans_.size()) spans_.resize(i + 1);
  spans_[i] = {bytes_.size(), static_cast<uint32_t>(token.size()), true};
  bytes_ += token;
  longest_ = std::max(longest_, token.size());
  ++count_;
  return true;
}

bool Vocab::add(std::string_view token, int32_t id) {
  if (table_.size() < 2 * (filled_ + 1)) grow();
  const size_t slot = slot_of(token);
  if (table_[slot] >= 0 || !add_hidden(token, id)) return false;
  table_[slot] = id;
  ++filled_;
  return true;
}

bool Vocab::add_over(std::string_view token, int32_t id) {
  if (add(token, id)) return true;
  if (!add_hidden(token, id)) return false;
  table_[slot_of(token)] = id;
  return true;
}

int32_t Vocab::id_of(std::string_view token) const { return table_.empty() ? -1 : table_[slot_of(token)]; }

}  // namespace weft::text
