#include "base/log.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace weft::log {
namespace {

using Clock = std::chrono::steady_clock;

struct Screen {
  std::mutex mutex;
  std::string drawn;    // the progress line that stands on the terminal
  std::string waiting;  // one that was not printed yet, elsewhere
  Clock::time_point last{};
  double interval_s = 10;
  int warnings = 0;
};

Screen& screen() {
  static Screen s;
  return s;
}

void put(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(2, text.data(), text.size());
    if (n <= 0) return;  // nobody listens
    text.remove_prefix(static_cast<size_t>(n));
  }
}

size_t width() {
  winsize size{};
  return ::ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > 10 ? size.ws_col : 80;
}

void put_line(Screen& s, std::string_view line) {  // above the progress line
  std::string out = s.drawn.empty() ? "" : "\r\033[K";
  out.append(line).append("\n").append(s.drawn);
  put(out);
}

}  // namespace

bool is_terminal(int fd) {
  const char* term = std::getenv("TERM");
  return ::isatty(fd) == 1 && (term == nullptr || std::strcmp(term, "dumb") != 0);
}

bool colours(int fd) {
  const char* off = std::getenv("NO_COLOR");
  return is_terminal(fd) && (off == nullptr || *off == '\0');
}

std::string paint(std::string_view text, Colour colour, int fd) {
  static constexpr const char* codes[] = {"", "31", "32", "33", "34", "2", "1"};
  if (colour == Colour::kNone || !colours(fd)) return std::string(text);
  return "\033[" + std::string(codes[static_cast<int>(colour)]) + "m" + std::string(text) + "\033[0m";
}

void info(std::string_view line) {
  Screen& s = screen();
  const std::lock_guard lock(s.mutex);
  put_line(s, line);
}

void warn(std::string_view line) {
  Screen& s = screen();
  const std::lock_guard lock(s.mutex);
  ++s.warnings;
  put_line(s, paint("warning:", Colour::kYellow) + " " + std::string(line));
}

int warnings() {
  Screen& s = screen();
  const std::lock_guard lock(s.mutex);
  return s.warnings;
}

void progress(std::string_view line, bool important) {
  Screen& s = screen();
  const std::lock_guard lock(s.mutex);
  if (is_terminal(2)) {
    const size_t room = width() - 1;
    const std::string shown(line.substr(0, room));
    put("\r\033[K" + shown + (important ? "\n" : ""));
    s.drawn = important ? "" : shown;
    return;
  }
  const auto now = Clock::now();
  if (!important && s.last != Clock::time_point{} && std::chrono::duration<double>(now - s.last).count() < s.interval_s) {
    s.waiting = line;
    return;
  }
  s.last = now;
  s.waiting.clear();
  put(std::string(line) + "\n");
}

void set_plain_interval(double seconds) {
  Screen& s = screen();
  const std::lock_guard lock(s.mutex);
  s.interval_s = seconds;
}

void end_progress() {
  Screen& s = screen();
  const std::lock_guard lock(s.mutex);
  if (!s.drawn.empty()) put("\n");
  if (!s.waiting.empty()) put(s.waiting + "\n");
  s.drawn.clear();
  s.waiting.clear();
  s.last = {};
}

}  // namespace weft::log
