#include "data/structure/compile_flags.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "data/prepare_state.h"

namespace weft::data {
namespace {

namespace fs = std::filesystem;

std::string absolute(const std::string& path, const std::string& from = "") {
  return (from.empty() || fs::path(path).is_absolute() ? fs::absolute(path) : fs::absolute(from) / path).lexically_normal().string();
}

// Of a compiler's arguments only what changes how the text is read: paths, macros, the language. Paths become absolute.
std::vector<std::string> kept(const std::vector<std::string>& words, const std::string& folder) {
  static constexpr const char* kWithPath[] = {"-I", "-isystem", "-iquote", "-idirafter", "-imacros", "-isysroot", "--sysroot"};
  static constexpr const char* kWithWord[] = {"-D", "-U", "-x"};
  static constexpr const char* kAlone[] = {"-std=", "-nostdinc", "-pthread", "-fno-exceptions", "-fno-rtti", "-ffreestanding", "-fopenmp"};
  std::vector<std::string> out;
  for (size_t i = 1; i < words.size(); ++i) {  // the first is the compiler
    const std::string& w = words[i];
    if (w == "-include" && i + 1 < words.size()) {  // the driver would take FILE.gch beside it, which may be another compiler's
      out.insert(out.end(), {"-Xclang", "-include", "-Xclang", absolute(words[++i], folder)});
      continue;
    }
    for (const char* flag : kWithPath) {
      const std::string f = flag;
      if (w == f && i + 1 < words.size()) out.insert(out.end(), {f, absolute(words[++i], folder)});
      else if (w.starts_with(f) && w.size() > f.size() && (f == "-I" || f == "-isystem" || f == "-iquote" || f == "--sysroot")) {
        const std::string value = w.substr(f.size() + (w[f.size()] == '='));
        if (f == "--sysroot") out.push_back("--sysroot=" + absolute(value, folder));
        else out.insert(out.end(), {f, absolute(value, folder)});
      } else continue;
      break;
    }
    for (const char* flag : kWithWord) {
      if (w == flag && i + 1 < words.size()) out.insert(out.end(), {w, words[i + 1]}), ++i;
      else if (w.starts_with(flag) && w.size() > 2) out.push_back(w);
      else continue;
      break;
    }
    for (const char* flag : kAlone) {
      if (w.starts_with(flag)) out.push_back(w);
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> split_command(const std::string& command) {
  std::vector<std::string> words;
  std::string word;
  bool inside = false;
  char quote = 0;
  for (size_t i = 0; i < command.size(); ++i) {
    const char c = command[i];
    if (quote != '\'' && c == '\\' && i + 1 < command.size()) {
      word += command[++i], inside = true;
    } else if (quote != 0) {
      if (c == quote) quote = 0;
      else word += c;
    } else if (c == '"' || c == '\'') {
      quote = c, inside = true;
    } else if (c == ' ' || c == '\t' || c == '\n') {
      if (inside) words.push_back(std::move(word)), word.clear();
      inside = false;
    } else {
      word += c, inside = true;
    }
  }
  if (inside) words.push_back(std::move(word));
  return words;
}

CppLanguage cpp_language(const std::string& path) {
  const std::string end = fs::path(path).extension().string();
  static const std::set<std::string> cpp{".cc", ".cpp", ".cxx", ".c++", ".C", ".hh", ".hpp", ".hxx", ".h++", ".H", ".inl", ".ipp", ".tcc", ".tpp"};
  return end == ".c" ? CppLanguage::kC : end == ".h" ? CppLanguage::kHeader : cpp.contains(end) ? CppLanguage::kCpp : CppLanguage::kNone;
}

CompileFlags::CompileFlags(const std::vector<std::string>& inputs, const std::vector<std::string>& files, const std::string& database, std::vector<std::string> extra)
    : database_(database), extra_(std::move(extra)) {
  std::error_code none;
  for (const std::string& input : inputs) {
    if (!database_.empty()) break;
    if (!fs::is_directory(input, none)) continue;
    std::vector<std::string> candidates{input + "/compile_commands.json"};
    for (const auto& entry : fs::directory_iterator(input, none)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with("build") || !entry.is_directory(none)) continue;
      candidates.push_back(entry.path().string() + "/compile_commands.json");
      for (const auto& inner : fs::directory_iterator(entry.path(), none)) {  // build/release and the like
        if (inner.is_directory(none)) candidates.push_back(inner.path().string() + "/compile_commands.json");
      }
    }
    std::sort(candidates.begin() + 1, candidates.end());
    for (const std::string& c : candidates) {
      if (database_.empty() && fs::exists(c, none)) database_ = c;
    }
  }
  if (!database_.empty()) read_database(database_);

  bool any_cpp = false, any_c = false;
  std::set<std::string> folders;
  for (const std::string& file : files) {
    any_cpp |= cpp_language(file) == CppLanguage::kCpp, any_c |= cpp_language(file) == CppLanguage::kC;
    for (fs::path p = fs::path(absolute(file)).parent_path(); p.has_relative_path(); p = p.parent_path()) {
      if (p.filename() == "include" || p.filename() == "src") folders.insert(p.string());
    }
  }
  headers_are_c_ = any_c && !any_cpp;
  for (const std::string& input : inputs) {
    if (fs::is_directory(input, none)) includes_.push_back(absolute(input + "/."));
  }
  for (std::string& root : includes_) {
    if (root.size() > 1 && root.back() == '/') root.pop_back();
  }
  for (const std::string& f : folders) {  // inside the inputs only, and not without end
    const bool inside = std::any_of(includes_.begin(), includes_.begin() + static_cast<int64_t>(std::min(includes_.size(), inputs.size())),
                                    [&](const std::string& root) { return f.starts_with(root + "/"); });
    if (inside && includes_.size() < 64 + inputs.size()) includes_.push_back(f);
  }
}

void CompileFlags::read_database(const std::string& path) {
  const std::string bytes = read_file(path);
  database_hash_ = hex_hash(bytes);
  const Json list = parse_json(bytes, path);
  try {
    for (const Json& entry : list) {
      const std::string folder = entry.at("directory").get<std::string>(), file = absolute(entry.at("file").get<std::string>(), folder);
      if (cpp_language(file) == CppLanguage::kNone) continue;
      const std::vector<std::string> words = entry.contains("arguments") ? entry.at("arguments").get<std::vector<std::string>>() : split_command(entry.at("command").get<std::string>());
      const auto [at, fresh] = by_file_.try_emplace(file, kept(words, folder));
      if (fresh) by_folder_.try_emplace(fs::path(file).parent_path().string(), at->second);
    }
  } catch (const nlohmann::json::exception& e) {
    throw InputError("compile commands '" + path + "': not a compilation database: " + e.what());
  }
}

std::vector<std::string> CompileFlags::of(const std::string& path) const {
  const std::string file = absolute(path);
  const CppLanguage language = cpp_language(file);
  const bool c = language == CppLanguage::kC || (language == CppLanguage::kHeader && headers_are_c_);
  std::vector<std::string> out{"-x", c ? "c" : "c++"};
  const std::vector<std::string>* from = nullptr;
  if (const auto own = by_file_.find(file); own != by_file_.end()) from = &own->second;
  for (fs::path p = fs::path(file).parent_path(); from == nullptr && !by_folder_.empty(); p = p.parent_path()) {
    if (const auto near = by_folder_.find(p.string()); near != by_folder_.end()) from = &near->second;
    if (!p.has_relative_path()) break;
  }
  if (from != nullptr) {
    for (size_t i = 0; i < from->size(); ++i) {
      const std::string& w = (*from)[i];
      if (w == "-x") ++i;  // ours is by the name
      else if (!(w.starts_with("-std=") && (w.find("++") != std::string::npos) == c)) out.push_back(w);  // a neighbour of the other language
    }
  } else {
    out.push_back(c ? "-std=c17" : "-std=c++20");
    for (const std::string& i : includes_) out.insert(out.end(), {"-I", i});
  }
  out.insert(out.end(), extra_.begin(), extra_.end());
  return out;
}

std::string CompileFlags::identity() const {
  std::string all = database_hash_ + (headers_are_c_ ? " c" : " c++");
  for (const auto& list : {includes_, extra_}) {
    all += "\n";
    for (const std::string& w : list) all += w + "\t";
  }
  return hex_hash(all);
}

}  // namespace weft::data
