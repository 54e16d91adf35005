// What a verb of the command line is: a name, one line, and a function that declares its flags and returns what to run.
// A verb throws typed errors; exit_codes.h turns them into codes. Its own code is what the action returns, normally 0.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"

namespace weft::app {

class Flags;  // app/flags.h

struct Common {  // flags that several verbs share, filled when the command line is parsed
  int threads = 0;              // 0: as many as the affinity mask and the cgroup allow
  std::string device = "auto";  // auto | cpu | cuda | cuda:N
  std::string json;             // file for the figures, "-" for standard output, "" for none
};

using Action = std::function<int()>;
struct Verb {
  const char *name, *line;
  Action (*declare)(Flags&, Common&);
};
std::span<const Verb> verbs();  // verbs.cpp: the table, in the order of `weft help`

void add_compute_flags(Flags&, Common&);  // --threads, --device
void add_json_flag(Flags&, Common&);      // --json FILE
void add_set_flag(Flags&, std::vector<std::string>& assignments);  // --set KEY=VALUE, several times

// To be called by an action of a verb with compute flags, before the first tensor. Returns "cpu" or "cuda:N".
// UnavailableError when the device that was asked for is not there.
std::string use_device(const Common&);
void write_figures(const Common&, const Json& figures);  // does nothing without --json

int run_command_line(std::vector<std::string> arguments);  // without argv[0]; the exit code, for any input
std::string help_text(const std::string& verb, const std::string& part = "");  // `weft help bench train`; ConfigError for an unknown one
std::vector<std::string> flags_of(const Verb&);            // "--threads", for completion

}  // namespace weft::app
