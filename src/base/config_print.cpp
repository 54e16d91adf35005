// A config written for people: TOML, commented recipe, help, documentation, differences.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "base/config.h"
#include "base/text.h"

namespace weft::config {
namespace {

std::string toml_value(const Json& v) {
  if (v.is_object()) {
    std::vector<std::string> parts;
    for (const auto& [key, item] : v.items()) parts.push_back(join_path("", key) + " = " + toml_value(item));
    return parts.empty() ? "{}" : "{ " + join(parts, ", ") + " }";
  }
  if (v.is_array()) {
    std::vector<std::string> parts;
    for (const Json& item : v) parts.push_back(toml_value(item));
    return "[" + join(parts, ", ") + "]";
  }
  return v.dump();  // JSON's escapes, numbers and booleans are TOML's too
}

std::string range_text(const Range& r) {
  const auto end = [](double v) { return std::fabs(v) >= 1e5 && v == std::floor(v) && std::fabs(v) < 1e15 && std::fmod(v, 1000) != 0
                                             ? fmt::format("{:.0f}", v) : fmt::format("{:g}", v); };
  return end(r.low) + " to " + end(r.high);
}

std::string facts(const Member& m) {  // "integer, 1 to 64, tokens"
  std::vector<std::string> parts{m.node->type()};
  if (m.tags.range) parts.push_back(range_text(*m.tags.range));
  if (!m.tags.unit.empty()) parts.push_back(m.tags.unit);
  return join(parts, ", ");
}

std::string notes(const Member& m) {
  std::string out = m.help;
  if (!m.tags.aliases.empty()) out += " Also: " + join(m.tags.aliases, ", ") + ".";
  if (m.tags.live) out += " May change on resume.";
  return out;
}

bool inline_value(Node& node) {  // written as one value: leaves, lists
  return node.shape() == Node::kLeaf || node.shape() == Node::kList;
}

void write_toml(Node& node, const std::string& path, bool commented, std::string& out) {
  const bool is_map = node.shape() == Node::kMap;
  std::vector<Member> members = node.children();
  std::string body;
  if (node.shape() == Node::kVariant) body += "kind = " + toml_value(node.write()["kind"]) + "\n";
  for (Member& m : members) {
    if (!inline_value(*m.node)) continue;
    if (commented && !m.help.empty()) body += "# " + notes(m) + " (" + facts(m) + ")\n";
    body += (commented ? "# " : "") + join_path("", m.name) + " = " + toml_value(m.node->write()) + "\n";
  }
  const bool has_tables = std::any_of(members.begin(), members.end(), [](const Member& m) { return !inline_value(*m.node); });
  if (!path.empty() && (!body.empty() || !has_tables) && !is_map) out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", path);
  else if (is_map && !body.empty()) out += fmt::format("\n[{}]\n", path);
  else if (is_map && commented && members.empty()) out += fmt::format("\n# [{}.KEY]\n", path);
  out += body;
  for (Member& m : members)
    if (!inline_value(*m.node)) {
      const std::string at = join_path(path, m.name);
      if (commented && !m.help.empty()) out += "\n# " + notes(m);
      write_toml(*m.node, at, commented, out);
    }
}

void walk(const std::vector<Member>& members, const std::string& path, const std::function<void(const std::string&, const Member&)>& visit) {
  for (const Member& m : members) {
    const std::string at = join_path(path, m.name);
    if (inline_value(*m.node)) visit(at, m);
    else walk(m.node->children(), at, visit);
  }
}

struct Entry { std::string value; bool live; };

void flatten(Node& node, const std::string& path, bool live, std::map<std::string, Entry>& out) {
  if (node.shape() == Node::kVariant) out[join_path(path, "kind")] = {toml_value(node.write()["kind"]), live};
  for (Member& m : node.children()) {
    const std::string at = join_path(path, m.name);
    if (inline_value(*m.node)) out[at] = {toml_value(m.node->write()), live || m.tags.live};
    else flatten(*m.node, at, live || m.tags.live, out);
  }
}

using Documented = std::map<std::string, std::string>;  // the kinds of a variant -> where their tables stand

// Tables of every kind at `path`, or a line that says where they stand already.
void document_kinds(std::vector<Member> kinds, const std::string& path, Documented& seen, std::string& out);

std::string cell(std::string text) {  // of a Markdown table
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, 1, '\\');
  return text;
}

void document(std::vector<Member> members, const std::string& path, const std::string& about, Documented& seen, std::string& out) {
  std::string rows;
  for (Member& m : members)
    if (inline_value(*m.node))
      rows += fmt::format("| `{}` | {} | `{}` | {} |\n", m.name, cell(facts(m)), cell(toml_value(m.node->write())), cell(notes(m)));
  if (!path.empty()) out += "\n## " + path + "\n\n" + (about.empty() ? "" : about + "\n\n");
  if (!rows.empty()) out += "| key | type | default | meaning |\n| --- | --- | --- | --- |\n" + rows;
  for (Member& m : members) {
    const std::string at = path.empty() ? m.name : path + "." + m.name;
    std::vector<Member> kinds = m.node->kinds();
    if (m.node->shape() == Node::kTable) document(m.node->members(), at, notes(m), seen, out);
    if (m.node->shape() == Node::kVariant) {
      out += "\n## " + at + "\n\n" + notes(m) + "\n";
      document_kinds(std::move(kinds), at, seen, out);
    }
    if (m.node->shape() == Node::kMap || m.node->shape() == Node::kList) {
      Node& element = *kinds[0].node;
      if (element.shape() == Node::kLeaf) {
        if (m.node->shape() == Node::kMap) out += "\n## " + at + ".KEY\n\n" + notes(m) + " Each value: " + element.type() + ".\n";
        continue;
      }
      out += "\n## " + at + (m.node->shape() == Node::kMap ? ".KEY" : "[]") + "\n\n" + notes(m) + "\n";
      if (element.shape() == Node::kTable) document(element.members(), "", "", seen, out);
      if (element.shape() == Node::kVariant) document_kinds(element.kinds(), at + ".KEY", seen, out);
    }
  }
}

void document_kinds(std::vector<Member> kinds, const std::string& path, Documented& seen, std::string& out) {
  std::string all;
  for (const Member& k : kinds) all += k.name + " ";
  const auto [first, fresh] = seen.emplace(all, path);
  if (!fresh) {
    out += "\nThe same tables as `" + first->second + "`.\n";
    return;
  }
  for (Member& k : kinds) document(k.node->members(), path + " (kind = \"" + k.name + "\")", "", seen, out);
}

}  // namespace

