#include "data/python_text.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "data/utf8.h"

namespace weft::data {
namespace {

void put_string(std::string_view s, std::string& out) {
  out += '"';
  for (size_t i = 0; i < s.size();) {
    const unsigned char c = static_cast<unsigned char>(s[i]);
    uint32_t code = c;
    size_t n = 1;
    if (c >= 0xF0) code = c & 7u, n = 4;
    else if (c >= 0xE0) code = c & 15u, n = 3;
    else if (c >= 0xC0) code = c & 31u, n = 2;
    for (size_t k = 1; k < n && i + k < s.size(); ++k) code = code << 6 | (static_cast<unsigned char>(s[i + k]) & 63u);
    i += n;
    switch (code) {
      case '"': out += "\\\""; continue;
      case '\\': out += "\\\\"; continue;
      case '\n': out += "\\n"; continue;
      case '\r': out += "\\r"; continue;
      case '\t': out += "\\t"; continue;
      case '\f': out += "\\f"; continue;
      case '\b': out += "\\b"; continue;
      default: break;
    }
    if (code >= 0x20 && code < 0x7F) out += static_cast<char>(code);
    else if (code < 0x10000) out += fmt::format("\\u{:04x}", code);
    else out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((code - 0x10000) >> 10), 0xDC00 + ((code - 0x10000) & 0x3FF));
  }
  out += '"';
}

void put(const Json& v, int depth, std::string& out) {
  const auto line = [&](int d) { out += '\n', out.append(static_cast<size_t>(4 * d), ' '); };
  if (v.is_object() || v.is_array()) {
    const bool object = v.is_object();
    if (v.empty()) {
      out += object ? "{}" : "[]";
      return;
    }
    out += object ? '{' : '[';
    bool first = true;
    for (const auto& [key, value] : v.items()) {
      if (!first) out += ',';
      first = false;
      line(depth + 1);
      if (object) put_string(key, out), out += ": ";
      put(value, depth + 1, out);
    }
    line(depth);
    out += object ? '}' : ']';
  } else if (v.is_string()) {
    put_string(v.get_ref<const std::string&>(), out);
  } else if (v.is_number_float()) {
    out += python_float(v.get<double>());
  } else {
    out += v.dump();  // whole numbers, true, false, null
  }
}

}  // namespace

std::string python_float(double x) {
  if (std::isnan(x)) return "NaN";
  if (std::isinf(x)) return x > 0 ? "Infinity" : "-Infinity";
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, x, std::chars_format::scientific).ptr;  // shortest: d.ddde+XX
  const std::string s(digits, end);
  const int exponent = std::stoi(s.substr(s.find('e') + 1));
  if (exponent < -4 || exponent >= 16) return s;  // Python, too, writes at least two digits of the exponent
  const std::string fixed(digits, std::to_chars(digits, digits + sizeof digits, x, std::chars_format::fixed).ptr);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

std::string python_json(const Json& value) {
  std::string out;
  put(value, 0, out);
  return out;
}

std::string md5_hex(std::string_view bytes) {
  static constexpr int kShift[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
  uint32_t table[64];
  for (int i = 0; i < 64; ++i) table[i] = static_cast<uint32_t>(std::floor(std::fabs(std::sin(i + 1.0)) * 4294967296.0));
  std::string text(bytes);
  text += '\x80';
  text.append((120 - text.size() % 64) % 64, '\0');
  const uint64_t bits = bytes.size() * 8;
  text.append(reinterpret_cast<const char*>(&bits), 8);
  uint32_t sum[4] = {0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u};
  for (size_t at = 0; at < text.size(); at += 64) {
    uint32_t word[16];
    std::memcpy(word, text.data() + at, 64);
    uint32_t a = sum[0], b = sum[1], c = sum[2], d = sum[3];
    for (int i = 0; i < 64; ++i) {
      uint32_t f;
      int k;
      switch (i / 16) {
        case 0: f = (b & c) | (~b & d), k = i; break;
        case 1: f = (d & b) | (~d & c), k = (5 * i + 1) % 16; break;
        case 2: f = b ^ c ^ d, k = (3 * i + 5) % 16; break;
        default: f = c ^ (b | ~d), k = 7 * i % 16; break;
      }
      const uint32_t next = b + std::rotl(a + f + table[i] + word[k], kShift[i / 16][i % 4]);
      a = d, d = c, c = b, b = next;
    }
    sum[0] += a, sum[1] += b, sum[2] += c, sum[3] += d;
  }
  std::string out;
  for (uint32_t s : sum) {
    for (int i = 0; i < 4; ++i) out += fmt::format("{:02x}", s >> (8 * i) & 255);
  }
  return out;
}

}  // namespace weft::data
