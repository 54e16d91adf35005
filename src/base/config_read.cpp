// From JSON, TOML and --set into a config; and the checks that follow.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <toml++/toml.h>

#include "base/config.h"
#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace weft::config {

std::string join_path(const std::string& parent, const std::string& key) {
  const bool bare = !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
  const std::string shown = bare || (!key.empty() && key[0] == '[') ? key : Json(key).dump(-1, ' ', false, Json::error_handler_t::replace);
  return parent.empty() ? shown : shown[0] == '[' ? parent + shown : parent + "." + shown;
}

bool read_key(const std::string& text, std::string& key, const std::string&, std::vector<Problem>&) {
  key = text;
  return true;
}

bool read_key(const std::string& text, char& key, const std::string& path, std::vector<Problem>& out) {
  if (text.size() != 1) out.push_back({path, "the key must be one character"});
  else key = text[0];
  return text.size() == 1;
}

namespace {

std::string kinds_of(const Node& node) {
  std::vector<std::string> names;
  for (const Member& m : node.kinds()) names.push_back(m.name);
  return join(names, " | ");
}

}  // namespace

bool needs_kind(const Node& fresh, const Json& value, const std::string& path, std::vector<Problem>& out) {
  if (fresh.shape() != Node::kVariant || !value.is_object() || value.contains("kind")) return false;
  out.push_back({path, "is new and has no kind; want kind = " + kinds_of(fresh)});
  return true;
}

std::string choose_kind(const Json& value, const std::string& path, const std::string& held, const std::vector<std::string>& kinds,
                        std::vector<Problem>& out) {
  if (!value.contains("kind")) return held;
  const Json& kind = value["kind"];
  if (kind.is_string() && std::find(kinds.begin(), kinds.end(), kind.get<std::string>()) != kinds.end()) return kind;
  const std::string near = kind.is_string() ? nearest(kind.get<std::string>(), kinds) : "";
  out.push_back({join_path(path, "kind"), fmt::format("got {}, want {}{}", kind.dump(), join(kinds, " | "),
                                                      near.empty() ? "" : "; did you mean " + near + "?")});
  return "";
}

namespace {

bool called(const Member& m, const std::string& key) {
  return m.name == key || std::find(m.tags.aliases.begin(), m.tags.aliases.end(), key) != m.tags.aliases.end();
}

}  // namespace

void read_members(std::vector<Member> members, const Json& value, const std::string& path, const char* skip,
                  std::vector<Problem>& out) {
  std::vector<bool> seen(members.size());
  for (const auto& [key, item] : value.items()) {
    if (skip != nullptr && key == skip) continue;
    const auto m = std::find_if(members.begin(), members.end(), [&k = key](const Member& x) { return called(x, k); });
    if (m != members.end()) {
      const auto i = static_cast<size_t>(m - members.begin());
      if (seen[i]) out.push_back({join_path(path, key), "is another name of " + join_path(path, m->name) + ", which is given too"});
      seen[i] = true;
      m->node->read(item, join_path(path, m->name), out);
      continue;
    }
    std::vector<std::string> names;
    for (const Member& x : members) names.push_back(x.name);
    const std::string near = nearest(key, names);
    out.push_back({join_path(path, key), near.empty() ? "unknown key; here are: " + join(names, ", ")
                                                      : "unknown key; did you mean " + join_path(path, near) + "?"});
  }
}

Json write_members(const std::vector<Member>& members) {
  Json out = Json::object();
  for (const Member& m : members) out[m.name] = m.node->write();
  return out;
}

void read_json(Node& root, const Json& value, std::vector<Problem>& out) {
  const size_t first = out.size();
  root.read(value, "", out);
  const std::vector<std::string> all = keys(root);
  for (size_t i = first; i < out.size(); ++i) {  // a key in the wrong table: say where it belongs
    if (!out[i].text.starts_with("unknown key; here are")) continue;
    const std::string last = out[i].path.substr(out[i].path.rfind('.') + 1);
    for (const std::string& k : all)
      if (k.ends_with("." + last)) {
        out[i].text = "unknown key; did you mean " + k + "?";
        break;
      }
  }
}

// -- TOML -----------------------------------------------------------------------------------------------------------------
namespace {

using Lines = std::map<std::string, uint32_t>;

Json from_toml(const toml::node& node, const std::string& path, Lines& lines, std::vector<Problem>& out) {
  lines.emplace(path, node.source().begin.line);
  if (const auto* table = node.as_table()) {
    Json value = Json::object();
    std::vector<std::pair<uint32_t, std::string>> order;  // toml++ sorts keys; the file's order reads better in problems
    for (const auto& [key, item] : *table) order.emplace_back(key.source().begin.line, std::string(key.str()));
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [line, key] : order) {
      const std::string at = join_path(path, key);
      lines.emplace(at, line);
      value[key] = from_toml(*table->get(key), at, lines, out);
    }
    return value;
  }
  if (const auto* array = node.as_array()) {
    Json value = Json::array();
    for (size_t i = 0; i < array->size(); ++i)
      value.push_back(from_toml(*array->get(i), path + "[" + std::to_string(i) + "]", lines, out));
    return value;
  }
  if (const auto v = node.value_exact<std::string>()) return *v;
  if (const auto v = node.value_exact<bool>()) return *v;
  if (const auto v = node.value_exact<int64_t>()) return *v;
  if (const auto v = node.value_exact<double>()) return *v;
  out.push_back({path, "got a date or time, which no setting takes"});
  return nullptr;
}

}  // namespace

