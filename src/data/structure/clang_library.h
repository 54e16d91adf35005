// libclang, opened at run time: the program starts and works without it; only `prepare --structure` asks for it.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/structure/clang_abi.h"

namespace weft::data::clang {

class Library {  // calls from several threads at once are fine, each on its own Index
 public:
  // $WEFT_LIBCLANG (a path) when it is set, and nothing else then; else the usual names, newest first. UnavailableError with the
  // package to install when there is none, or when the one found lacks a function (older than LLVM 9).
  static std::shared_ptr<const Library> open();
  const std::string& path() const { return path_; }
  const std::string& version() const { return version_; }  // as the library writes it
  // Arguments with which `#include <stddef.h>` is found: none when the library knows its own headers; else those of another
  // compiler on the machine. Empty and `*found` false when there are none at all.
  std::vector<std::string> header_arguments(bool* found) const;
  std::string text(String) const;  // takes it
  std::pair<int32_t, std::string> errors(Unit) const;  // diagnostics of severity error or above: how many, the first's text

#define X(name, result, parameters) result (*name) parameters = nullptr;
  WEFT_CLANG_FUNCTIONS(X)
#undef X

 private:
  bool finds_headers(const std::vector<std::string>& arguments) const;
  std::string path_, version_;
};

}  // namespace weft::data::clang
