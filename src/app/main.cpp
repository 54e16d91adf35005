#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

#include "app/verb.h"

namespace {

// A verb that keeps state puts its own handlers in place of these (base/signals.h).
void on_interrupt(int) { ::_exit(130); }
void on_closed_pipe(int) { ::_exit(0); }  // whoever read standard output has enough

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGPIPE, on_closed_pipe);
  return weft::app::run_command_line({argv + 1, argv + argc});
}
