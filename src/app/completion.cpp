// weft completion bash|zsh|fish: a script made from the verbs' own flags.
#include <fmt/format.h>

#include "app/all_verbs.h"
#include "app/flags.h"
#include "base/error.h"
#include "base/text.h"

namespace weft::app {
namespace {

std::vector<std::string> verb_names() {
  std::vector<std::string> out;
  for (const Verb& v : verbs()) out.emplace_back(v.name);
  return out;
}

std::string bash() {
  std::string cases;
  for (const Verb& v : verbs()) cases += fmt::format("    {}) words=\"{}\" ;;\n", v.name, join(flags_of(v), " "));
  return fmt::format(R"sh(_weft() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}} words=
  if [ "$COMP_CWORD" = 1 ]; then COMPREPLY=($(compgen -W "{}" -- "$word")); return; fi
  if [ "$before" = --set ]; then COMPREPLY=($(compgen -S = -W "$("${{COMP_WORDS[0]}}" config keys 2>/dev/null)" -- "$word")); return; fi
  case $verb in
{}  esac
  [ "$verb" = help ] && words="{} settings exit-codes"
  case $word in
    -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    *) [ "$verb" = help ] && COMPREPLY=($(compgen -W "$words" -- "$word")) || COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _weft weft ./weft
)sh",
                     join(verb_names(), " "), cases, join(verb_names(), " "));
}

std::string fish() {
  std::string out = "complete -c weft -f -n __fish_use_subcommand\n";
  for (const Verb& v : verbs()) {
    out += fmt::format("complete -c weft -n __fish_use_subcommand -a {} -d '{}'\n", v.name, v.line);
    for (const std::string& flag : flags_of(v))
      out += fmt::format("complete -c weft -n '__fish_seen_subcommand_from {}' -l {}\n", v.name, flag.substr(2));
  }
  return out;
}

}  // namespace

Action completion(Flags& flags, Common&) {
  auto shell = std::make_shared<std::string>();
  flags.option("shell", *shell, "bash, zsh or fish.").required();
  flags.footer("try: source <(weft completion bash)");
  return [shell] {
    if (*shell == "bash") fmt::print("{}", bash());
    else if (*shell == "zsh") fmt::print("autoload -U +X bashcompinit && bashcompinit\n{}", bash());
    else if (*shell == "fish") fmt::print("{}", fish());
    else throw ConfigError(fmt::format("completion: got shell '{}', want bash, zsh or fish", *shell));
    return 0;
  };
}

}  // namespace weft::app
