#include "data/structure/clang_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"

namespace weft::data::clang {
namespace {

constexpr const char* kHowTo = "\n  try: apt-get install libclang1 (or libclang-dev), or WEFT_LIBCLANG=/path/to/libclang.so";

std::vector<std::string> usual_names() {
  std::vector<std::string> names;
  for (int v = 21; v >= 9; --v) {
    const std::string n = std::to_string(v);
    names.insert(names.end(), {"libclang-" + n + ".so.1", "libclang-" + n + ".so." + n, "/usr/lib/llvm-" + n + "/lib/libclang.so.1", "libclang.so." + n});
  }
  names.insert(names.end(), {"libclang.so.1", "libclang.so"});
  return names;
}

}  // namespace

std::shared_ptr<const Library> Library::open() {
  std::vector<std::string> names = usual_names();
  if (const char* named = std::getenv("WEFT_LIBCLANG"); named != nullptr && *named != 0) names = {named};
  void* handle = nullptr;
  auto library = std::make_shared<Library>();
  for (const std::string& name : names) {
    handle = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) {
      library->path_ = name;
      break;
    }
  }
  if (handle == nullptr) {
    const std::string why = names.size() == 1 ? std::string(": ") + ::dlerror() : ": none of libclang-9 to libclang-21 is on this machine";
    throw UnavailableError("prepare --structure: libclang cannot be opened" + why + kHowTo);
  }
  const auto find = [&](const char* name) {
    void* symbol = ::dlsym(handle, name);
    if (symbol == nullptr) throw UnavailableError("prepare --structure: '" + library->path_ + "' has no " + name + ": got an older libclang, want LLVM 9 or newer" + kHowTo);
    return symbol;
  };
#define X(name, result, parameters) library->name = reinterpret_cast<result(*) parameters>(find("clang_" #name));
  WEFT_CLANG_FUNCTIONS(X)
#undef X
  library->version_ = library->text(library->getClangVersion());
  return library;  // the handle stays open for the life of the process: libclang keeps threads and signal handlers of its own
}

std::string Library::text(String s) const {
  const char* bytes = getCString(s);
  std::string out = bytes == nullptr ? "" : bytes;
  disposeString(s);
  return out;
}

std::pair<int32_t, std::string> Library::errors(Unit unit) const {
  std::pair<int32_t, std::string> out{0, ""};
  for (unsigned i = 0; i < getNumDiagnostics(unit); ++i) {
    const Diagnostic d = getDiagnostic(unit, i);
    if (getDiagnosticSeverity(d) >= kErrorSeverity && out.first++ == 0) out.second = text(formatDiagnostic(d, 1));
    disposeDiagnostic(d);
  }
  return out;
}

bool Library::finds_headers(const std::vector<std::string>& arguments) const {
  static const std::string source = "#include <stddef.h>\nsize_t n;\n";
  std::vector<const char*> args{"-x", "c"};
  for (const std::string& a : arguments) args.push_back(a.c_str());
  Unsaved file{"weft_probe.c", source.data(), source.size()};
  const Index index = createIndex(1, 0);
  Unit unit = nullptr;
  const bool good = parseTranslationUnit2(index, file.path, args.data(), static_cast<int>(args.size()), &file, 1, 0, &unit) == 0 && errors(unit).first == 0;
  if (unit != nullptr) disposeTranslationUnit(unit);
  disposeIndex(index);
  return good;
}

std::vector<std::string> Library::header_arguments(bool* found) const {
  *found = true;
  if (finds_headers({})) return {};
  // Those of another clang, then of gcc: the newest of each.
  namespace fs = std::filesystem;
  std::vector<std::string> folders;
  std::error_code none;
  for (const auto& [root, end] : {std::pair<std::string, std::string>{"/usr/lib/clang", "include"}, {"/usr/lib/gcc/x86_64-linux-gnu", "include"}, {"/usr/lib/gcc/aarch64-linux-gnu", "include"}}) {
    std::vector<std::pair<int, std::string>> here;
    for (const auto& entry : fs::directory_iterator(root, none)) {
      const std::string folder = entry.path().string() + "/" + end;
      if (fs::exists(folder + "/stddef.h", none)) here.emplace_back(std::atoi(entry.path().filename().c_str()), folder);
    }
    std::sort(here.rbegin(), here.rend());
    for (auto& [version, folder] : here) folders.push_back(std::move(folder));
  }
  for (const std::string& folder : folders) {
    if (finds_headers({"-isystem", folder})) return {"-isystem", folder};
  }
  *found = false;
  return {};
}

}  // namespace weft::data::clang
