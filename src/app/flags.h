// The flags and words of a verb, and where their values go. The parser's own header takes seconds to compile and stays in flags.cpp and
// command_line.cpp. A value that breaks a rule is refused with the flag's name before the verb runs.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}

namespace weft::app {

class Flag {  // one that was declared; every call returns it
 public:
  Flag(CLI::App& app, CLI::Option& option) : app_(&app), option_(&option) {}
  Flag& required();
  Flag& range(int64_t low, int64_t high);  // inclusive
  Flag& positive();
  Flag& non_negative();
  Flag& existing_file();
  Flag& one_of(std::initializer_list<const char*> words);
  Flag& value_name(const char* name);  // "FILE", in help
  Flag& words(int least, int most);    // of a list without a name
  Flag& part(const char* name);        // of the verb: shown by `weft help VERB NAME` only
  Flag& one_each();                    // a list: --flag A --flag B, never --flag A B
  Flag& needs(const Flag& other);
  Flag& excludes(std::initializer_list<const char*> others);  // those of them that the verb has declared before

 private:
  CLI::App* app_;
  CLI::Option* option_;
};

class Flags {
 public:
  explicit Flags(CLI::App& app) : app_(&app) {}
  // `name`: "--long", "-s,--long", or "word" for one without a name. `value` outlives the parse and holds the default.
  Flag option(const char* name, std::string& value, const char* help);
  Flag option(const char* name, std::vector<std::string>& value, const char* help);
  Flag option(const char* name, int& value, const char* help);
  Flag option(const char* name, int64_t& value, const char* help);
  Flag option(const char* name, uint64_t& value, const char* help);
  Flag option(const char* name, double& value, const char* help);
  Flag flag(const char* name, bool& value, const char* help);
  void footer(const char* text);
  Flags subcommand(const char* name, const char* help);
  bool has(const char* subcommand) const;  // after the parse: it was called

 private:
  CLI::App* app_;
};

}  // namespace weft::app