std::string to_toml(Node& root) {
  std::string out;
  write_toml(root, "", false, out);
  return out;
}

std::string recipe(Node& root) {
  std::string out;
  write_toml(root, "", true, out);
  return out;
}

std::vector<std::string> keys(Node& root) {
  std::vector<std::string> out;
  walk(root.children(), "", [&](const std::string& path, const Member&) { out.push_back(path); });
  return out;
}

std::string help(Node& root, std::string_view prefix) {
  std::string out;
  walk(root.children(), "", [&](const std::string& path, const Member& m) {
    if (!path.starts_with(prefix)) return;
    out += fmt::format("  {:<34} {:<14} {}{}\n", path, toml_value(m.node->write()), notes(m), " (" + facts(m) + ")");
  });
  return out;
}

std::string markdown(Node& root) {
  std::string out;
  Documented seen;
  document(root.members(), "", "", seen, out);
  return out;
}

std::vector<Change> diff(Node& before, Node& after) {
  std::map<std::string, Entry> a, b;
  flatten(before, "", false, a);
  flatten(after, "", false, b);
  std::vector<Change> out;
  for (const auto& [path, entry] : a) {
    const auto other = b.find(path);
    if (other == b.end()) out.push_back({path, entry.value, "", entry.live});
    else if (other->second.value != entry.value) out.push_back({path, entry.value, other->second.value, entry.live});
  }
  for (const auto& [path, entry] : b)
    if (!a.contains(path)) out.push_back({path, "", entry.value, entry.live});
  return out;
}

}  // namespace weft::config
