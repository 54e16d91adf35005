#include "text/forms.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/unicode.h"

namespace weft::text {
namespace {

bool inert(uint32_t code) { return has(Property::kNormalizerUnknown, code); }

int combining_class(uint32_t code) {
  return inert(code) ? 0 : utf8proc_get_property(static_cast<utf8proc_int32_t>(code))->combining_class;
}

// Full decomposition; at most 18 code points.
size_t decompose(uint32_t code, bool compatible, uint32_t (&out)[24]) {
  if (code < 0x80 || inert(code)) return out[0] = code, 1;
  int last = 0;
  utf8proc_int32_t buffer[24];
  const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), buffer, 24,
                                         static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0)), &last);
  if (n <= 0 || n > 24) return out[0] = code, 1;
  for (long i = 0; i < n; ++i) out[i] = static_cast<uint32_t>(buffer[i]);
  return static_cast<size_t>(n);
}

// The primary composite of two code points, or 0.
uint32_t compose(uint32_t first, uint32_t second) {
  if (second < 0x300 || inert(first) || inert(second)) return 0;
  if (second == 0x11A7) return 0;  // one before the first trailing consonant: utf8proc would take it for one, and drop it
  utf8proc_int32_t pair[3] = {static_cast<utf8proc_int32_t>(first), static_cast<utf8proc_int32_t>(second), 0};
  const auto n = utf8proc_normalize_utf32(pair, 2, static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  const uint32_t result = static_cast<uint32_t>(pair[0]);
  return n == 1 && !inert(result) ? result : 0;
}

constexpr bool composes(Form f) { return f == Form::kNfc || f == Form::kNfkc; }
constexpr bool compatible(Form f) { return f == Form::kNfkc || f == Form::kNfkd; }

// A bit for each code point that the form changes, moves, or joins to what is before it.
class Unstable {
 public:
  explicit Unstable(Form form) : bits_((kLastCodePoint + 64) / 64) {
    uint32_t out[24];
    for (uint32_t c = 0x80; c <= kLastCodePoint; ++c) {
      if (c == 0xD800) c = 0xE000;
      const size_t n = decompose(c, compatible(form), out);
      const bool same = n == 1 && out[0] == c;
      bool whole = same;
      if (composes(form) && !same) {  // does it come back?
        uint32_t joined = out[0];
        for (size_t i = 1; i < n && joined != 0; ++i) joined = compose(joined, out[i]);
        whole = joined == c;
        if (!compatible(form)) {
          for (size_t i = 1; i < n; ++i) set(out[i]);
        }
      }
      if (!whole || combining_class(c) != 0) set(c);
    }
    if (form == Form::kNfkc) {
      for (uint32_t c = 0x80; c <= kLastCodePoint; ++c) {
        if (c == 0xD800) c = 0xE000;
        const size_t n = decompose(c, false, out);
        for (size_t i = 1; i < n; ++i) set(out[i]);
      }
    }
    if (composes(form)) {
      for (uint32_t c = 0x1161; c <= 0x1175; ++c) set(c);
      for (uint32_t c = 0x11A8; c <= 0x11C2; ++c) set(c);
    }
  }
  bool has(uint32_t c) const { return bits_[c / 64] >> (c % 64) & 1; }

 private:
  void set(uint32_t c) { bits_[c / 64] |= uint64_t{1} << (c % 64); }
  std::vector<uint64_t> bits_;
};

const Unstable& unstable(Form form) {
  switch (form) {
    case Form::kNfc: { static const Unstable table(Form::kNfc); return table; }
    case Form::kNfd: { static const Unstable table(Form::kNfd); return table; }
    case Form::kNfkc: { static const Unstable table(Form::kNfkc); return table; }
    default: { static const Unstable table(Form::kNfkd); return table; }
  }
}

// Canonical composition in place (UAX 15, D117).
void compose_all(std::vector<Change>& text, size_t from) {
  size_t out = from;
  size_t starter = text.size();  // index in the output of the last starter
  int last = -1;                 // class of what was put behind it, -1 when nothing was
  for (size_t i = from; i < text.size(); ++i) {
    const Change c = text[i];
    const int cls = combining_class(c.code);
    if (starter < out && (last < 0 || (last != 0 && last < cls))) {
      if (const uint32_t joined = compose(text[starter].code, c.code); joined != 0) {
        text[starter] = {joined, text[starter].change + c.change - 1};
        continue;
      }
    }
    if (cls == 0) starter = out, last = -1;
    else last = cls;
    text[out++] = c;
  }
  text.resize(out);
}

}  // namespace

bool surely_in_form(std::string_view text, Form form) {
  const Unstable* table = nullptr;
  for (size_t at = 0; at < text.size();) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    if (table == nullptr) table = &unstable(form);
    const Decoded d = decode_utf8(text, at);
    if (!d.valid || table->has(d.code)) return false;
    at += d.length;
  }
  return true;
}

void to_form(std::string_view text, Form form, std::vector<Change>& out) {
  const size_t from = out.size();
  uint32_t buffer[24];
  size_t run = from;  // where the current run of combining characters starts
  const auto sort_run = [&] {
    if (out.size() - run > 1) {
      std::stable_sort(out.begin() + static_cast<std::ptrdiff_t>(run), out.end(),
                       [](const Change& a, const Change& b) { return combining_class(a.code) < combining_class(b.code); });
    }
  };
  for (size_t at = 0; at < text.size();) {
    const Decoded d = decode_utf8(text, at);
    at += d.length;
    const size_t n = decompose(d.code, compatible(form), buffer);
    for (size_t i = 0; i < n; ++i) {
      if (combining_class(buffer[i]) == 0) {
        sort_run();
        out.push_back({buffer[i], i > 0 ? 1 : 0});
        run = out.size();
      } else {
        out.push_back({buffer[i], i > 0 ? 1 : 0});
      }
    }
  }
  sort_run();
  if (composes(form)) compose_all(out, from);
}

}  // namespace weft::text
