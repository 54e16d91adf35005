// From text to token files: reads a corpus, makes or takes a tokenizer, writes into one folder
//   train_text_document.bin .idx .hashes   val_text_document.bin .idx .hashes   manifest.json   tokenizer.json or tokenizer.model
// and, of chat data, train_text_document.weights and val_text_document.weights (data/token_weights.h).
// The same bytes for any number of workers. A stopped run goes on where it was when started again.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/corpus.h"
#include "data/filters.h"
#include "data/row_dataset.h"

namespace weft::data {

class TextEncoder {  // what is needed of a tokenizer; const calls come from several threads at once
 public:
  virtual ~TextEncoder() = default;
  virtual void encode(std::string_view text, std::vector<int32_t>& out) const = 0;  // appends; special tokens in the text stay text
  virtual int64_t vocab_size() const = 0;
  virtual int32_t eod() const = 0;  // -1 when it has no end-of-document token
  virtual std::string file() const = 0;  // the bytes of what to keep beside the tokens
  virtual std::string file_name() const { return "tokenizer.json"; }  // its name; the other is tokenizer.model
};
using TextFeed = std::function<bool(std::string&)>;  // the next text of the training sample; false at the end
struct TokenizerMaker {
  std::string identity;  // what the result depends on besides the text: settings of the trainer, or the hash of a given file
  bool needs_text = true;
  std::function<std::unique_ptr<TextEncoder>(const TextFeed&)> make;
  std::function<std::unique_ptr<TextEncoder>(const std::string& path)> load;  // a file that an earlier run made
};

struct PrepareProgress {
  const char* stage;  // "tokenizer", "tokens"; of sources "parse" (its documents are files), "tokens", "documents" (its bytes functions)
  int64_t bytes_done, bytes_total, documents, tokens;
};
struct PrepareOptions {
  std::vector<std::string> inputs;
  std::string output;                              // a folder; made when it is not there
  std::string key = "text";                        // of JSON lines
  // Given: a JSON line or row is what this makes of it, each sequence a document with its weights, and `key` is not used.
  RowEncoder rows;
  std::string rows_identity;                       // of the tokenizer and the template behind it
  bool append_eod = false;
  bool dedup = false;                              // drop documents whose text was seen before (XXH3, 128 bits)
  int64_t min_bytes = 0, max_bytes = 0;            // filters on a document's length; 0: none
  FilterConfig filters;                            // and on what stands in it
  int64_t hold_out_every = 20;                     // 0: no validation set
  int64_t memory = int64_t{1} << 30;
  int64_t max_line_bytes = 0;                      // 0: a sixteenth of the memory
  int64_t sample_bytes = int64_t{256} << 20;       // of text that the tokenizer is trained on, spread over the corpus; at most a quarter of the memory
  int workers = 1;
  double save_every_s = 20;                        // a killed run goes on from its last state
  bool overwrite = false;                          // of other data in the folder; the same data is never made twice
  std::function<void(const PrepareProgress&)> progress;
  const std::atomic<bool>* stop = nullptr;         // set: save the state and throw Interrupted
};

struct SplitCounts { int64_t documents = 0, tokens = 0, bytes = 0, max_token = -1; };
struct PrepareReport {
  SplitCounts train, val;
  int64_t files = 0, lines = 0, empty_documents = 0, duplicates = 0, filtered = 0;
  int64_t replaced_utf8 = 0, documents_with_replacements = 0;
  std::map<std::string, int64_t> filtered_by;  // documents, by the first filter that dropped them
  std::map<std::string, int64_t> skipped;  // files of trees, by reason
  std::vector<std::string> warnings;
  bool resumed = false, reused = false;  // went on from a stopped run; everything was there already
};
// InputError (missing, empty, malformed, too long a line), ConfigError, IoError (disk full), Interrupted.
PrepareReport prepare(const PrepareOptions& options, const TokenizerMaker& maker);

// What `prepare` made, for those who read it.
struct PreparedData {
  std::string folder, train_prefix, val_prefix, tokenizer_path;  // val_prefix is empty when there is no validation set
  int64_t vocab_size = 0;
  int32_t eod = -1;
  bool append_eod = false;
  bool chat = false;       // made of rows: the sets have weights
  SplitCounts train, val;  // bytes: of the texts, for bits per byte
};
PreparedData open_prepared(const std::string& folder);  // InputError when manifest.json is missing or damaged

}  // namespace weft::data
