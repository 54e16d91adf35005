#include "text/pretokenize.h"

#include <algorithm>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace weft::text {
namespace {

struct Cut {
  size_t begin, end;
  bool match;
};

// Collects matches of one piece as upstream's `find_matches` does: ordered, covering the whole piece.
class Cuts {
 public:
  std::vector<Cut> all;
  void match(size_t begin, size_t end) {
    if (at_ != begin) all.push_back({at_, begin, false});
    all.push_back({begin, end, true});
    at_ = end;
  }
  void finish(size_t size) {
    if (at_ != size) all.push_back({at_, size, false});
  }

 private:
  size_t at_ = 0;
};

// Puts the pieces that a behaviour makes of the cuts behind `out`. `base` is where the piece starts.
void apply(SplitBehavior behavior, bool invert, std::vector<Cut>& cuts, size_t base, std::vector<Piece>& out) {
  if (invert) {
    for (Cut& c : cuts) c.match = !c.match;
  }
  const auto put = [&](size_t begin, size_t end) {
    if (begin < end) out.push_back({base + begin, base + end, -1});
  };
  switch (behavior) {
    case SplitBehavior::kIsolated:
      for (const Cut& c : cuts) put(c.begin, c.end);
      return;
    case SplitBehavior::kRemoved:
      for (const Cut& c : cuts) {
        if (!c.match) put(c.begin, c.end);
      }
      return;
    default: break;
  }
  std::vector<Cut> joined;
  bool before = false;
  const auto walk = [&](const Cut& c, bool backwards) {
    const bool join = behavior == SplitBehavior::kContiguous ? c.match == before : c.match && !before;
    if (join && !joined.empty()) {
      if (backwards) joined.back().begin = c.begin;
      else joined.back().end = c.end;
    } else {
      joined.push_back(c);
    }
    before = c.match;
  };
  if (behavior == SplitBehavior::kMergedWithNext) {
    for (auto c = cuts.rbegin(); c != cuts.rend(); ++c) walk(*c, true);
    std::reverse(joined.begin(), joined.end());
  } else {
    for (const Cut& c : cuts) walk(c, false);
  }
  for (const Cut& c : joined) put(c.begin, c.end);
}

template <class Test>
void cut_where(std::string_view text, Cuts& cuts, Test test) {
  for (size_t at = 0; at < text.size();) {
    const Decoded d = decode_utf8(text, at);
    if (test(d.code)) cuts.match(at, at + d.length);
    at += d.length;
  }
  cuts.finish(text.size());
}

void cut_by_regex(std::string_view text, Matcher& matcher, Cuts& cuts) {
  matcher.start(text);
  size_t begin = 0, end = 0;
  while (matcher.next(begin, end)) cuts.match(begin, end);
  cuts.finish(text.size());
}

// \w+|[^\w\s]+
void cut_words(std::string_view text, Cuts& cuts) {
  const auto kind = [](uint32_t c) { return has(Property::kRegexWord, c) ? 1 : is_space(c) ? 0 : 2; };
  size_t at = 0;
  while (at < text.size()) {
    const Decoded first = decode_utf8(text, at);
    const int k = kind(first.code);
    size_t end = at + first.length;
    while (k != 0 && end < text.size()) {
      const Decoded d = decode_utf8(text, end);
      if (kind(d.code) != k) break;
      end += d.length;
    }
    if (k != 0) cuts.match(at, end);
    at = end;
  }
  cuts.finish(text.size());
}

// A run of one script is a piece. What stands before the first script is lost, as upstream loses it.
void cut_scripts(std::string_view text, size_t base, std::vector<Piece>& out) {
  bool begun = false;
  uint32_t last = 0;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const Decoded d = decode_utf8(text, at);
    const uint32_t script = joined_script_of(d.code);
    if (script != 0 && (!begun || script != last)) {
      if (begun) out.push_back({base + start, base + at, -1});
      start = at;
      begun = true;
    }
    if (script != 0) last = script;
    at += d.length;
  }
  if (begun && start < text.size()) out.push_back({base + start, base + text.size(), -1});
}

// Rewrites every open piece into `out` with what `change` fills in; false from it copies the piece.
template <class Fill>
void rewrite(Pieces& text, PreTokenizeScratch& s, Fill fill) {
  Pieces& out = s.spare;
  out.clear();
  out.tracked = text.tracked;
  out.base = text.base;
  for (const Piece& p : text.pieces) {
    s.changes.clear();
    if (p.token < 0 && fill(p, s.changes)) out.add_changed(text, p, s.changes);
    else out.add_copy(text, p);
  }
  std::swap(text, out);
}

void prepend(std::string_view text, uint32_t code, std::vector<Change>& changes) {
  bool first = true;
  for (size_t at = 0; at < text.size();) {
    const Decoded d = decode_utf8(text, at);
    if (first) changes.push_back({code, 0});
    changes.push_back({d.code, first ? 1 : 0});
    first = false;
    at += d.length;
  }
}

