#include "data/structure/shared_prefix.h"

#include <filesystem>
#include <tuple>

#include "base/files.h"

namespace weft::data {

using namespace clang;

SharedPrefixes::SharedPrefixes(const Library& lib, std::string folder) : lib_(lib), folder_(std::move(folder)) {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);  // of a run that was killed
}

SharedPrefixes::~SharedPrefixes() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

Prefixed SharedPrefixes::of(const std::vector<std::string>& arguments) {
  // compile_flags.h writes a forced include as -Xclang -include -Xclang FILE.
  std::vector<std::string> rest, headers;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (i + 3 < arguments.size() && arguments[i] == "-Xclang" && arguments[i + 1] == "-include") headers.push_back(arguments[i += 3]);
    else rest.push_back(arguments[i]);
  }
  if (headers.empty()) return {arguments, false, 0, {}};
  Prefix* prefix = nullptr;
  {
    const std::lock_guard lock(lock_);
    auto& at = all_[arguments];
    if (!at) {
      at = std::make_unique<Prefix>();
      at->name = folder_ + "/" + std::to_string(all_.size());
    }
    prefix = at.get();
    if (++prefix->uses < 2) return {arguments, false, 0, {}};
  }
  const std::lock_guard lock(prefix->making);
  if (!prefix->tried) make(*prefix, rest, headers);
  prefix->tried = true;
  if (prefix->path.empty()) return {arguments, false, 0, {}};
  rest.insert(rest.end(), {"-Xclang", "-include-pch", "-Xclang", prefix->path});
  return {rest, true, prefix->errors, prefix->first_error};
}

void SharedPrefixes::make(Prefix& prefix, const std::vector<std::string>& rest, const std::vector<std::string>& headers) const {
  std::filesystem::create_directories(folder_);
  std::string text;
  for (const std::string& h : headers) text += "#include \"" + h + "\"\n";
  write_file_atomic(prefix.name + ".h", text);
  std::vector<const char*> args;
  for (const std::string& a : rest) args.push_back(a.c_str());
  for (size_t i = 0; i + 1 < rest.size(); ++i) {
    if (rest[i] == "-x") args[i + 1] = rest[i + 1] == "c" ? "c-header" : "c++-header";
  }
  const Index index = lib_.createIndex(1, 0);
  Unit unit = nullptr;
  const unsigned options = kDetailedRecord | kKeepGoing | kIncomplete | kForSerialization | kSkipFunctionBodies;
  const std::string header = prefix.name + ".h", made = prefix.name + ".pch";
  if (lib_.parseTranslationUnit2(index, header.c_str(), args.data(), static_cast<int>(args.size()), nullptr, 0, options, &unit) == 0 && unit != nullptr) {
    std::tie(prefix.errors, prefix.first_error) = lib_.errors(unit);
    if (lib_.saveTranslationUnit(unit, made.c_str(), 0) == 0) prefix.path = made;
  }
  if (unit != nullptr) lib_.disposeTranslationUnit(unit);
  lib_.disposeIndex(index);
}

}  // namespace weft::data
