#include "text/normalize.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace weft::text {
namespace {

// Builds the changes of one piece.
class Edit {
 public:
  explicit Edit(std::vector<Change>& out) : out_(out) {}
  void keep(uint32_t code) { out_.push_back({code, 0}); }  // stands for the next old character
  void add(uint32_t code) { out_.push_back({code, 1}); }
  void drop(size_t characters = 1) { out_.push_back({kDropped, static_cast<int32_t>(characters)}); }

 private:
  std::vector<Change>& out_;
};

template <class F>
void each(std::string_view text, F f) {
  for (size_t at = 0; at < text.size();) {
    const Decoded d = decode_utf8(text, at);
    at += d.length;
    f(d.code);
  }
}

bool is_chinese(uint32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

bool nmt_drops(uint32_t c) {
  return (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
}
bool nmt_space(uint32_t c) {
  return c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 ||
         c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
}

// Runs one step over every open piece: fill(text, edit) returns false to keep the piece as it is.
template <class Fill>
void step(Pieces& text, NormalizeScratch& s, Fill fill) {
  Pieces& out = s.spare;
  out.clear();
  out.tracked = text.tracked;
  out.base = text.base;
  for (const Piece& p : text.pieces) {
    s.changes.clear();
    Edit edit(s.changes);
    if (p.token < 0 && fill(text.view(p), edit)) out.add_changed(text, p, s.changes);
    else out.add_copy(text, p);
  }
  std::swap(text, out);
}

void lower(Pieces& text, NormalizeScratch& s) {
  step(text, s, [](std::string_view view, Edit& edit) {
    each(view, [&](uint32_t c) {
      uint32_t second = 0;
      edit.keep(lower_case(c, second));
      if (second != 0) edit.add(second);
    });
    return true;
  });
}

void form(Pieces& text, NormalizeScratch& s, Form f) {
  step(text, s, [&](std::string_view view, Edit&) {
    if (surely_in_form(view, f)) return false;
    to_form(view, f, s.changes);
    return true;
  });
}

template <class Test>
void remove_where(Pieces& text, NormalizeScratch& s, Test test) {
  step(text, s, [&](std::string_view view, Edit& edit) {
    each(view, [&](uint32_t c) { test(c) ? edit.drop() : edit.keep(c); });
    return true;
  });
}

void bert(const Normalizer& rule, Pieces& text, NormalizeScratch& s) {
  if (rule.clean_text) {
    step(text, s, [](std::string_view view, Edit& edit) {
      each(view, [&](uint32_t c) {
        const bool space = is_space(c) || c == '\t' || c == '\n' || c == '\r';
        if (c == 0 || c == kReplacement || (has(Property::kBertControl, c) && c != '\t' && c != '\n' && c != '\r')) edit.drop();
        else edit.keep(space ? ' ' : c);
      });
      return true;
    });
  }
  if (rule.chinese) {
    step(text, s, [](std::string_view view, Edit& edit) {
      each(view, [&](uint32_t c) {
        if (is_chinese(c)) edit.keep(' '), edit.add(c), edit.add(' ');
        else edit.keep(c);
      });
      return true;
    });
  }
  if (rule.strip_accents) {
    form(text, s, Form::kNfd);
    remove_where(text, s, [](uint32_t c) { return has(Property::kBertMark, c); });
  }
  if (rule.lowercase) lower(text, s);
}

void strip(const Normalizer& rule, Pieces& text, NormalizeScratch& s) {
  step(text, s, [&](std::string_view view, Edit& edit) {
    size_t begin = 0, end = view.size();
    if (rule.left) {
      while (begin < end) {
        const Decoded d = decode_utf8(view, begin);
        if (!is_space(d.code)) break;
        begin += d.length;
        edit.drop();
      }
    }
    size_t last = begin;  // behind the last character that stays
    for (size_t at = begin; rule.right && at < end;) {
      const Decoded d = decode_utf8(view, at);
      at += d.length;
      if (!is_space(d.code)) last = at;
    }
    if (rule.right) end = last;
    each(view.substr(begin, end - begin), [&](uint32_t c) { edit.keep(c); });
    return true;
  });
}

// As upstream: a rule for the shortest key at the start of a short grapheme replaces all of it, else characters one by one.
void precompiled(const Normalizer& rule, Pieces& text, NormalizeScratch& s) {
  step(text, s, [&](std::string_view view, Edit&) {
    bool modified = false;
    const auto replace = [&](std::string_view old, std::string_view fresh) {
      const std::vector<uint32_t> codes = code_points(fresh);
      const int32_t more = static_cast<int32_t>(codes.size()) - static_cast<int32_t>(code_points(old).size());
      for (const uint32_t c : codes) s.changes.push_back({c, 0});
      if (more > 0) {
        for (int32_t i = 0; i < more; ++i) s.changes[s.changes.size() - 1 - static_cast<size_t>(i)].change = 1;
      } else if (more < 0 && !s.changes.empty()) {
        s.changes.back().change += more;
      }
      modified = true;
    };
    for (size_t begin = 0; begin < view.size();) {
      const Decoded first = decode_utf8(view, begin);
      size_t end = begin + first.length;
      utf8proc_int32_t state = 0;
      for (uint32_t before = first.code; end < view.size();) {
        const Decoded d = decode_utf8(view, end);
        if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(before), static_cast<utf8proc_int32_t>(d.code), &state)) break;
        before = d.code;
        end += d.length;
      }
      const std::string_view cluster = view.substr(begin, end - begin);
      begin = end;
      size_t length = 0;
      std::string_view fresh;
      if (cluster.size() < 6 && rule.map->find(cluster, false, length, fresh)) {
        replace(cluster, fresh);
        continue;
      }
      for (size_t at = 0; at < cluster.size();) {
        const Decoded d = decode_utf8(cluster, at);
        const std::string_view part = cluster.substr(at, d.length);
        if (rule.map->find(part, false, length, fresh)) replace(part, fresh);
        else s.changes.push_back({d.code, 0});
        at += d.length;
      }
    }
    return modified;
  });
}

// SentencePiece: rules by the longest key, then white space.
void sentence_piece(const Normalizer& rule, Pieces& text, NormalizeScratch& s) {
  step(text, s, [&](std::string_view view, Edit& edit) {
    const uint32_t space = rule.escape_spaces ? 0x2581 : ' ';
    std::vector<Change>& out = s.changes;
    // The normalized start of the text from `at` on and how many bytes it stands for.
    const auto prefix = [&](size_t at, size_t& length) {
      int32_t which = 0;
      std::string_view fresh;
      if (rule.user_symbols != nullptr && rule.user_symbols->match_at(view, at, length, which)) return view.substr(at, length);
      if (rule.map != nullptr && rule.map->find(view.substr(at), true, length, fresh)) return fresh;
      length = decode_utf8(view, at).length;
      return view.substr(at, length);
    };
    const auto drop = [&](std::string_view old) { edit.drop(code_points(old).size()); };
    size_t at = 0, length = 0;
    while (rule.remove_extra_spaces && at < view.size() && prefix(at, length) == " ") {
      drop(view.substr(at, length));
      at += length;
    }
    if (at == view.size()) return true;
    bool after_space = rule.remove_extra_spaces;
    if (rule.add_dummy_prefix && !rule.space_as_suffix) out.push_back({space, 1});
    while (at < view.size()) {
      std::string_view fresh = prefix(at, length);
      while (after_space && fresh.starts_with(' ')) fresh.remove_prefix(1);
      const std::string_view old = view.substr(at, length);
      at += length;
      if (fresh.empty()) {
        drop(old);
      } else {
        int32_t change = 1 - static_cast<int32_t>(code_points(old).size());  // the first stands for all the old ones
        each(fresh, [&](uint32_t c) { out.push_back({c == ' ' ? space : c, change}), change = 1; });
        after_space = fresh.ends_with(' ');
      }
      after_space = after_space && rule.remove_extra_spaces;
    }
    while (rule.remove_extra_spaces && !out.empty() && (out.back().code == space || out.back().code == kDropped)) out.pop_back();
    if (rule.add_dummy_prefix && rule.space_as_suffix) out.push_back({space, 1});
    return true;
  });
}

void replace(const Normalizer& rule, std::optional<Matcher>& matcher, Pieces& text, NormalizeScratch& s) {
  const std::vector<uint32_t> content = code_points(rule.content);
  step(text, s, [&](std::string_view view, Edit& edit) {
    size_t done = 0, begin = 0, end = 0;
    bool any = false;
    const auto swap_in = [&] {
      any = true;
      each(view.substr(done, begin - done), [&](uint32_t c) { edit.keep(c); });
      each(view.substr(begin, end - begin), [&](uint32_t) { edit.drop(); });
      for (const uint32_t c : content) edit.add(c);
      done = end;
    };
    if (rule.regex == nullptr) {
      if (rule.text.empty()) return false;
      for (size_t hit = 0; (hit = view.find(rule.text, done)) != std::string_view::npos;) {
        begin = hit, end = hit + rule.text.size();
        swap_in();
      }
    } else {
      matcher->start(view);
      while (matcher->next(begin, end)) swap_in();
    }
    if (!any) return false;
    each(view.substr(done), [&](uint32_t c) { edit.keep(c); });
    return true;
  });
}

}  // namespace

