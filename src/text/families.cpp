// How the families of byte-level models split text. The patterns are their published ones.
#include "text/build.h"
#include "text/bpe_train.h"

namespace weft::text {
namespace {

const char* const kContractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";

Json split(const std::string& pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}
Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}
Json digits(bool individual) { return {{"type", "Digits"}, {"individual_digits", individual}}; }
Json sequence(std::vector<Json> rules) { return {{"type", "Sequence"}, {"pretokenizers", rules}}; }

// Letters as one run, digits `number` at a time, then marks and white space.
std::string plain(const std::string& number, const std::string& letters = "\\p{L}", const std::string& not_mark = "\\s\\p{L}\\p{N}") {
  return std::string(kContractions) + "|[^\\r\\n\\p{L}\\p{N}]?" + (letters.size() > 5 ? "[" + letters + "]" : letters) + "+|" + number + "| ?[^" + not_mark +
         "]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
}
// Words as capitals then small letters.
std::string cased(const std::string& contractions, const std::string& number) {
  const std::string upper = "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}", lower = "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}", lead = "[^\\r\\n\\p{L}\\p{N}]?";
  return lead + "[" + upper + "]*[" + lower + "]+" + contractions + "|" + lead + "[" + upper + "]+[" + lower + "]*" + contractions + "|" + number +
         "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
}

const char* const kLlmLetters =
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386"
    "\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184"
    "\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+";
const char* const kLlmMarks = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+";
const char* const kCjk = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

}  // namespace

Json pre_tokenizer_named(const std::string& name) {
  const auto is = [&](std::initializer_list<const char*> names) {
    for (const char* n : names) {
      if (name == n) return true;
    }
    return false;
  };
  if (is({"gpt-2", "gpt2", "default", "mpt", "gpt-neox", "olmo", "jais", "phi-2", "r50k_base", "p50k_base", "granite-docling", "trillion"})) return byte_level(true);
  if (is({"llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe", "cl100k_base", "falcon3", "pixtral"})) return sequence({split(plain("\\p{N}{1,3}")), byte_level(false)});
  if (is({"qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "megrez", "solar-open"})) return sequence({split(plain("\\p{N}")), byte_level(false)});
  if (is({"qwen35"})) return sequence({split(plain("\\p{N}", "\\p{L}\\p{M}", "\\s\\p{L}\\p{M}\\p{N}")), byte_level(false)});
  if (is({"o200k_base", "gpt-4o", "llama4", "minimax-m2"})) return sequence({split(cased(std::string(kContractions) + "?", "\\p{N}{1,3}")), byte_level(false)});
  if (is({"tekken"})) return sequence({split(cased("", "\\p{N}")), byte_level(false)});
  if (is({"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"})) return sequence({digits(true), byte_level(true)});
  if (is({"falcon"})) {
    return sequence({{{"type", "Punctuation"}, {"behavior", "Contiguous"}}, byte_level(true), digits(false), split("[0-9][0-9][0-9]")});
  }
  if (is({"deepseek-coder"})) {
    return sequence({split("[\r\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"), split(kCjk), digits(true), byte_level(false)});
  }
  if (is({"deepseek-llm"})) {
    return sequence({split("[\r\n]"), split(kLlmLetters), split(kLlmMarks), split("\\s+$"), split(kCjk), digits(true), byte_level(false)});
  }
  if (is({"deepseek-v3", "hunyuan-dense"})) {
    return sequence({split("\\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                     split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
                     byte_level(false)});
  }
  return Json();
}

}  // namespace weft::text
