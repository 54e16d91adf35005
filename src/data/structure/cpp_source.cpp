#include "data/structure/cpp_source.h"

#include <xxhash.h>

#include <algorithm>
#include <exception>
#include <tuple>
#include <unordered_map>

namespace weft::data {
namespace {

using namespace clang;

struct Span {
  uint32_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};
constexpr size_t kDeepest = 1000;  // cursors below are left out: the stack of a thread is bounded
constexpr uint8_t kAmbient = 255;  // preamble or other: known when the preamble's end is

bool is_function(int kind) {
  return kind == kFunction || kind == kMethod || kind == kConstructor || kind == kDestructor || kind == kConversion || kind == kFunctionTemplate;
}
bool is_class(int kind) {
  return kind == kStruct || kind == kUnion || kind == kClass || kind == kEnum || kind == kClassTemplate || kind == kPartialSpecialization;
}
bool is_alias(int kind) { return kind == kTypedef || kind == kTypeAlias || kind == kAliasTemplate; }
bool is_head_part(int kind) { return (kind >= 27 && kind <= 29) || (kind >= 40 && kind <= 50) || (kind >= 400 && kind < 500); }
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f'; }

struct Found {  // a function with a body
  Span whole, body;
  Cursor cursor;
  Span top;  // the outermost declaration around it that is no namespace
  std::vector<SymbolHash> calls;
};

class Reader {
 public:
  Reader(const Library& lib, const std::string& text, bool behind_prefix) : lib_(lib), text_(text), local_(behind_prefix) {}
  ~Reader() {
    if (unit_ != nullptr) lib_.disposeTranslationUnit(unit_);
    if (index_ != nullptr) lib_.disposeIndex(index_);
  }

  CppSource read(const std::string& path, const std::vector<std::string>& arguments) {
    CppSource out;
    std::vector<const char*> args;
    for (const std::string& a : arguments) args.push_back(a.c_str());
    Unsaved file{path.c_str(), text_.data(), text_.size()};
    index_ = lib_.createIndex(local_ ? 1 : 0, 0);
    const int code = lib_.parseTranslationUnit2(index_, path.c_str(), args.data(), static_cast<int>(args.size()), &file, 1, kDetailedRecord | kKeepGoing, &unit_);
    if (code != 0 || unit_ == nullptr) {
      out.first_error = "libclang gave up with code " + std::to_string(code);
      unit_ = nullptr;
      return out;
    }
    main_ = lib_.getFile(unit_, path.c_str());
    out.parsed = main_ != nullptr;
    if (!out.parsed) return out;
    std::tie(out.errors, out.first_error) = lib_.errors(unit_);
    paint();
    out.macro_functions = macro_functions_;
    cut(out);
    return out;
  }

 private:
  struct Level {
    Cursor cursor;
    uint16_t children = 0;
    enum Scope : uint8_t { kFile, kType, kSignature, kInside, kFlat } scope = kFile;
    int function = -1;  // of functions_
    Span top;
  };

  bool in_main(File file) {
    if (file == main_) return true;
    if (file == nullptr) return false;
    const auto [at, fresh] = same_file_.try_emplace(file, false);
    if (fresh) at->second = lib_.File_isEqual(file, main_) != 0;
    return at->second;
  }

  Span span_of(Range range) {  // empty unless it lies in the file
    File from = nullptr, to = nullptr;
    Span s;
    lib_.getExpansionLocation(lib_.getRangeStart(range), &from, nullptr, nullptr, &s.begin);
    if (!in_main(from)) return {};
    lib_.getExpansionLocation(lib_.getRangeEnd(range), &to, nullptr, nullptr, &s.end);
    if (!in_main(to) || s.end > text_.size()) return {};
    return s;
  }
  Span span_of(Cursor c) { return span_of(lib_.getCursorExtent(c)); }

  bool in_macro(Span s) const {
    auto at = std::upper_bound(macros_.begin(), macros_.end(), s.begin, [](uint32_t v, const Span& m) { return v < m.begin; });
    return at != macros_.begin() && s.end <= (at - 1)->end;
  }

