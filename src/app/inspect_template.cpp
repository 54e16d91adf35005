// weft inspect template DIR --messages F: renders a model's chat template.
#include <fmt/format.h>

#include <iostream>
#include <iterator>

#include "app/flags.h"
#include "app/inspect_parts.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "text/chat_folder.h"

namespace weft::app {
namespace {

struct Options {
  std::string path, messages, tools, name;
  bool prompt = false;
};

Json read_input(const std::string& file) {
  if (file != "-") return parse_json(read_file(file), file);
  return parse_json(std::string(std::istreambuf_iterator<char>(std::cin), {}), "standard input");
}

// The members of an object go to the template as they are; a list is the messages.
Json variables_of(const Options& o, const Json& tokens) {
  Json variables = tokens;
  for (const char* name : {"tools", "documents"}) variables[name] = nullptr;
  variables["add_generation_prompt"] = false;
  const Json given = read_input(o.messages);
  if (given.is_array()) variables["messages"] = given;
  else if (given.is_object() && given.contains("messages")) variables.update(given);
  else throw InputError(fmt::format("{}: got {}, want a list of messages, or an object with \"messages\"", o.messages, given.is_object() ? "an object without messages" : given.type_name()));
  if (!o.tools.empty()) variables["tools"] = read_input(o.tools);
  if (o.prompt) variables["add_generation_prompt"] = true;
  return variables;
}

// The text with what the assistant says in green, where the template marks it.
void print_text(const text::RenderedChat& chat) {
  size_t at = 0;
  for (const auto& r : chat.generated) {
    fmt::print("{}{}", chat.text.substr(at, r.begin - at), log::paint(chat.text.substr(r.begin, r.end - r.begin), log::Colour::kGreen, 1));
    at = r.end;
  }
  fmt::print("{}\n", chat.text.substr(at));
}

int run(const Options& o, const Common& common) {
  if (o.messages == "-" && o.tools == "-") throw ConfigError("--messages and --tools: only one of them can be standard input");
  const text::ChatFolder folder = text::load_chat_folder(o.path, o.name);
  const text::RenderedChat chat = folder.chat_template.render(variables_of(o, folder.variables));
  Json ranges = Json::array();
  for (const auto& r : chat.generated) ranges.push_back({r.begin, r.end});
  if (common.json != "-") print_text(chat);
  write_figures(common, {{"text", chat.text}, {"generated", ranges}});
  return 0;
}

}  // namespace

Action inspect_template(Flags& inspect, Common& common) {
  auto o = std::make_shared<Options>();
  Flags flags = inspect.subcommand("template", "render a chat template");
  flags.option("path", o->path, "A model's folder, its tokenizer_config.json or a template file.").required();
  flags.option("--messages", o->messages, "A JSON file with messages, or with an object of the template's variables; - is standard input.").required();
  flags.option("--tools", o->tools, "A JSON file with tools.");
  flags.option("--name", o->name, "Which one, where the folder has several.");
  flags.flag("--prompt", o->prompt, "End with the start of the assistant's answer.");
  add_json_flag(flags, common);
  flags.footer("JSON keys: text, and generated: byte ranges of what the assistant says, where the template marks it.");
  return [o, &common] { return run(*o, common); };
}

}  // namespace weft::app
