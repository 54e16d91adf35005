// Any bytes as a SentencePiece model (protobuf), and as a GGUF vocabulary where they begin so: refused with InputError, or a
// tokenizer whose ids are in range.
#include <cstdlib>

#include "base/error.h"
#include "text/build.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace weft;
  const std::string_view content(reinterpret_cast<const char*>(bytes), size);
  try {
    const text::Tokenizer t = content.starts_with("GGUF") ? text::read_gguf(content, "fuzz") : text::read_sentence_piece(content, "fuzz");
    for (const char* text : {"", " a  b ", "<s>\xE2\x96\x81\xFF\xF0\x9F\x98\x80 the"}) {
      const std::vector<int32_t> ids = t.encode(text);
      for (const int32_t id : ids) {
        if (id < 0 || id >= t.vocab_size()) std::abort();
      }
      t.decode(ids);
    }
  } catch (const InputError&) {
  }
  return 0;
}
