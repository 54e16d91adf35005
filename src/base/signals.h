// SIGINT, SIGTERM and SIGUSR1 as a wish to stop, asked for between steps. A second one ends the process at once with 130.
#pragma once
#include <atomic>

namespace weft::signals {

class Guard {  // one at a time; restores what was there before. While it stands a closed pipe gives EPIPE and does not kill
 public:
  Guard();
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
};

int requested();          // the signal that came since the guard was made, or 0
const std::atomic<bool>& stop_flag();  // the same as a flag, for loops of other folders
const char* name(int signal);          // "SIGTERM"

}  // namespace weft::signals
