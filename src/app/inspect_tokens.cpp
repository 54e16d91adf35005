// weft inspect tokens --tokenizer T: lines of standard input to lists of token ids, and back.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "app/flags.h"
#include "app/inspect_parts.h"
#include "base/error.h"
#include "base/log.h"
#include "text/json_read.h"
#include "text/tokenizer.h"

namespace weft::app {
namespace {

struct Options {
  std::string tokenizer;
  bool decode = false, special = false, add_special = false, json_lines = false;
};

void write_line(std::string_view line) {
  if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fputc('\n', stdout) == EOF) throw IoError("standard output: cannot write");
}

std::string encoded(const text::Tokenizer& t, std::string_view line, const std::string& where, const Options& o) {
  const text::EncodeOptions options{o.special, o.add_special};
  std::vector<int32_t> ids;
  if (o.json_lines) {
    const text::Json value = text::read_json(line, where);
    if (!value.is_string()) throw InputError(fmt::format("{}: got {}, want a JSON string", where, value.type_name()));
    ids = t.encode(value.get_ref<const std::string&>(), options);
  } else {
    ids = t.encode(line, options);
  }
  return fmt::format("[{}]", fmt::join(ids, ","));
}

std::string decoded(const text::Tokenizer& t, std::string_view line, const std::string& where, const Options& o) {
  const text::Json value = text::read_json(line, where);
  if (!value.is_array()) throw InputError(fmt::format("{}: got {}, want a list of token ids", where, value.type_name()));
  std::vector<int32_t> ids;
  for (const text::Json& id : value) {
    if (!id.is_number_integer() || id < 0 || id >= t.vocab_size() || !t.has(id.get<int32_t>()))
      throw InputError(fmt::format("{}: got {}, want a token id of this vocabulary, 0 to {}", where, id.dump(), t.vocab_size() - 1));
    ids.push_back(id.get<int32_t>());
  }
  const std::string text = t.decode(ids);
  return o.json_lines ? text::Json(text).dump() : text;
}

int run(const Options& o) {
  const text::Tokenizer t = text::Tokenizer::load(o.tokenizer);
  const bool live = ::isatty(0) != 0;
  if (live) log::info("one text a line; end with ctrl-D");
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    const std::string where = fmt::format("standard input: line {}", number);
    write_line(o.decode ? decoded(t, line, where, o) : encoded(t, line, where, o));
    if (live) std::fflush(stdout);
  }
  if (std::cin.bad()) throw IoError("standard input: cannot read");
  return 0;
}

}  // namespace

Action inspect_tokens(Flags& inspect, Common&) {
  auto o = std::make_shared<Options>();
  Flags flags = inspect.subcommand("tokens", "lines of standard input to lists of token ids, and back");
  flags.option("--tokenizer", o->tokenizer, "A tokenizer.json, tokenizer.model, tekken.json, .tiktoken, .gguf, vocab.txt, or a folder with one.").required();
  flags.flag("--decode", o->decode, "Lists of ids to text.");
  flags.flag("--special", o->special, "Special tokens written in the text become their ids; else they are plain text.");
  flags.flag("--add-special", o->add_special, "Put in what the model wants around a text, such as its first token.");
  flags.flag("--json-lines", o->json_lines, "Each text is a JSON string, so that it can hold line ends.");
  flags.footer("A list a line for each line. A line that is wrong ends it with code 65 and names the line.");
  return [o] { return run(*o); };
}

}  // namespace weft::app
