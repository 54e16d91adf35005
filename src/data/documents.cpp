#include "data/documents.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "data/json_line.h"
#include "data/utf8.h"

namespace weft::data {

int64_t for_each_line(const Corpus& corpus, const DocumentRules& rules, const Block& block, const std::function<void(const Line&)>& use) {
  const std::string& path = corpus.files[static_cast<size_t>(block.file)].path;
  int64_t line = block.first_line;
  for (size_t begin = 0; begin < block.bytes.size(); ++line) {
    const size_t end = std::min(block.bytes.find('\n', begin), block.bytes.size());
    std::string_view raw(block.bytes.data() + begin, end - begin);
    begin = end + 1;
    if (line == 0 && raw.starts_with("\xEF\xBB\xBF")) raw.remove_prefix(3);
    if (raw.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const bool held_out = rules.hold_out == HoldOut::kFiles ? block.file % rules.hold_out_every == rules.hold_out_every - 1
                          : rules.hold_out == HoldOut::kParts && line % rules.hold_out_every == rules.hold_out_every - 1;
    use({raw, fmt::format("prepare: '{}' line {}", path, line + 1), held_out});
  }
  return line - block.first_line;
}

int64_t for_each_text(const Corpus& corpus, const DocumentRules& rules, const Block& block, const std::function<void(Text&)>& use) {
  if (corpus.files[static_cast<size_t>(block.file)].format == Format::kText) {
    Text text{{}, block.begins, block.ends, block.held_out, 0, {}, corpus.files[static_cast<size_t>(block.file)].path};
    text.bytes.reserve(block.bytes.size());
    text.replaced = append_clean_utf8(block.bytes, text.bytes);
    use(text);
    return 0;
  }
  const bool nulls = corpus.files[static_cast<size_t>(block.file)].format == Format::kParquet;  // a column's way of being empty
  return for_each_line(corpus, rules, block, [&](const Line& line) {
    if (nulls && json_raw_member(line.raw, rules.key, line.where) == "null") {
      Text empty{{}, true, true, line.held_out, 0, line.raw, line.where};
      return use(empty);
    }
    JsonText member = json_text_member(line.raw, rules.key, line.where);
    if (!member.found) throw InputError(line.where + ": no member \"" + rules.key + "\"\ntry: --key with the name of the text's member");
    Text text{std::move(member.text), true, true, line.held_out, member.replacements, line.raw, line.where};
    use(text);
  });
}

}  // namespace weft::data
