// One table: what an error means to the caller of the program.
#pragma once
#include <exception>
#include <span>

namespace weft::app {

struct ExitCode {
  int code;
  const char *error, *meaning;
  bool (*matches)(const std::exception&);
};
std::span<const ExitCode> exit_codes();        // every type of base/error.h, then bad_alloc
int exit_code(const std::exception& error);    // 70 for what is not in the table

}  // namespace weft::app
