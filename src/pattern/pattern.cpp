#include "pattern/pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"

namespace weft::pattern {
namespace {

[[noreturn]] void refuse(std::string_view text, size_t at, const std::string& what) {
  throw ConfigError(fmt::format("pattern: {}: \"{}\" at character {}", what, text, at + 1));
}

std::string shown(char c) { return c >= ' ' && c <= '~' ? std::string(1, c) : fmt::format("\\x{:02x}", static_cast<unsigned char>(c)); }

void check_letters(std::string_view text, size_t begin, size_t end, bool in_mtp, const Alphabet& alphabet) {
  for (size_t i = begin; i < end; ++i) {
    if (text[i] == '|' && !in_mtp) continue;
    if (text[i] == '|') refuse(text, i, "a pipeline boundary | stands in a prediction depth; it may stand only before the first /");
    if (alphabet.letters.find(text[i]) == std::string::npos) {
      std::vector<std::string> known;
      for (const char c : alphabet.letters) known.emplace_back(1, c);
      refuse(text, i, fmt::format("unknown letter '{}', want one of {}", shown(text[i]), join(known, " ")));
    }
  }
}

int nearest_int(double v) { return static_cast<int>(std::nearbyint(v)); }  // ties to even, as the old flags did

}  // namespace

std::string Pattern::layers() const { return join(segments, ""); }

int Pattern::num_layers() const { return static_cast<int>(layers().size()); }

int Pattern::count(char letter) const {
  const std::string all = layers();
  return static_cast<int>(std::count(all.begin(), all.end(), letter) + mtp_depths * std::count(mtp.begin(), mtp.end(), letter));
}

Pattern parse(std::string_view text, const Alphabet& alphabet) {
  const size_t slash = std::min(text.find('/'), text.size());
  check_letters(text, 0, slash, false, alphabet);
  Pattern p;
  p.segments = weft::split(text.substr(0, slash), '|');
  if (slash < text.size()) {
    const std::vector<std::string> depths = weft::split(text.substr(slash + 1), '/');
    size_t at = slash + 1;
    for (const std::string& depth : depths) {
      check_letters(text, at, at + depth.size(), true, alphabet);
      if (depth != depths[0])
        refuse(text, at, fmt::format("prediction depths differ: \"{}\" and \"{}\"; all must be the same", depths[0], depth));
      at += depth.size() + 1;
    }
    p.mtp = depths[0];
    p.mtp_depths = p.mtp.empty() ? 0 : static_cast<int>(depths.size());
  }
  const size_t plain = text.find_first_of(alphabet.attention), latent = text.find_first_of(alphabet.latent);
  if (plain != std::string_view::npos && latent != std::string_view::npos)
    refuse(text, std::max(plain, latent), fmt::format("'{}' and '{}' may not be mixed: one is standard attention, the other latent",
                                                      text[plain], text[latent]));
  return p;
}

std::string print(const Pattern& p) {
  std::string out = join(p.segments, "|");
  for (int i = 0; i < p.mtp_depths; ++i) out += "/" + p.mtp;
  return out;
}

Pattern tile(const Pattern& p, int num_layers) {
  if (p.segments.size() > 1)
    throw ConfigError(fmt::format("pattern: a pattern with pipeline boundaries is not tiled: got \"{}\" for {} layers", print(p), num_layers));
  const std::string& unit = p.segments[0];
  if (unit.empty()) throw ConfigError(fmt::format("pattern: no layers to tile to {}: got \"{}\"", num_layers, print(p)));
  if (num_layers < 1) throw ConfigError(fmt::format("pattern: number of layers: got {}, want 1 or more", num_layers));
  Pattern out = p;
  out.segments[0].clear();
  for (int i = 0; i < num_layers; ++i) out.segments[0] += unit[static_cast<size_t>(i) % unit.size()];
  return out;
}

std::vector<Stage> split(const Pattern& p, const Split& how) {
  if (how.ranks < 1 || how.chunks < 1)
    throw ConfigError(fmt::format("pattern: pipeline: got {} ranks and {} chunks, want 1 or more", how.ranks, how.chunks));
  std::vector<std::string> parts = p.segments;
  const bool uneven = how.first >= 0 || how.last >= 0;
  if (parts.size() > 1) {
    if (uneven) throw ConfigError("pattern: layers of the first or last rank are given, but the pattern has boundaries |; want one of both");
    if (parts.size() % static_cast<size_t>(how.ranks) != 0)
      throw ConfigError(fmt::format("pattern: {} segments do not divide among {} pipeline ranks: \"{}\"", parts.size(), how.ranks, print(p)));
    const auto chunks = static_cast<int>(parts.size()) / how.ranks;
    if (how.chunks != 1 && how.chunks != chunks)
      throw ConfigError(fmt::format("pattern: {} segments on {} ranks are {} chunks each: got {}", parts.size(), how.ranks, chunks, how.chunks));
  } else {
    if (how.chunks > 1) throw ConfigError("pattern: several chunks a rank need boundaries |\n  try: write the segments out, such as M*|M-|M*|M-");
    const int depth = p.num_layers();
    const int ends = (how.first >= 0) + (how.last >= 0), middle = how.ranks - ends;
    const int rest = depth - std::max(how.first, 0) - std::max(how.last, 0);
    if (middle < 0 || rest < 0 || (middle == 0 && rest != 0) || (middle > 0 && rest % middle != 0))
      throw ConfigError(fmt::format("pattern: {} layers do not divide among {} pipeline ranks{}\n  try: boundaries | in the pattern", rest,
                                    std::max(middle, 0), uneven ? " (those left by the first and last)" : ""));
    parts.clear();
    const std::string all = p.layers();
    size_t at = 0;
    for (int r = 0; r < how.ranks; ++r) {
      const int share = r == 0 && how.first >= 0 ? how.first : r == how.ranks - 1 && how.last >= 0 ? how.last : rest / std::max(middle, 1);
      parts.push_back(all.substr(at, static_cast<size_t>(share)));
      at += static_cast<size_t>(share);
    }
  }
  std::vector<Stage> out;
  int offset = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    out.push_back({static_cast<int>(i) % how.ranks, static_cast<int>(i) / how.ranks, parts[i], offset});
    offset += static_cast<int>(parts[i].size());
  }
  return out;
}