void normalize(const std::vector<Normalizer>& rules, Pieces& text, NormalizeScratch& s) {
  s.matchers.resize(rules.size());
  for (size_t i = 0; i < rules.size(); ++i) {
    const Normalizer& rule = rules[i];
    if (rule.regex != nullptr && !s.matchers[i]) s.matchers[i].emplace(*rule.regex);
    switch (rule.kind) {
      case Normalizer::kForm: form(text, s, rule.form); break;
      case Normalizer::kBert: bert(rule, text, s); break;
      case Normalizer::kStrip: strip(rule, text, s); break;
      case Normalizer::kStripAccents: remove_where(text, s, [](uint32_t c) { return has(Property::kStripMark, c); }); break;
      case Normalizer::kLowercase: lower(text, s); break;
      case Normalizer::kNmt:
        step(text, s, [](std::string_view view, Edit& edit) {
          each(view, [&](uint32_t c) { nmt_drops(c) ? edit.drop() : edit.keep(nmt_space(c) ? ' ' : c); });
          return true;
        });
        break;
      case Normalizer::kPrecompiled: precompiled(rule, text, s); break;
      case Normalizer::kReplace: replace(rule, s.matchers[i], text, s); break;
      case Normalizer::kPrepend:
        step(text, s, [&](std::string_view view, Edit& edit) {
          if (view.empty() || rule.text.empty()) return false;
          bool first = true;
          each(rule.text, [&](uint32_t c) { first ? edit.keep(c) : edit.add(c), first = false; });
          first = true;
          each(view, [&](uint32_t c) { first ? edit.add(c) : edit.keep(c), first = false; });
          return true;
        });
        break;
      case Normalizer::kByteLevel:
        step(text, s, [](std::string_view view, Edit& edit) {
          for (size_t at = 0; at < view.size();) {
            const uint32_t n = decode_utf8(view, at).length;
            for (uint32_t k = 0; k < n; ++k) {
              const uint32_t c = byte_to_char(static_cast<uint8_t>(view[at + k]));
              k > 0 ? edit.add(c) : edit.keep(c);
            }
            at += n;
          }
          return true;
        });
        break;
      case Normalizer::kSentencePiece: sentence_piece(rule, text, s); break;
    }
  }
}

bool surely_normal(const std::vector<Normalizer>& rules, std::string_view text) {
  for (const Normalizer& rule : rules) {
    if (rule.kind == Normalizer::kForm && surely_in_form(text, rule.form)) continue;
    return false;
  }
  return true;
}

}  // namespace weft::text