bool starts_with(std::string_view text, uint32_t code) { return !text.empty() && decode_utf8(text, 0).code == code; }

void metaspace(const PreTokenizer& rule, Pieces& text, PreTokenizeScratch& s) {
  rewrite(text, s, [&](const Piece& p, std::vector<Change>& changes) {
    const std::string_view view = text.view(p);
    const size_t origin = text.tracked ? (p.begin < p.end ? text.origin[p.begin].begin : 1) : text.base + p.begin;
    const bool wanted = rule.prepend == PreTokenizer::kAlways || (rule.prepend == PreTokenizer::kFirst && origin == 0);
    const bool there = starts_with(view, rule.character) || starts_with(view, ' ');
    bool first = wanted && !there;
    if (!first && view.find(' ') == std::string_view::npos) return false;
    for (size_t at = 0; at < view.size();) {
      const Decoded d = decode_utf8(view, at);
      if (first) changes.push_back({rule.character, 0});
      changes.push_back({d.code == ' ' ? rule.character : d.code, first ? 1 : 0});
      first = false;
      at += d.length;
    }
    return true;
  });
}

void byte_alphabet(Pieces& text, PreTokenizeScratch& s) {
  rewrite(text, s, [&](const Piece& p, std::vector<Change>& changes) {
    const std::string_view view = text.view(p);
    for (size_t at = 0; at < view.size();) {
      const uint32_t n = decode_utf8(view, at).length;
      for (uint32_t i = 0; i < n; ++i) changes.push_back({byte_to_char(static_cast<uint8_t>(view[at + i])), i > 0 ? 1 : 0});
      at += n;
    }
    return true;
  });
}

void cut_pieces(const PreTokenizer& rule, std::optional<Matcher>& matcher, Pieces& text) {
  std::vector<Piece> out;
  for (const Piece& p : text.pieces) {
    if (p.token >= 0) {
      out.push_back(p);
      continue;
    }
    const std::string_view view = text.view(p);
    Cuts cuts;
    switch (rule.kind) {
      case PreTokenizer::kSplit:
      case PreTokenizer::kByteLevel: cut_by_regex(view, *matcher, cuts); break;
      case PreTokenizer::kDigits: cut_where(view, cuts, [](uint32_t c) { return has(Property::kNumeric, c); }); break;
      case PreTokenizer::kPunctuation: cut_where(view, cuts, [](uint32_t c) { return has(Property::kPunctuation, c); }); break;
      case PreTokenizer::kWhitespace: cut_words(view, cuts); break;
      case PreTokenizer::kWhitespaceSplit: cut_where(view, cuts, is_space); break;
      case PreTokenizer::kDelimiter:
      case PreTokenizer::kMetaspace: cut_where(view, cuts, [&](uint32_t c) { return c == rule.character; }); break;
      case PreTokenizer::kBert:
        cut_where(view, cuts, [](uint32_t c) { return is_space(c) || has(Property::kPunctuation, c); });
        for (Cut& c : cuts.all) c.match = c.match && is_space(decode_utf8(view, c.begin).code);  // punctuation stays
        break;
      case PreTokenizer::kScripts: cut_scripts(view, p.begin, out); continue;
      case PreTokenizer::kFixedLength: {
        size_t count = 0;
        for (size_t at = 0, begin = 0; at < view.size();) {
          at += decode_utf8(view, at).length;
          if (++count % rule.length == 0 || at == view.size()) out.push_back({p.begin + begin, p.begin + at, -1}), begin = at;
        }
        continue;
      }
    }
    apply(rule.behavior, rule.invert, cuts.all, p.begin, out);
  }
  text.pieces = std::move(out);
}

}  // namespace

void pre_tokenize(const std::vector<PreTokenizer>& rules, Pieces& text, PreTokenizeScratch& s) {
  s.matchers.resize(rules.size());
  for (size_t i = 0; i < rules.size(); ++i) {
    const PreTokenizer& rule = rules[i];
    if (rule.regex != nullptr && !s.matchers[i]) s.matchers[i].emplace(*rule.regex);
    if (rule.kind == PreTokenizer::kByteLevel) {
      if (rule.add_prefix_space) {
        rewrite(text, s, [&](const Piece& p, std::vector<Change>& changes) {
          if (starts_with(text.view(p), ' ')) return false;
          prepend(text.view(p), ' ', changes);
          return true;
        });
      }
      if (rule.use_regex) cut_pieces(rule, s.matchers[i], text);
      if (!rule.raw) byte_alphabet(text, s);
    } else if (rule.kind == PreTokenizer::kMetaspace) {
      metaspace(rule, text, s);
      if (rule.split) cut_pieces(rule, s.matchers[i], text);
    } else {
      cut_pieces(rule, s.matchers[i], text);
    }
  }
}

}  // namespace weft::text
