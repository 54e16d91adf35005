#include "base/signals.h"

#include <unistd.h>

#include <csignal>

#include "base/error.h"

namespace weft::signals {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};
volatile std::sig_atomic_t came = 0;
bool active = false;
struct sigaction before[3];

void on_signal(int signal) {
  if (came != 0) ::_exit(130);
  came = signal;
}

}  // namespace

Guard::Guard() {
  WEFT_CHECK(!active, "one guard at a time");
  active = true;
  came = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // reads and writes go on; loops ask requested()
  for (int i = 0; i < 3; ++i) ::sigaction(kSignals[i], &action, &before[i]);
}

Guard::~Guard() {
  for (int i = 0; i < 3; ++i) ::sigaction(kSignals[i], &before[i], nullptr);
  active = false;
}

int requested() { return came; }

const char* name(int signal) {
  switch (signal) {
    case SIGINT: return "SIGINT";
    case SIGTERM: return "SIGTERM";
    case SIGUSR1: return "SIGUSR1";
    default: return "signal";
  }
}

void ignore_broken_pipe() { ::signal(SIGPIPE, SIG_IGN); }

}  // namespace weft::signals
