#include "text/chat_folder.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "text/json_read.h"

namespace weft::text {
namespace {

namespace fs = std::filesystem;
using Named = std::vector<std::pair<std::string, std::string>>;  // name, source

// Special tokens stand as strings or as objects with their content.
void add_tokens(const std::string& file, nlohmann::ordered_json& out) {
  if (!fs::exists(file)) return;
  const Json root = read_json(read_file(file), file);
  if (!root.is_object()) throw InputError(file + ": got " + root.type_name() + ", want an object");
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}) {
    const auto it = root.find(key);
    if (it == root.end() || out.contains(key)) continue;
    if (it->is_string()) out[key] = *it;
    else if (it->is_object() && it->contains("content") && (*it)["content"].is_string()) out[key] = (*it)["content"];
  }
}

void add_from_config(const std::string& file, Named& out) {
  if (!fs::exists(file)) return;
  const Json root = read_json(read_file(file), file);
  const Node node(root, file);
  if (!root.is_object() || !node.has("chat_template")) return;
  const Json& value = root["chat_template"];
  if (value.is_string()) return void(out.emplace_back("default", value.get<std::string>()));
  const Node list = node.at("chat_template");
  for (size_t i = 0; i < list.size(); ++i) out.emplace_back(list.at(i).text("name"), list.at(i).text("template"));
}

void add_from_files(const std::string& folder, Named& out) {
  if (const std::string file = folder + "/chat_template.jinja"; fs::exists(file)) out.emplace_back("default", read_file(file));
  const std::string more = folder + "/additional_chat_templates";
  if (!fs::is_directory(more)) return;
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(more)) {
    if (entry.path().extension() == ".jinja") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) out.emplace_back(fs::path(file).stem().string(), read_file(file));
}

}  // namespace

ChatFolder load_chat_folder(const std::string& path, const std::string& name) {
  Named all;
  std::string where = path;
  fs::path folder = path;
  if (fs::is_directory(path)) {
    add_from_files(path, all);
    if (all.empty()) add_from_config(path + "/tokenizer_config.json", all);
    if (all.empty()) throw InputError(path + ": no chat template: want chat_template.jinja, or chat_template in tokenizer_config.json");
  } else {
    folder = folder.parent_path();
    if (path.ends_with(".json")) add_from_config(path, all);
    else all.emplace_back("default", read_file(path));
    if (all.empty()) throw InputError(path + ": has no chat_template");
  }
  const std::string wanted = name.empty() && all.size() > 1 ? "default" : name;
  auto chosen = all.begin();
  if (!wanted.empty()) {
    chosen = std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.first == wanted; });
    if (chosen == all.end()) {
      std::string names;
      for (const auto& [other, source] : all) names += (names.empty() ? "" : ", ") + other;
      throw InputError(path + ": chat template '" + wanted + "': got " + names);
    }
    if (all.size() > 1) where += " (" + wanted + ")";
  }
  ChatFolder out{ChatTemplate(chosen->second, where), nlohmann::ordered_json::object()};
  add_tokens((folder / "special_tokens_map.json").string(), out.variables);
  add_tokens((folder / "tokenizer_config.json").string(), out.variables);
  return out;
}

}  // namespace weft::text
