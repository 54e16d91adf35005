// The first documents of a prepared folder as tokens, with what is learned of each. For `weft prepare --show`.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "data/prepare.h"

namespace weft::data {

std::string shown_token(const std::string& bytes);  // valid UTF-8, in one line, with bars escaped
// Tokens stand between bars, on a line for each run of one weight: learned ones green and others grey through `paint` (learned or
// not), or without colours behind "learn 1" and "skip". Line ends and control characters are escaped.
using ShowPaint = std::function<std::string(const std::string& text, bool learned)>;
std::string show_documents(const PreparedData& data, int64_t documents, const ShowPaint& paint = {});

}  // namespace weft::data
