// Decoding one id at a time.
#include "text/state.h"
#include "text/unicode.h"

namespace weft::text {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special) : tokenizer_(tokenizer.state_), skip_special_(skip_special) {
  const std::vector<DecodeRule>& rules = tokenizer_.state_->decoders;
  bytes_ = rules.size() == 1 && rules[0].kind == DecodeRule::kByteLevel;
  byte_runs_ = false;
  for (const DecodeRule& rule : rules) byte_runs_ |= rule.kind == DecodeRule::kByteFallback;
}

std::string StreamDecoder::push(int32_t id) {
  if (!tokenizer_.has(id) || (skip_special_ && tokenizer_.is_special(id))) return {};
  if (bytes_) {
    pending_ += tokenizer_.state_->bytes_of_id[static_cast<size_t>(id)];
    const size_t keep = unfinished_utf8_suffix(pending_);
    std::string out = replace_invalid_utf8(std::string_view(pending_).substr(0, pending_.size() - keep));
    pending_.erase(0, pending_.size() - keep);
    return out;
  }
  ids_.push_back(id);
  // One bad byte in a run of byte tokens changes what all of them decode to: wait for the end of the run.
  if (byte_runs_ && fallback_byte(tokenizer_.token_text(id)) >= 0) return {};
  const std::string text = tokenizer_.decode_from(ids_, false, begins_);
  if (!text.starts_with(context_) || text.ends_with("\xEF\xBF\xBD")) return {};
  if (text.empty() && tokenizer_.state_->leading_space != LeadingSpace::kStays) return {};  // the next piece still is the first
  std::string out = text.substr(context_.size());
  begins_ = false;
  ids_.assign(1, id);
  context_ = tokenizer_.decode_from(ids_, false, begins_);
  return out;
}

std::string StreamDecoder::finish() {
  if (bytes_) {
    std::string out = replace_invalid_utf8(pending_);
    pending_.clear();
    return out;
  }
  const std::string text = ids_.empty() ? std::string() : tokenizer_.decode_from(ids_, false, begins_);
  std::string out = text.starts_with(context_) ? text.substr(context_.size()) : text;
  ids_.clear();
  context_.clear();
  begins_ = true;
  return out;
}

}  // namespace weft::text