void read_toml(Node& root, std::string_view text, const std::string& file, std::vector<Problem>& out) {
  const size_t first = out.size();
  Lines lines;
  try {
    const toml::table table = toml::parse(text, file);
    const Json value = from_toml(table, "", lines, out);
    if (out.size() == first) read_json(root, value, out);
  } catch (const toml::parse_error& e) {
    out.push_back({fmt::format("{}:{}", file, e.source().begin.line), "not TOML: " + std::string(e.description())});
    return;
  }
  for (size_t i = first; i < out.size(); ++i) {
    const auto line = lines.find(out[i].path);
    out[i].path = line == lines.end() ? file + ": " + out[i].path : fmt::format("{}:{}: {}", file, line->second, out[i].path);
  }
}

void read_toml_file(Node& root, const std::string& file, std::vector<Problem>& out) { read_toml(root, read_file(file), file, out); }

// -- --set ----------------------------------------------------------------------------------------------------------------
namespace {

// a."b.c".d -> a, b.c, d
std::vector<std::string> split_path(std::string_view text) {
  std::vector<std::string> out(1);
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') quoted = !quoted;
    else if (c == '.' && !quoted) out.emplace_back();
    else out.back() += c;
  }
  return out;
}

std::string type_at(const std::vector<Member>& members, std::span<const std::string> path) {  // "" where nothing is
  for (const Member& m : members)
    if (called(m, path[0])) return path.size() == 1 ? m.node->type() : type_at(m.node->children(), path.subspan(1));
  return "";
}

}  // namespace

void set(Node& root, std::string_view assignment, std::vector<Problem>& out) {
  const size_t equals = assignment.find('=');
  const std::string_view key = trim(assignment.substr(0, equals));
  if (equals == std::string_view::npos || key.empty()) {
    out.push_back({"--set " + std::string(assignment), "want KEY=VALUE, such as moe.top_k=4"});
    return;
  }
  const std::vector<std::string> path = split_path(key);
  const std::string text(trim(assignment.substr(equals + 1)));
  Json value = text;
  if (type_at(root.members(), path) != "text" || text.starts_with('"') || text.starts_with('\'')) {
    try {
      Lines lines;
      const toml::table table = toml::parse("v = " + text);
      std::vector<Problem> dates;
      Json parsed = from_toml(*table.get("v"), "", lines, dates);
      if (dates.empty() && table.size() == 1) value = std::move(parsed);
    } catch (const toml::parse_error&) {  // a bare word is text
    }
  }
  for (size_t i = path.size(); i-- > 0;) value = Json::object({{path[i], std::move(value)}});
  const size_t first = out.size();
  read_json(root, value, out);
  for (size_t i = first; i < out.size(); ++i) out[i].path = "--set " + out[i].path;
}

// -- rules ----------------------------------------------------------------------------------------------------------------
namespace {

void check_ranges(const std::vector<Member>& members, const std::string& path, std::vector<Problem>& out) {
  for (const Member& m : members) {
    const std::string at = join_path(path, m.name);
    if (m.tags.range) m.node->check_range(*m.tags.range, at, out);
    if (m.node->shape() != Node::kLeaf) check_ranges(m.node->children(), at, out);
  }
}

void derive_all(Node& node) {
  node.derive();
  for (const Member& m : node.children())
    if (m.node->shape() != Node::kLeaf) derive_all(*m.node);
}

void check_all(Node& node, const std::string& path, std::vector<Problem>& out) {
  std::vector<Problem> own;
  node.check(own);
  for (Problem& p : own)
    out.push_back({path.empty() || p.path.empty() ? path + p.path : p.path[0] == '[' ? path + p.path : path + "." + p.path, p.text});
  for (const Member& m : node.children())
    if (m.node->shape() != Node::kLeaf) check_all(*m.node, join_path(path, m.name), out);
}

}  // namespace

void resolve(Node& root, std::vector<Problem>& out) {
  const size_t first = out.size();
  check_ranges(root.children(), "", out);
  if (out.size() > first) return;  // rules between members may divide by them
  derive_all(root);
  check_all(root, "", out);
}

void throw_if_any(const std::vector<Problem>& problems, const std::string& where) {
  if (problems.empty()) return;
  std::string text = fmt::format("{}: {}", where, problems.size() == 1 ? "one problem" : fmt::format("{} problems", problems.size()));
  for (const Problem& p : problems) text += "\n  " + p.path + (p.path.empty() ? "" : ": ") + p.text;
  throw ConfigError(text);
}

}  // namespace weft::config
