#include "base/signals.h"

#include <unistd.h>

#include <csignal>

#include "base/error.h"

namespace weft::signals {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};
volatile std::sig_atomic_t came = 0;
std::atomic<bool> stop{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // may be written by a handler
bool active = false;
struct sigaction before[3], pipe_before;

void on_signal(int signal) {
  if (came != 0) ::_exit(130);
  came = signal;
  stop = true;
}

}  // namespace

Guard::Guard() {
  WEFT_CHECK(!active, "one guard at a time");
  active = true;
  came = 0;
  stop = false;
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // reads and writes go on; loops ask requested()
  for (int i = 0; i < 3; ++i) ::sigaction(kSignals[i], &action, &before[i]);
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &action, &pipe_before);
}

Guard::~Guard() {
  for (int i = 0; i < 3; ++i) ::sigaction(kSignals[i], &before[i], nullptr);
  ::sigaction(SIGPIPE, &pipe_before, nullptr);
  active = false;
}

int requested() { return came; }

const std::atomic<bool>& stop_flag() { return stop; }

const char* name(int signal) {
  switch (signal) {
    case SIGINT: return "SIGINT";
    case SIGTERM: return "SIGTERM";
    case SIGUSR1: return "SIGUSR1";
    default: return "signal";
  }
}

}  // namespace weft::signals
