// Arguments for each file of a C++ tree: those of compile_commands.json where there is one, else a sensible default.
#pragma once
#include <map>
#include <string>
#include <vector>

namespace weft::data {

enum class CppLanguage : uint8_t { kNone, kC, kCpp, kHeader };  // kHeader: .h, C or C++
CppLanguage cpp_language(const std::string& path);               // by its name

class CompileFlags {
 public:
  // `files`: all of the corpus. `database`: path of a compile_commands.json; empty: the first of INPUT/compile_commands.json and
  // INPUT/build*/compile_commands.json and INPUT/build*/*/compile_commands.json that exists, or none. `extra` stands behind everything else. InputError for a damaged one.
  CompileFlags(const std::vector<std::string>& inputs, const std::vector<std::string>& files, const std::string& database, std::vector<std::string> extra);
  // A file of the database: its own. Another one: those of the nearest file of the database, upwards; else the defaults
  // (-std=c++20 or c17, and -I for the tree's roots and its folders named include or src).
  std::vector<std::string> of(const std::string& path) const;
  const std::string& database() const { return database_; }  // "" when there is none
  std::string identity() const;                                // what the result depends on
  int64_t known_files() const { return static_cast<int64_t>(by_file_.size()); }

 private:
  void read_database(const std::string& path);
  std::string database_, database_hash_;
  std::vector<std::string> includes_, extra_;
  bool headers_are_c_ = false;
  std::map<std::string, std::vector<std::string>> by_file_, by_folder_;  // absolute normal paths
};

std::vector<std::string> split_command(const std::string& command);  // as a shell does: quotes and backslashes

}  // namespace weft::data
