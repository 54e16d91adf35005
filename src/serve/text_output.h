// Sampled tokens to text as it comes: whole UTF-8 characters only, nothing that may still become a stop string, and nothing from
// a stop string on.
#pragma once
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace weft::serve {

class TextOutput {
 public:
  // Stop strings are matched in the text, wherever tokens begin and end; empty ones are ignored.
  TextOutput(const text::Tokenizer&, std::vector<std::string> stops);
  std::string push(int32_t token);  // what can be shown now; "" after a stop
  std::string finish();             // what was held back
  bool stopped() const { return stopped_; }
  const std::string& text() const { return text_; }  // all that was given out

 private:
  std::string give(std::string fresh, bool end);

  text::StreamDecoder decoder_;
  std::vector<std::string> stops_;
  std::string held_, text_;
  bool stopped_ = false;
};

}  // namespace weft::serve
