#include "serve/text_output.h"

#include <algorithm>

namespace weft::serve {
namespace {

// Bytes at the end of `text` that begin `stop` but do not finish it.
size_t unfinished(const std::string& text, const std::string& stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n)
    if (text.compare(text.size() - n, n, stop, 0, n) == 0) return n;
  return 0;
}

}  // namespace

TextOutput::TextOutput(const text::Tokenizer& tokenizer, std::vector<std::string> stops)
    : decoder_(tokenizer, /*skip_special=*/true), stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& s) { return s.empty(); });
}

std::string TextOutput::give(std::string fresh, bool end) {
  if (stopped_) return "";
  held_ += fresh;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  size_t keep = 0;
  if (first != std::string::npos) {
    stopped_ = true;
    held_.resize(first);
  } else if (!end) {
    for (const std::string& stop : stops_) keep = std::max(keep, unfinished(held_, stop));
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  text_ += out;
  return out;
}

std::string TextOutput::push(int32_t token) { return give(decoder_.push(token), false); }
std::string TextOutput::finish() { return give(decoder_.finish(), true); }

}  // namespace weft::serve
