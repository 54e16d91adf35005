#include "data/structure/function_table.h"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "data/python_text.h"

namespace weft::data {

int32_t symbol_id(const std::string& name) {
  const std::string digest = md5_hex(name);
  return static_cast<int32_t>(std::stoul(digest.substr(24), nullptr, 16) & 0x7FFFFFFFul);
}

bool held_out(const FunctionTable& t, int32_t row, HoldOut unit, int64_t every) {
  if (unit == HoldOut::kNone || every == 0) return false;
  return (unit == HoldOut::kFiles ? t.rows[static_cast<size_t>(row)].file : row) % every == every - 1;
}

FunctionTable read_functions(const Spool& spool, const std::vector<std::string>& paths, int64_t memory) {
  struct Symbol { SymbolHash hash; int32_t file, row; };
  struct Call { SymbolHash to; int32_t file, from; };
  FunctionTable t;
  std::vector<Symbol> symbols;
  std::vector<Call> calls;
  auto& n = t.counts;
  for (int64_t at = 0; at < spool.bytes();) {
    const int64_t begin = at + 8;
    std::vector<uint32_t> names;
    const CppSource s = unpacked(spool.record(at), &names);
    const auto file = static_cast<int32_t>(n.files++);
    n.not_parsed += !s.parsed, n.with_errors += s.errors > 0, n.errors += s.errors;
    n.without_functions += s.parsed && s.pieces.empty(), n.macro_functions += s.macro_functions;
    n.replaced += s.replaced, n.files_with_replacements += s.replaced > 0;
    if (!s.first_error.empty() && t.faults.size() < 5) {
      const std::string& path = paths[static_cast<size_t>(file)];
      t.faults.push_back(s.first_error.find(path) == std::string::npos ? path + ": " + s.first_error : s.first_error);
    }
    int32_t preamble = -1;
    for (size_t i = 0; i < s.pieces.size(); ++i) {
      const CppPiece& p = s.pieces[i];
      const auto row = static_cast<int32_t>(t.rows.size());
      const bool function = p.kind != CppPiece::kPreamble;
      if (!function) preamble = row;
      PieceRow& r = t.rows.emplace_back();
      r.file = file, r.preamble = function ? preamble : -1, r.name_at = begin + names[i], r.line = p.line, r.offset = p.offset, r.kind = p.kind;
      r.name_bytes = static_cast<int32_t>(p.name.size()), r.text_bytes = static_cast<int32_t>(p.text.size());
      n.functions += function;
      if (function) symbols.push_back({p.symbol, file, row});
      for (const SymbolHash& c : p.calls) calls.push_back({c, file, row});
    }
    const int64_t need = static_cast<int64_t>(t.rows.size() * (sizeof(PieceRow) + 32) + symbols.size() * sizeof(Symbol) + calls.size() * (sizeof(Call) + 8));
    if (need > memory / 2) {
      throw ConfigError(fmt::format("prepare: the functions of {} files do not fit in half of --memory\n  try: --memory {}", n.files, human_bytes(static_cast<uint64_t>(2 * memory))));
    }
  }
  const auto key = [](const Symbol& s) { return std::tie(s.hash, s.file, s.row); };
  std::sort(symbols.begin(), symbols.end(), [&](const Symbol& a, const Symbol& b) { return key(a) < key(b); });
  // Calls lie by row: the graph's lists grow in order.
  std::vector<int32_t> list;
  size_t next = 0;
  for (size_t row = 0; row < t.rows.size(); ++row) {
    list.clear();
    for (; next < calls.size() && calls[next].from == static_cast<int32_t>(row); ++next) {
      const Call& c = calls[next];
      const auto begin = std::lower_bound(symbols.begin(), symbols.end(), c.to, [](const Symbol& s, const SymbolHash& h) { return s.hash < h; });
      if (begin == symbols.end() || begin->hash != c.to) continue;
      auto best = begin;
      for (auto s = begin; s != symbols.end() && s->hash == c.to; ++s) {
        if (s->file == c.file) {
          best = s;
          break;
        }
      }
      if (best->row != c.from && std::find(list.begin(), list.end(), best->row) == list.end()) list.push_back(best->row);
    }
    t.calls.callees.insert(t.calls.callees.end(), list.begin(), list.end());
    t.calls.first.push_back(static_cast<int64_t>(t.calls.callees.size()));
  }
  n.calls = static_cast<int64_t>(t.calls.callees.size());
  const std::vector<int32_t> levels = dep_levels(t.calls);
  for (size_t row = 0; row < t.rows.size(); ++row) t.rows[row].level = levels[row];
  return t;
}

}  // namespace weft::data