  void paint() {
    const size_t n = text_.size();
    depth_.assign(n, 0), sibling_.assign(n, 0), node_.assign(n, kOtherNode), structure_.assign(n, kAmbient);
    const Cursor root = lib_.getTranslationUnitCursor(unit_);
    lib_.visitChildren(root, [](Cursor c, Cursor, void* self) { return static_cast<Reader*>(self)->collect_directive(c); }, this);
    std::sort(macros_.begin(), macros_.end(), [](const Span& a, const Span& b) { return a.begin != b.begin ? a.begin < b.begin : a.end > b.end; });
    // Uses inside the arguments of another use add nothing: only the outermost stay.
    size_t kept = 0;
    for (const Span& m : macros_) {
      if (kept == 0 || m.end > macros_[kept - 1].end) macros_[kept++] = m;
    }
    macros_.resize(kept);
    levels_.push_back({root, 0, Level::kFile, -1, {}});
    visit_below(root);
    if (error_) std::rethrow_exception(error_);
    for (const auto& [span, type] : directives_) std::fill(node_.begin() + span.begin, node_.begin() + span.end, type);
    find_comments();
  }

  int collect_directive(Cursor c) {
    if (c.kind < 500 || c.kind > 503) return kContinue;
    const Span s = span_of(c);
    if (s.empty()) return kContinue;
    if (c.kind == 502) macros_.push_back(s);
    directives_.emplace_back(s, static_cast<uint8_t>(node_type_of_kind(c.kind)));
    return kContinue;
  }

  // By hand, not by the library's own recursion: that names a child's parent by a cursor, and a parent may equal its child.
  void visit_below(Cursor parent) {
    lib_.visitChildren(parent, [](Cursor c, Cursor, void* self) { return static_cast<Reader*>(self)->visit_or_stop(c); }, this);
  }
  int visit_or_stop(Cursor c) {  // nothing may be thrown through the library
    try {
      visit(c);
    } catch (...) {
      error_ = std::current_exception();
    }
    return error_ ? kStop : kContinue;
  }

  // Without what a prefix declares, libclang also names what it instantiated, where the template stands.
  bool instantiated(Cursor c) const {
    const Cursor made_from = lib_.getSpecializedCursorTemplate(c);
    if (lib_.Cursor_isNull(made_from) != 0) return false;
    File of[2] = {};
    unsigned at[2] = {};
    const Cursor both[2] = {c, made_from};
    for (int i = 0; i < 2; ++i) lib_.getExpansionLocation(lib_.getCursorLocation(both[i]), &of[i], nullptr, nullptr, &at[i]);
    return at[0] == at[1] && (of[0] == of[1] || (of[0] != nullptr && of[1] != nullptr && lib_.File_isEqual(of[0], of[1]) != 0));
  }

  void visit(Cursor c) {
    if (c.kind >= 500 && c.kind <= 503) return;
    if (local_ && levels_.size() == 1 && instantiated(c)) return;
    const Span s = span_of(c);
    if (s.empty()) return;
    if (in_macro(s)) {
      macro_functions_ += is_function(c.kind) && !body_of(c).empty();
      return;
    }
    Level& up = levels_.back();
    const uint16_t place = up.children;
    if (up.children < kAbsent - 1) ++up.children;
    const auto depth = static_cast<uint16_t>(std::min<size_t>(levels_.size(), kAbsent - 1));
    std::fill(depth_.begin() + s.begin, depth_.begin() + s.end, depth);
    std::fill(sibling_.begin() + s.begin, sibling_.begin() + s.end, place);
    std::fill(node_.begin() + s.begin, node_.begin() + s.end, static_cast<uint8_t>(node_type_of_kind(c.kind)));
    levels_.push_back(level_of(c, s, up));
    if (c.kind == kCall && levels_.back().function >= 0) note_call(c, functions_[static_cast<size_t>(levels_.back().function)]);
    if (levels_.size() < kDeepest) visit_below(c);
    levels_.pop_back();
  }

  void mark(Span s, uint8_t structure) { std::fill(structure_.begin() + s.begin, structure_.begin() + s.end, structure); }
  void mark(Span s, Structure structure) { mark(s, static_cast<uint8_t>(structure)); }

