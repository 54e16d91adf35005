#include "text/decode.h"

#include "text/byte_level.h"
#include "text/unicode.h"

namespace weft::text {
namespace {

void replace_all(std::string& s, std::string_view from, std::string_view to) {
  if (from.empty() || s.find(from) == std::string::npos) return;
  std::string out;
  size_t at = 0;
  for (size_t hit; (hit = s.find(from, at)) != std::string::npos; at = hit + from.size()) {
    out.append(s, at, hit - at);
    out += to;
  }
  out.append(s, at);
  s = std::move(out);
}

// English spacing, as upstream repairs it.
void tidy(std::string& s) {
  constexpr const char* kRules[][2] = {{" .", "."},    {" ?", "?"},     {" !", "!"},   {" ,", ","},     {" ' ", "'"},  {" n't", "n't"},
                                       {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& rule : kRules) replace_all(s, rule[0], rule[1]);
}

void word_piece(const DecodeRule& rule, std::vector<std::string>& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) {
      if (tokens[i].starts_with(rule.text)) tokens[i].erase(0, rule.text.size());
      else tokens[i].insert(0, " ");
    }
    if (rule.cleanup) tidy(tokens[i]);
  }
}

void metaspace(const DecodeRule& rule, std::vector<std::string>& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    replace_all(tokens[i], rule.content, i == 0 && !rule.never_prepended ? "" : " ");
  }
}

void byte_fallback(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (valid_utf8_prefix(bytes) == bytes.size()) out.push_back(bytes);
    else out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
    bytes.clear();
  };
  for (std::string& token : tokens) {
    const int byte = fallback_byte(token);
    if (byte >= 0) {
      bytes += static_cast<char>(byte);
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens = std::move(out);
}

void strip(const DecodeRule& rule, std::string& token) {
  size_t begin = 0, end = token.size();
  for (size_t i = 0; i < rule.start && std::string_view(token).substr(begin).starts_with(rule.content); ++i) begin += rule.content.size();
  for (size_t i = 0; i < rule.stop && end > begin && std::string_view(token).substr(begin, end - begin).ends_with(rule.content); ++i) {
    end -= rule.content.size();
  }
  token = token.substr(begin, end - begin);
}

void replace(const DecodeRule& rule, std::vector<std::string>& tokens) {
  if (rule.regex == nullptr) {
    for (std::string& token : tokens) replace_all(token, rule.text, rule.content);
    return;
  }
  Matcher matcher(*rule.regex);
  for (std::string& token : tokens) {
    matcher.start(token);
    std::string out;
    size_t at = 0, begin = 0, end = 0;
    while (matcher.next(begin, end)) {
      out.append(token, at, begin - at);
      out += rule.content;
      at = end;
    }
    out.append(token, at);
    token = std::move(out);
  }
}

void ctc(const DecodeRule& rule, std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && tokens[i] == tokens[i - 1]) continue;
    std::string token = tokens[i];
    replace_all(token, rule.text, "");
    if (rule.cleanup) {
      tidy(token);
      replace_all(token, rule.content, " ");
    }
    if (!token.empty()) out.push_back(std::move(token));
  }
  tokens = std::move(out);
}

std::string join(const std::vector<std::string>& tokens, std::string_view between) {
  std::string out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += between;
    out += tokens[i];
  }
  return out;
}

}  // namespace

int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

std::string byte_level_bytes(std::string_view token) {
  std::string out;
  if (!alphabet_to_bytes(token, out)) out = token;
  return out;
}

std::string decode_tokens(const std::vector<DecodeRule>& rules, std::vector<std::string> tokens) {
  if (rules.empty()) return join(tokens, " ");
  for (const DecodeRule& rule : rules) {
    switch (rule.kind) {
      case DecodeRule::kByteLevel: {
        std::string bytes;
        for (const std::string& token : tokens) bytes += byte_level_bytes(token);
        tokens.assign(1, replace_invalid_utf8(bytes));
        break;
      }
      case DecodeRule::kMetaspace: metaspace(rule, tokens); break;
      case DecodeRule::kWordPiece: word_piece(rule, tokens); break;
      case DecodeRule::kBpe:
        for (size_t i = 0; i < tokens.size(); ++i) replace_all(tokens[i], rule.text, i + 1 == tokens.size() ? "" : " ");
        break;
      case DecodeRule::kByteFallback: byte_fallback(tokens); break;
      case DecodeRule::kFuse: tokens.assign(1, join(tokens, "")); break;
      case DecodeRule::kStrip:
        for (std::string& token : tokens) strip(rule, token);
        break;
      case DecodeRule::kReplace: replace(rule, tokens); break;
      case DecodeRule::kCtc: ctc(rule, tokens); break;
    }
  }
  return join(tokens, "");
}

}  // namespace weft::text
