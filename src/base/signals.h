// SIGINT, SIGTERM and SIGUSR1 as a wish to stop, asked for between steps. A second one ends the process at once with 130.
#pragma once

namespace weft::signals {

class Guard {  // one at a time; restores what was there before
 public:
  Guard();
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
};

int requested();          // the signal that came since the guard was made, or 0
const char* name(int signal);  // "SIGTERM"
void ignore_broken_pipe();     // writes to a closed pipe fail with EPIPE instead of killing

}  // namespace weft::signals