  // What the cursor is in the text, painted, and what that makes of its children.
  Level level_of(Cursor c, Span s, const Level& up) {
    Level level{c, 0, Level::kFlat, up.function, up.top};
    if (up.scope == Level::kInside || up.scope == Level::kFlat) {
      level.scope = up.scope;
      return level;
    }
    if (up.scope == Level::kSignature) {
      const Found& f = functions_[static_cast<size_t>(up.function)];
      const bool body = s.begin == f.body.begin && s.end == f.body.end;
      if (body) mark(s, Structure::kBody);
      level.scope = body ? Level::kInside : Level::kFlat;
      return level;
    }
    const bool in_type = up.scope == Level::kType;
    if (level.top.empty() && c.kind != kNamespace && c.kind != kLinkage && c.kind != 1) level.top = s;
    if (c.kind == kNamespace) {
      mark(s, Structure::kNamespace), level.scope = Level::kFile;
    } else if (!in_type && (c.kind == kLinkage || c.kind == 1)) {
      mark(s, kAmbient), level.scope = Level::kFile;
    } else if (is_class(c.kind)) {
      mark(s, Structure::kClass), level.scope = Level::kType;
    } else if (is_alias(c.kind)) {
      mark(s, Structure::kTypedef);
    } else if (is_function(c.kind)) {
      const Span body = body_of(c);
      if (!body.empty() && body.begin > s.begin && body.end <= s.end) {
        mark(s, Structure::kSignature);
        level.scope = Level::kSignature, level.function = static_cast<int>(functions_.size());
        functions_.push_back({s, body, c, level.top, {}});
      } else {
        mark(s, in_type ? Structure::kMember : Structure::kSignature);
      }
    } else if (!in_type) {
      mark(s, kAmbient);
    } else if (!is_head_part(c.kind)) {
      mark(s, Structure::kMember);
      if (c.kind == kFriend) level.scope = Level::kType;  // it may hold a function with its body
    }
    return level;
  }

  Span body_of(Cursor function) {  // as it stands in the text; empty: none, or written by a macro
    struct Search { Reader* reader; Span found; } search{this, {}};
    lib_.visitChildren(function, [](Cursor c, Cursor, void* data) -> int {
      auto& s = *static_cast<Search*>(data);
      if (c.kind == kCompound || c.kind == kTry) s.found = s.reader->span_of(c);
      return kContinue;
    }, &search);
    const Span b = search.found;
    return !b.empty() && (text_[b.begin] == '{' || text_.compare(b.begin, 3, "try") == 0) && text_[b.end - 1] == '}' ? b : Span{};
  }

  SymbolHash symbol_of(Cursor c) const {
    const std::string usr = lib_.text(lib_.getCursorUSR(c));
    if (usr.empty()) return {};
    const XXH128_hash_t h = XXH3_128bits(usr.data(), usr.size());
    return {h.high64, h.low64};
  }

  void note_call(Cursor c, Found& caller) const {
    Cursor to = lib_.getCursorReferenced(c);
    if (lib_.Cursor_isNull(to) != 0 || !is_function(to.kind) || lib_.Location_isInSystemHeader(lib_.getCursorLocation(to)) != 0) return;
    const Cursor made_from = lib_.getSpecializedCursorTemplate(to);
    if (lib_.Cursor_isNull(made_from) == 0) to = made_from;
    const SymbolHash symbol = symbol_of(to);
    if (symbol != SymbolHash{} && std::find(caller.calls.begin(), caller.calls.end(), symbol) == caller.calls.end()) caller.calls.push_back(symbol);
  }

  void find_comments() {
    const Range all = lib_.getRange(lib_.getLocationForOffset(unit_, main_, 0), lib_.getLocationForOffset(unit_, main_, static_cast<unsigned>(text_.size())));
    Token* tokens = nullptr;
    unsigned count = 0;
    lib_.tokenize(unit_, all, &tokens, &count);
    for (unsigned i = 0; i < count; ++i) {
      if (lib_.getTokenKind(tokens[i]) != kCommentToken) continue;
      const Span s = span_of(lib_.getTokenExtent(unit_, tokens[i]));
      if (s.empty()) continue;
      comments_.push_back(s);
      mark(s, Structure::kComment);
      std::fill(node_.begin() + s.begin, node_.begin() + s.end, static_cast<uint8_t>(kCommentNode));
    }
    lib_.disposeTokens(unit_, tokens, count);
  }

  // Where the text of a declaration begins: with its attributes, the comments right above it and its own indentation.
  uint32_t begin_of(uint32_t at) const {
    for (;;) {
      uint32_t back = at, lines = 0;
      while (back > 0 && is_blank(text_[back - 1])) lines += text_[--back] == '\n';
      const auto comment = std::lower_bound(comments_.begin(), comments_.end(), back, [](const Span& c, uint32_t v) { return c.end < v; });
      if (lines <= 1 && comment != comments_.end() && comment->begin < back && own_line(comment->begin)) {
        at = comment->begin;
      } else if (back >= 2 && text_[back - 1] == ']' && text_[back - 2] == ']' && text_.rfind("[[", back) != std::string::npos) {
        at = static_cast<uint32_t>(text_.rfind("[[", back));
      } else {
        break;
      }
    }
    uint32_t line = at;
    while (line > 0 && (text_[line - 1] == ' ' || text_[line - 1] == '\t')) --line;
    return line == 0 || text_[line - 1] == '\n' ? line : at;
  }
  bool own_line(uint32_t at) const {  // nothing but blanks before it on its line
    while (at > 0 && (text_[at - 1] == ' ' || text_[at - 1] == '\t')) --at;
    return at == 0 || text_[at - 1] == '\n';
  }

