// Where samples come from: the kinds of `data.source` of a recipe.
#pragma once
#include <array>
#include <string>
#include <variant>
#include <vector>

#include "base/config.h"
#include "data/mock.h"

namespace weft::data {

enum class Fill : uint8_t { kAuto, kStream, kPack };
constexpr std::array<const char*, 3> names(Fill) { return {"auto", "stream", "pack"}; }
enum class Order : uint8_t { kSingle, kCyclic };
constexpr std::array<const char*, 2> names(Order) { return {"single", "cyclic"}; }

struct PreparedSource {  // the folder data.path
  static constexpr const char* kKind = "prepared";
  Fill fill = Fill::kAuto;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("fill", self.fill, "stream: samples are cut from the tokens as they follow each other. pack: documents stay whole and are packed into samples. auto: pack for chat data, else stream.");
  }
};

struct MegatronSource {  // .bin/.idx files in Megatron's own order of samples
  static constexpr const char* kKind = "megatron";
  std::vector<std::string> blend, train, valid, test;
  std::string split = "99,1,0", cache, identifiers;
  uint32_t seed = 1234;
  Order order = Order::kSingle;
  double surplus = 0.005;
  bool isolate_documents = true, eod_mask_loss = false, drop_last_partial_validation = true;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("blend", self.blend, "Prefixes of .bin/.idx files, each behind its weight (\"0.3\", \"a\", \"0.7\", \"b\") or all without one. Cut by `split`.");
    visit("train", self.train, "A blend for training alone; then `blend` is empty. The same for valid and test.");
    visit("valid", self.valid, "A blend for validation alone.");
    visit("test", self.test, "A blend for `weft eval --split test` alone.");
    visit("split", self.split, "Parts of `blend` for training, validation and test.");
    visit("cache", self.cache, "Folder of the index files, with Megatron's names. Empty: beside each .bin.");
    visit("identifiers", self.identifiers, "JSON object: unique_identifiers of Megatron's tokenizer, part of the index files' names.");
    visit("seed", self.seed, "Megatron's --seed: of the order of documents and samples.");
    visit("order", self.order, "single: the samples one after another. cyclic: shuffled again in each epoch.");
    visit("surplus", self.surplus, "Share of samples that each set of a blend is given more than its weight asks for.", Range{0, 10});
    visit("isolate_documents", self.isolate_documents, "Documents of one sample do not see each other. Off: one run of tokens, as Megatron without its reset options.");
    visit("eod_mask_loss", self.eod_mask_loss, "No loss where the input is the end-of-document token.");
    visit("drop_last_partial_validation", self.drop_last_partial_validation, "The shorter sample at the end of the validation part is left out.");
  }
};

struct ChatSource {  // JSON lines, tokenized while training
  static constexpr const char* kKind = "chat";
  std::vector<std::string> train, valid;
  std::string chat_template, cache;
  int64_t align = 1, block_rows = 1024;
  int workers = 2;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("train", self.train, "Files of JSON lines: messages, conversations, instruction and output, or text.");
    visit("valid", self.valid, "The same for validation.");
    visit("chat_template", self.chat_template, "A Jinja file, or chatml. Empty: the template beside the tokenizer.");
    visit("cache", self.cache, "Folder for the number of samples of each block. Empty: counted at every start.");
    visit("align", self.align, "Every conversation begins at a multiple of this (2 * cp, times tp under sequence parallelism).", Range{1, 1 << 16});
    visit("block_rows", self.block_rows, "Rows that are packed together.", Range{1, 1 << 24});
    visit("workers", self.workers, "Threads that count samples at the start.", Range{1, 1024});
  }
};

struct TextSource {  // JSON lines, tokenized while training
  static constexpr const char* kKind = "text";
  std::vector<std::string> train, valid;
  std::string key = "text", cache;
  bool append_eod = true;
  int64_t block_rows = 1024;
  int workers = 2;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("train", self.train, "Files of JSON lines.");
    visit("valid", self.valid, "The same for validation.");
    visit("key", self.key, "Where the text is in a line.");
    visit("append_eod", self.append_eod, "End each document with the end-of-document token.");
    visit("cache", self.cache, "Folder for the number of samples of each block. Empty: counted at every start.");
    visit("block_rows", self.block_rows, "Rows that are cut into samples together.", Range{1, 1 << 24});
    visit("workers", self.workers, "Threads that count samples at the start.", Range{1, 1024});
  }
};

struct MockSource {  // made-up tokens
  static constexpr const char* kKind = "mock";
  MockConfig mock;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("vocab_size", self.mock.vocab_size, "Ids are below it.", Range{2, 1 << 24});
    visit("size", self.mock.size, "Samples of an epoch.", Range{1, 1e15});
    visit("mean", self.mock.mean, "Mean length of a document.", Range{1, 1e9}, Unit{"tokens"});
    visit("sigma", self.mock.sigma, "Spread of the lengths: standard deviation of their logarithm.", Range{0, 10});
    visit("min_length", self.mock.min_length, "Shortest document.", Range{1, 1e9}, Unit{"tokens"});
    visit("max_length", self.mock.max_length, "Longest document.", Range{1, 1e9}, Unit{"tokens"});
  }
};

using SourceConfig = std::variant<PreparedSource, MegatronSource, ChatSource, TextSource, MockSource>;

}  // namespace weft::data
