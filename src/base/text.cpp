#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace weft {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) now[j] = std::min(now[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

std::string nearest(std::string_view word, std::span<const std::string> known) {
  std::string best;
  size_t best_distance = 2 + word.size() / 4;
  for (const std::string& k : known) {
    const size_t d = edit_distance(word, k);
    if (d < best_distance) best = k, best_distance = d;
  }
  return best;
}

std::string human_bytes(uint64_t bytes) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double v = static_cast<double>(bytes);
  int u = 0;
  while (v >= 1024 && u < 5) v /= 1024, ++u;
  return u == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.{}f} {}", v, v < 10 ? 2 : v < 100 ? 1 : 0, units[u]);
}

std::string human_count(double count) {
  static constexpr const char* units[] = {"", " k", " M", " G", " T", " P"};
  double v = count;
  int u = 0;
  while (std::fabs(v) >= 1000 && u < 5) v /= 1000, ++u;
  if (u == 0) return v == std::floor(v) ? fmt::format("{:.0f}", v) : fmt::format("{:.3g}", v);
  return fmt::format("{:.{}f}{}", v, std::fabs(v) < 10 ? 2 : std::fabs(v) < 100 ? 1 : 0, units[u]);
}

std::string human_seconds(double s) {
  if (!std::isfinite(s)) return "?";
  if (s < 1) return fmt::format("{:.0f} ms", s * 1e3);
  if (s < 60) return fmt::format("{:.1f} s", s);
  const auto whole = static_cast<int64_t>(s + 0.5);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  if (whole < 48 * 3600) return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
  return fmt::format("{} d {} h", whole / 86400, whole / 3600 % 24);
}

std::optional<uint64_t> parse_bytes(std::string_view text) {
  text = trim(text);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error != std::errc() || value < 0) return std::nullopt;
  std::string unit(trim(text.substr(static_cast<size_t>(end - text.data()))));
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  static constexpr std::string_view prefixes = "kmgtp";
  double scale = 1;
  if (!unit.empty() && unit != "b") {
    const size_t at = prefixes.find(unit[0]);
    const std::string rest = unit.substr(1);
    if (at == std::string_view::npos || (rest != "" && rest != "b" && rest != "ib")) return std::nullopt;
    scale = std::pow(1024.0, static_cast<double>(at + 1));
  }
  if (value * scale >= 18446744073709551616.0) return std::nullopt;
  return static_cast<uint64_t>(value * scale);
}

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> out;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); ++i)
    if (i == text.size() || text[i] == at) {
      out.emplace_back(text.substr(begin, i - begin));
      begin = i + 1;
    }
  return out;
}

std::string join(std::span<const std::string> parts, std::string_view between) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += between;
    out += parts[i];
  }
  return out;
}

std::string_view trim(std::string_view text) {
  static constexpr std::string_view blank = " \t\r\n";
  const size_t begin = text.find_first_not_of(blank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(blank) - begin + 1);
}

bool glob_match(std::string_view pattern, std::string_view text, char separator) {
  struct Star {  // the last one seen: on a mismatch it takes one more character
    size_t after = std::string_view::npos, taken = 0;
  } star, stars;  // *, **
  const auto separates = [&](size_t t) { return separator != 0 && text[t] == separator; };
  size_t p = 0, t = 0;
  while (t < text.size() || p < pattern.size()) {
    if (pattern.substr(p).starts_with("**")) {
      stars = {p += 2, t}, star = {};  // what came before is matched
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = {++p, t};
    } else if (p < pattern.size() && t < text.size() && (pattern[p] == '?' ? !separates(t) : pattern[p] == text[t])) {
      ++p, ++t;
    } else if (star.after != std::string_view::npos && star.taken < text.size() && !separates(star.taken)) {
      p = star.after, t = ++star.taken;
    } else if (stars.after != std::string_view::npos && stars.taken < text.size()) {
      p = stars.after, t = ++stars.taken, star = {};
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace weft
