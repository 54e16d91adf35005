// What a person reads while the program works, on standard error: lines, and one progress line that a terminal redraws.
// Libraries do not log what they throw. Thread-safe. Colours on a terminal, unless NO_COLOR is set or TERM is "dumb".
#pragma once
#include <string>
#include <string_view>

namespace weft::log {

enum class Colour { kNone, kRed, kGreen, kYellow, kBlue, kDim, kBold };

void info(std::string_view line);
void warn(std::string_view line);  // "warning: ..." and counted
int warnings();

// A terminal: replaces the line drawn before. Elsewhere: prints it at most every `plain_every_s` seconds.
// `important` lines (the last step, an evaluation) are always kept.
void progress(std::string_view line, bool important = false);
void set_plain_interval(double seconds);  // default 10
void end_progress();                      // leaves the last line standing

bool is_terminal(int fd);  // and not "dumb"
bool colours(int fd);
std::string paint(std::string_view text, Colour colour, int fd = 2);  // unchanged where there are no colours

}  // namespace weft::log
