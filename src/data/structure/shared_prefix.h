// Headers that compile commands include ahead of every file (-include, as CMake's precompiled headers do) are parsed once for all
// files with equal arguments, bodies of functions in them left out: a file behind ATen takes 1 s, not 10.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "data/structure/clang_library.h"

namespace weft::data {

struct Prefixed {
  std::vector<std::string> arguments;  // for read_cpp
  bool shared = false;                 // they name a precompiled prefix
  int32_t errors = 0;                  // in the prefix, which a file's own diagnostics then leave out
  std::string first_error;
};

class SharedPrefixes {
 public:
  // `folder` holds what is made, and goes with this object.
  SharedPrefixes(const clang::Library&, std::string folder);
  ~SharedPrefixes();
  SharedPrefixes(const SharedPrefixes&) = delete;
  SharedPrefixes& operator=(const SharedPrefixes&) = delete;
  // From the second call with equal arguments on; as they were where they force no include, or where libclang makes no prefix of
  // them. Calls from several threads are fine.
  Prefixed of(const std::vector<std::string>& arguments);

 private:
  struct Prefix {
    std::string name;  // of its files
    std::mutex making;
    int uses = 0;
    bool tried = false;
    std::string path;  // empty: could not be made
    int32_t errors = 0;
    std::string first_error;
  };
  void make(Prefix&, const std::vector<std::string>& rest, const std::vector<std::string>& headers) const;

  const clang::Library& lib_;
  std::string folder_;
  std::mutex lock_;
  std::map<std::vector<std::string>, std::unique_ptr<Prefix>> all_;
};

}  // namespace weft::data
