// Text to token ids and back, for every vocabulary that models are shipped with.
//
// Goals: the same ids as the library that a vocabulary was made for; speed; bounded work on any input; no torch.
// A Tokenizer never changes after loading and may be used by many threads at once.
// Text is UTF-8. Bytes that are not are kept by byte-level vocabularies (token_bytes gives them back); to every rule they count as
// U+FFFD, and where the text has to be rewritten (normalizers, other vocabularies) they become U+FFFD.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/added.h"

namespace weft::text {

struct EncodeOptions {
  bool parse_special = false;  // special tokens written in the text become their ids; off: they are plain text
  bool add_special = false;    // put in what the model wants around a text (bos, eos, [CLS] ...)
};
struct ByteRange {
  size_t begin, end;
};
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<ByteRange> offsets;        // of each id in the text; {0, 0} for ids that the post-processor put in
  std::vector<uint8_t> from_post;        // 1 for ids that the post-processor put in
};

class Tokenizer {
 public:
  // A file (tokenizer.json, tokenizer.model, tekken.json, *.tiktoken, *.gguf, vocab.txt, vocab.json with merges.txt beside
  // it) or a folder that holds one. Throws InputError with file and rule.
  static Tokenizer load(const std::string& path);
  // The text of a tokenizer.json; `where` names it in errors.
  static Tokenizer from_json(std::string_view json, const std::string& where = "tokenizer.json");
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  std::vector<int32_t> encode(std::string_view text, EncodeOptions = {}) const;
  void encode_append(std::string_view text, EncodeOptions, std::vector<int32_t>& out) const;
  Encoding encode_with_offsets(std::string_view text, EncodeOptions = {}) const;
  // Many texts on `threads` threads (0: one a core); the result does not depend on their number.
  std::vector<std::vector<int32_t>> encode_batch(std::span<const std::string_view> texts, EncodeOptions = {}, int threads = 0) const;

  // Ids that the vocabulary does not have are left out, as upstream does.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  int32_t vocab_size() const;  // highest id + 1, added tokens included
  bool has(int32_t id) const;
  std::string token_bytes(int32_t id) const;  // the bytes that the id stands for in a text; the content of an added token
  std::string token_text(int32_t id) const;   // as the vocabulary writes it ("\u0120the", "\u2581the", "##ing")
  int32_t id_of(std::string_view token_text) const;  // -1 when there is none
  bool is_special(int32_t id) const;
  const std::vector<AddedToken>& added_tokens() const;  // by id
  // Ids by their role, from the file or by their usual names; -1 when there is none.
  int32_t bos_id() const;
  int32_t eos_id() const;
  int32_t pad_id() const;
  int32_t unknown_id() const;
  // XXH3-128 of vocabulary, merges, scores, added tokens and rules, as 32 hexadecimal digits.
  std::string content_hash() const;
  std::string to_json() const;  // a tokenizer.json that Hugging Face loads; UnsupportedError of SentencePiece's own formats, which have no exact form there
  void save(const std::string& path) const;
  // What to write beside data and models, so that load() gives this tokenizer again: tokenizer.json, or tokenizer.model of SentencePiece.
  struct File { std::string name, bytes; };
  File to_file() const;
  // The file that load(folder) reads: "" when there is none.
  static std::string find_in(const std::string& folder);

  struct State;

 private:
  friend class StreamDecoder;
  std::string decode_from(std::span<const int32_t> ids, bool skip_special, bool begins) const;  // `begins`: there is no text before
  friend struct Build;
  explicit Tokenizer(std::shared_ptr<const State>);
  std::shared_ptr<const State> state_;
};

// Decodes ids one by one. What push() returns is whole UTF-8 characters that no later id can change; all returns together
// equal decode() of all ids. Holds a reference to its tokenizer's tables.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer&, bool skip_special = false);
  std::string push(int32_t id);
  std::string finish();  // what is left; an unfinished character becomes U+FFFD

 private:
  Tokenizer tokenizer_;  // shares its tables
  bool skip_special_, bytes_, byte_runs_, begins_ = true;
  std::string pending_;       // byte-level: an unfinished character
  std::vector<int32_t> ids_;  // others: one id of context (none before the first text), then those whose text may still change
  std::string context_;       // the text of the context alone
};

}  // namespace weft::text
