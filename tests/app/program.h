// Runs the program as a user does.
#pragma once
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace weft {

// A shell command in `folder`, $weft is the program; output goes to the files out and err there. The code it ended with, or 1000 + the
// signal.
inline int run_program(const std::filesystem::path& folder, const std::string& command) {
  const std::string full = "cd " + folder.string() + " && weft=" WEFT_BINARY_DIR "/weft && { " + command + "; } >out 2>err </dev/null";
  const int status = std::system(full.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

}  // namespace weft
