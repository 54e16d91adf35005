// What a run of `prepare` leaves on the disk beside the tokens: the state to go on from, and the manifest.
#pragma once
#include <optional>
#include <string>

#include "base/json.h"
#include "data/indexed.h"
#include "data/prepare.h"

namespace weft::data {

struct HeldOutFile { int64_t index; std::string path; int64_t documents = 0, tokens = 0; };
struct PrepareState {
  std::string identity;  // hash of the inputs, the options that matter and the tokenizer's identity
  Position position;
  IndexedWriter::Mark train, val;
  std::vector<float> train_weights, val_weights;  // tables of data/token_weights.h
  PrepareReport report;
  std::vector<HeldOutFile> held_out;
  int64_t dedup_hashes = 0;
  std::map<std::string, int64_t> fields_found;  // that filters look at: documents that have them
  std::string tokenizer_file;                   // its name in the folder
};
std::string prepare_identity(const PrepareOptions&, const Corpus&, const std::string& tokenizer_identity);
void save_state(const std::string& path, const PrepareState&);
std::optional<PrepareState> load_state(const std::string& path);  // empty when there is none or it cannot be read

struct ManifestFacts { std::string identity; int64_t vocab_size; int32_t eod; std::string tokenizer_file, tokenizer_hash, type; HoldOut hold_out; };
Json manifest_of(const PrepareOptions&, const Corpus&, const PrepareState&, const ManifestFacts&);
PrepareReport report_of_manifest(const Json&);
std::string hex_hash(std::string_view bytes);  // XXH3, 128 bits

constexpr const char* kTokenizerNames[] = {"tokenizer.json", "tokenizer.model"};
constexpr const char* kTrainName = "train_text_document";
constexpr const char* kValName = "val_text_document";

}  // namespace weft::data