std::string from_ratios(int num_layers, double attention, double mlp) {
  if (num_layers < 0 || !(attention >= 0 && mlp >= 0 && attention + mlp <= 1))
    throw ConfigError(fmt::format("pattern: ratios: got attention {} and mlp {} of {} layers, want each from 0 and a sum to 1", attention, mlp, num_layers));
  const int num_attention = nearest_int(num_layers * attention), num_mlp = nearest_int(num_layers * mlp);
  const int num_mamba = num_layers - num_attention;
  if (num_mlp > num_mamba)
    throw ConfigError(fmt::format("pattern: ratios: {} MLP layers do not fit beside {} attention layers in {}", num_mlp, num_attention, num_layers));
  // Sections of equal length lie between attention layers, before the first and after the last.
  const double section = static_cast<double>(num_mamba) / (num_attention + 1);
  std::string out(static_cast<size_t>(num_layers), 'M');
  double left = section;
  for (char& c : out) {
    if (left < 0.5) c = '*', left += section;
    else left -= 1;
  }
  if (num_mlp == 0) return out;
  const double ratio = static_cast<double>(num_mamba - num_mlp) / num_mlp;  // M layers for each MLP
  left = ratio;
  for (char& c : out) {
    if (c == '*') continue;
    if (left < 0.5) c = '-', left += ratio;
    else left -= 1;
  }
  return out;
}

std::string translate(std::string_view text, const std::map<char, char>& table) {
  std::string out(text);
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i] == '|' || out[i] == '/') continue;
    const auto found = table.find(out[i]);
    if (found == table.end()) refuse(text, i, fmt::format("letter '{}' has no translation", shown(out[i])));
    out[i] = found->second;
  }
  return out;
}

std::string with_ranks(std::string_view text, char from, const std::vector<int>& ranks, char to) {
  std::string out(text);
  int rank = 0, changed = 0;
  for (char& c : out) {
    if (c != from) continue;
    if (std::find(ranks.begin(), ranks.end(), rank++) != ranks.end()) c = to, ++changed;
  }
  if (changed != static_cast<int>(ranks.size()))
    throw ConfigError(fmt::format("pattern: ranks among '{}': got one that is not below {}, or twice: \"{}\"", shown(from), rank, text));
  return out;
}

}  // namespace weft::pattern
