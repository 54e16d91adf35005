// What a run learns from: settings of the part `data` of a recipe.
#pragma once
#include <string>

#include "base/config.h"
#include "data/fim.h"
#include "data/source_config.h"

namespace weft::data {

struct DataConfig {
  std::string path;
  int64_t seq_len = 1024;
  std::string tokenizer, eod;
  SourceConfig source;
  bool balance = false;
  FimConfig fim = [] {
    FimConfig f;
    f.rate = 0;
    return f;
  }();
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("path", self.path, "Folder that `weft prepare` made.", Live{});
    visit("seq_len", self.seq_len, "Tokens of one sample.", Range{1, 1 << 24}, Unit{"tokens"}, Alias{"seq_length"});
    visit("tokenizer", self.tokenizer, "A tokenizer's file or folder, where the source is not a prepared folder.", Live{});
    visit("eod", self.eod, "Text of its end-of-document token. Empty: its own.");
    visit("source", self.source, "Where samples come from.");
    visit("balance", self.balance, "Give the samples of a step to data-parallel ranks so that attention has even work on each. The step's samples stay the same.");
    visit("fim", self.fim, "Fill in the middle.");
  }
};

}  // namespace weft::data
