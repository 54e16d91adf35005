// Parses the command line, runs a verb, and turns whatever goes wrong into one message and one code.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "app/exit_codes.h"
#include "app/flags.h"
#include "app/verb.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"

namespace weft::app {
namespace {

const Verb& find_verb(const std::string& name) {
  std::vector<std::string> names;
  for (const Verb& v : verbs()) {
    if (name == v.name) return v;
    names.emplace_back(v.name);
  }
  const std::string near = nearest(name, names);
  throw ConfigError(fmt::format("unknown verb '{}'{}\n  try: weft help", name, near.empty() ? "" : ": did you mean " + near + "?"));
}

constexpr const char* kShown = "Options";  // the group of flags that stand in a verb's help; others are parts with a help of their own

class HelpFormat final : public CLI::Formatter {  // "--threads INT (0)" and the meaning: ranges are said when they are broken
  std::string make_group(std::string group, bool positional, std::vector<const CLI::Option*> options) const override {
    return positional || group == kShown ? CLI::Formatter::make_group(group, positional, options) : "";
  }

 public:
  std::string part(const std::string& group, std::vector<const CLI::Option*> options) const { return CLI::Formatter::make_group(group, false, std::move(options)).substr(1); }

 private:
  std::string make_option_opts(const CLI::Option* o) const override {
    std::string out = o->get_type_size() == 0 ? "" : " " + o->get_type_name().substr(0, o->get_type_name().find(':'));
    if (!o->get_default_str().empty() && o->get_type_size() != 0) out += " (" + o->get_default_str() + ")";
    return out + (o->get_required() && !o->get_positional() ? " REQUIRED" : "");
  }
};

std::unique_ptr<CLI::App> make_app(const Verb& verb) {
  auto app = std::make_unique<CLI::App>(verb.line, std::string("weft ") + verb.name);
  app->formatter(std::make_shared<HelpFormat>());
  app->get_formatter()->column_width(30);
  app->set_help_flag("-h,--help", "This text.");
  app->option_defaults()->always_capture_default();
  return app;
}

std::vector<std::string> hidden_groups(const CLI::App& app) {
  std::vector<std::string> out = app.get_groups();
  std::erase_if(out, [](const std::string& g) { return g.empty() || g == kShown; });
  return out;
}

std::string help_of(const CLI::App& app, const Verb& verb) {
  std::string text = app.help();
  for (size_t at = 0; (at = text.find("\n\n\n", at)) != std::string::npos;) text.erase(at, 1);
  const std::vector<std::string> parts = hidden_groups(app);
  return parts.empty() ? text : text + fmt::format("more flags: weft help {} {}\n", verb.name, join(parts, "|"));
}

std::vector<std::string> long_flags(const CLI::App& app) {  // of its parts too, each once
  std::vector<std::string> out;
  for (const CLI::Option* o : app.get_options())
    for (const std::string& name : o->get_lnames()) out.push_back("--" + name);
  for (const CLI::App* part : app.get_subcommands({}))
    for (const std::string& flag : long_flags(*part))
      if (std::find(out.begin(), out.end(), flag) == out.end()) out.push_back(flag);
  return out;
}

[[noreturn]] void refuse_extras(const CLI::App& app, const Verb& verb) {
  std::string text;
  std::vector<std::string> words = app.remaining(true);
  const auto is_flag = [](const std::string& w) { return w.starts_with("-"); };
  if (std::any_of(words.begin(), words.end(), is_flag)) std::erase_if(words, std::not_fn(is_flag));  // the rest may be their values
  for (const std::string& word : words) {
    const std::string flag = word.substr(0, word.find('='));
    const std::string near = flag.starts_with("-") ? nearest(flag, long_flags(app)) : "";
    text += fmt::format("{}{}: {}{}", text.empty() ? "" : "\n", verb.name,
                        flag.starts_with("-") ? "unknown flag " + flag : "unexpected argument '" + word + "'",
                        near.empty() ? "" : ": did you mean " + near + "?");
  }
  throw ConfigError(fmt::format("{}\n  try: weft help {}", text, verb.name));
}

int run_verb(const Verb& verb, std::vector<std::string> arguments) {
  Common common;
  const auto app = make_app(verb);
  Flags flags(*app);
  const Action action = verb.declare(flags, common);
  try {
    std::reverse(arguments.begin(), arguments.end());  // the parser takes them from the back
    app->parse(arguments);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", help_of(*app, verb));
    return 0;
  } catch (const CLI::ExtrasError&) {
    refuse_extras(*app, verb);
  } catch (const CLI::ParseError& e) {
    throw ConfigError(fmt::format("{}: {}\n  try: weft help {}", verb.name, e.what(), verb.name));
  }
  return action();
}

std::string first_line(std::string text) {  // the tensor library's messages carry a stack trace
  return text.substr(0, text.find("\nException raised from"));
}

}  // namespace

std::string help_text(const std::string& name, const std::string& part) {
  const Verb& verb = find_verb(name);
  Common common;
  const auto app = make_app(verb);
  Flags flags(*app);
  verb.declare(flags, common);
  if (part.empty()) return help_of(*app, verb);
  std::vector<std::string> parts = hidden_groups(*app);
  if (std::find(parts.begin(), parts.end(), part) != parts.end()) {
    const auto of_part = [&](const CLI::Option* o) { return o->get_group() == part; };
    return dynamic_cast<const HelpFormat&>(*app->get_formatter()).part(part, std::as_const(*app).get_options(of_part));
  }
  for (CLI::App* p : app->get_subcommands({})) {
    if (p->get_name() == part) return p->help(app->get_name());
    parts.push_back(p->get_name());
  }
  if (parts.empty()) throw ConfigError(fmt::format("help: {} has no parts: got '{}'", name, part));
  throw ConfigError(fmt::format("help: {}: got '{}', want {}", name, part, join(parts, " or ")));
}

std::vector<std::string> flags_of(const Verb& verb) {
  Common common;
  const auto app = make_app(verb);
  Flags flags(*app);
  verb.declare(flags, common);
  return long_flags(*app);
}

int run_command_line(std::vector<std::string> arguments) {
  try {
    if (arguments.empty()) arguments = {"help"};
    std::string& first = arguments[0];
    if (first == "-h" || first == "--help") first = "help";
    if (first == "-v" || first == "--version") first = "version";
    if (first.starts_with("-")) throw ConfigError(fmt::format("got flag {} before a verb\n  try: weft help", first));
    const Verb& verb = find_verb(first);
    arguments.erase(arguments.begin());
    const int code = run_verb(verb, std::move(arguments));
    std::fflush(stdout);
    return code;
  } catch (const std::exception& e) {
    std::fflush(stdout);
    log::end_progress();
    log::info(log::paint("error:", log::Colour::kRed) + " " + first_line(e.what()));
    return exit_code(e);
  }
}

}  // namespace weft::app
