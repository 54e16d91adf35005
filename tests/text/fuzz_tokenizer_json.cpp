// Any bytes as a tokenizer.json: refused with InputError or UnsupportedError, or a tokenizer whose ids are in range, whose
// offsets lie in the text and whose decoder agrees with itself id by id.
#include <cstdlib>

#include "base/error.h"
#include "text/tokenizer.h"

namespace {
const char* const kTexts[] = {"", " ", "the cat, the HAT!\n 12\t\xC3\xA9", "<s>a\xE2\x96\x81\xFF\xF0\x9F\x98\x80</s>", "\xE4\xB8\xAD\xE6\x96\x87  x"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace weft;
  try {
    const text::Tokenizer t = text::Tokenizer::from_json({reinterpret_cast<const char*>(bytes), size}, "fuzz");
    for (const char* text : kTexts) {
      for (const bool special : {false, true}) {
        const text::Encoding e = t.encode_with_offsets(text, {special, special});
        if (e.ids != t.encode(text, {special, special}) || e.offsets.size() != e.ids.size()) std::abort();
        text::StreamDecoder stream(t);
        std::string parts;
        for (size_t i = 0; i < e.ids.size(); ++i) {
          if (e.ids[i] < 0 || e.ids[i] >= t.vocab_size() || e.offsets[i].begin > e.offsets[i].end || e.offsets[i].end > std::char_traits<char>::length(text)) std::abort();
          parts += stream.push(e.ids[i]);
        }
        if (parts + stream.finish() != t.decode(e.ids)) std::abort();
      }
    }
    text::Tokenizer::from_json(t.to_json(), "written again");
  } catch (const InputError&) {
  } catch (const UnsupportedError&) {
  }
  return 0;
}