  std::string qualified_name(Cursor c) const {
    std::string name;
    for (int guard = 0; guard < 256 && lib_.Cursor_isNull(c) == 0 && c.kind != 300 && c.kind != 350; ++guard, c = lib_.getCursorSemanticParent(c)) {
      if (c.kind == kLinkage) continue;
      std::string part = lib_.text(lib_.getCursorSpelling(c));
      if (c.kind == kFunctionTemplate || is_function(c.kind)) {
        if (const size_t cut = part.find('<'); cut != std::string::npos && !part.starts_with("operator")) part.resize(cut);  // "Box<T>" of a constructor
      } else if (part.empty() || part.front() == '(' || lib_.Cursor_isAnonymous(c) != 0) {
        part = "(anonymous)";
      }
      name = name.empty() ? part : part + "::" + name;
    }
    return name;
  }

  CppPiece piece(Span s) const {
    CppPiece p;
    p.offset = static_cast<int32_t>(s.begin);
    p.line = 1 + static_cast<int32_t>(std::count(text_.begin(), text_.begin() + s.begin, '\n'));
    p.text = text_.substr(s.begin, s.end - s.begin) + "\n\n";
    for (uint32_t i = s.begin; i < s.end; ++i) {
      const ByteRun now{1, structure_[i], depth_[i], sibling_[i], node_[i]};
      if (!p.runs.empty()) {
        ByteRun& last = p.runs.back();
        if (last.structure == now.structure && last.depth == now.depth && last.sibling == now.sibling && last.node == now.node) {
          ++last.bytes;
          continue;
        }
      }
      p.runs.push_back(now);
    }
    p.runs.push_back({2, static_cast<uint8_t>(Structure::kOther), kAbsent, kAbsent, kAbsent});
    return p;
  }

  void cut(CppSource& out) {
    if (functions_.empty()) return;
    uint32_t preamble = static_cast<uint32_t>(text_.size());
    std::vector<uint32_t> begins;
    for (const Found& f : functions_) {
      begins.push_back(begin_of(f.whole.begin));
      preamble = std::min(preamble, begin_of(f.top.begin));
    }
    for (uint32_t i = 0; i < structure_.size(); ++i) {
      if (structure_[i] == kAmbient) structure_[i] = static_cast<uint8_t>(i < preamble ? Structure::kPreamble : Structure::kOther);
    }
    while (preamble > 0 && is_blank(text_[preamble - 1])) --preamble;
    out.pieces.emplace_back();
    if (preamble > 0) out.pieces.back() = piece({0, preamble});
    std::vector<size_t> order(functions_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return functions_[a].whole.begin < functions_[b].whole.begin; });
    for (const size_t i : order) {
      Found& f = functions_[i];
      // What stands before the declaration and belongs to it is part of its signature.
      for (uint32_t k = begins[i]; k < f.whole.begin; ++k) {
        if (structure_[k] != static_cast<uint8_t>(Structure::kComment)) structure_[k] = static_cast<uint8_t>(Structure::kSignature);
      }
      CppPiece p = piece({begins[i], f.whole.end});
      p.name = qualified_name(f.cursor);
      p.symbol = symbol_of(f.cursor);
      const int parent = lib_.getCursorSemanticParent(f.cursor).kind;
      p.kind = f.cursor.kind != kFunction && is_class(parent) ? CppPiece::kMethodPiece : CppPiece::kFunctionPiece;
      p.calls = std::move(f.calls);
      std::erase(p.calls, p.symbol);
      out.pieces.push_back(std::move(p));
    }
  }

  const Library& lib_;
  const std::string& text_;
  const bool local_;  // only what this file and its own includes declare is visited
  Index index_ = nullptr;
  Unit unit_ = nullptr;
  File main_ = nullptr;
  std::unordered_map<File, bool> same_file_;
  std::vector<uint16_t> depth_, sibling_;
  std::vector<uint8_t> node_, structure_;
  std::vector<Span> macros_, comments_;
  std::vector<std::pair<Span, uint8_t>> directives_;
  std::vector<Level> levels_;
  std::vector<Found> functions_;
  int32_t macro_functions_ = 0;
  std::exception_ptr error_;
};

}  // namespace

CppSource read_cpp(const clang::Library& library, const std::string& path, const std::string& text, const std::vector<std::string>& arguments, bool behind_prefix) {
  return Reader(library, text, behind_prefix).read(path, arguments);
}

}  // namespace weft::data
