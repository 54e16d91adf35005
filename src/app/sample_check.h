// Whether what a model wrote looks like what it read: do its identifiers occur there, does it go round in circles.
#pragma once
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace weft::app {

// Runs of letters, digits and underscores with four letters or more that do not begin with a digit. `cut`: the text breaks off, so a
// run at its very end is left out.
std::vector<std::string> identifiers(std::string_view text, bool cut);

// The longest run of tokens each of which equals the one `period` before it, over all periods from 1 to 32.
int64_t longest_loop(const std::vector<int32_t>& tokens);

std::set<std::string> identifiers_of_corpus(const std::string& prepared_folder);  // training and validation text

struct SampleCheck {
  int64_t written = 0, known = 0;    // identifiers in the samples, each time they occur; those that the corpus has
  std::vector<std::string> unknown;  // the others, each once
  int64_t longest_loop = 0;          // tokens
  void add(std::string_view text, bool cut, const std::vector<int32_t>& tokens, const std::set<std::string>& corpus);
  double known_fraction() const { return written > 0 ? static_cast<double>(known) / static_cast<double>(written) : 1; }
  Json json() const;  // identifiers, identifiers_known, identifiers_known_fraction, identifiers_unknown, longest_loop_tokens
};

}  // namespace weft::app
