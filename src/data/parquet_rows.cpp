#include "data/parquet_rows.h"

#include <algorithm>

#include "base/error.h"

namespace weft::data {
namespace {

void write_string(std::string_view text, std::string& out) {
  constexpr char hex[] = "0123456789abcdef";
  out += '"';
  size_t plain = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t c = static_cast<uint8_t>(text[i]);
    if (c >= 32 && c != '"' && c != '\\') continue;
    out.append(text, plain, i - plain);
    plain = i + 1;
    if (c == '\n') out += "\\n";
    else if (c >= 32) out += '\\', out += static_cast<char>(c);
    else out += "\\u00", out += hex[c >> 4], out += hex[c & 15];
  }
  out.append(text, plain);
  out += '"';
}

bool has_leaves(const ParquetNode& n) { return n.end_leaf > n.first_leaf; }

void for_leaves(const ParquetNode& n, const auto& use) {
  if (n.type != ParquetType::kGroup) return use(n);
  for (const ParquetNode& c : n.children) for_leaves(c, use);
}

}  // namespace

ParquetRows::ParquetRows(const std::string& path, const std::vector<std::string>& columns, int64_t first_row) : file_(path) {
  for (const ParquetNode& n : file_.root().children) {
    if (std::find(columns.begin(), columns.end(), n.name) != columns.end() && has_leaves(n)) wanted_.push_back(&n);
  }
  if (wanted_.empty()) {
    throw InputError("parquet '" + path + "': no column \"" + (columns.empty() ? std::string() : columns.front()) + "\": it has " + file_.columns() + "\ntry: --key with the name of the text's column");
  }
  while (group_ < file_.groups().size() && first_row - row_ >= file_.groups()[group_].rows) row_ += file_.groups()[group_++].rows;
  for (std::string ignored; row_ < first_row && next(ignored);) {
  }
}

void ParquetRows::open_group() {
  const ParquetGroup& group = file_.groups()[group_++];
  columns_.clear();
  columns_.resize(group.columns.size());
  for (const ParquetNode* top : wanted_) {
    for_leaves(*top, [&](const ParquetNode& leaf) {
      columns_[static_cast<size_t>(leaf.first_leaf)] = std::make_unique<ParquetColumn>(file_, leaf, group.columns[static_cast<size_t>(leaf.first_leaf)]);
    });
  }
  group_left_ = group.rows;
}

bool ParquetRows::next(std::string& line) {
  while (group_left_ == 0) {
    if (group_ == file_.groups().size()) return false;
    open_group();
  }
  line.clear();
  for (const ParquetNode* top : wanted_) {
    if (column(*top).rep() != 0) throw InputError("parquet '" + file_.path() + "': column \"" + top->name + "\" does not begin anew at row " + std::to_string(row_ + 1));
  }
  object(wanted_, line);
  ++row_, --group_left_;
  if (group_left_ == 0) {
    for (const ParquetNode* top : wanted_) {
      for_leaves(*top, [&](const ParquetNode& leaf) {
        if (column(leaf).rep() >= 0) throw InputError("parquet '" + file_.path() + "': column \"" + leaf.name + "\" has values behind its last row");
      });
    }
  }
  return true;
}

void ParquetRows::object(const std::vector<const ParquetNode*>& fields, std::string& out) {
  out += '{';
  bool first = true;
  for (const ParquetNode* f : fields) {
    if (!has_leaves(*f)) continue;
    if (!first) out += ',';
    first = false;
    write_string(f->name, out);
    out += ':';
    field(*f, out);
  }
  out += '}';
}

// A member of a group, whatever its repetition. The levels of its first column say what is there.
void ParquetRows::field(const ParquetNode& node, std::string& out) {
  if (node.repetition == ParquetNode::kRequired) return present(node, out);
  const int def = column(node).def();
  if (node.repetition == ParquetNode::kOptional) {
    if (def >= node.max_def) return present(node, out);
    absent(node);
    out += "null";
    return;
  }
  out += '[';
  if (def < node.max_def) {
    absent(node);
  } else {
    for (bool more = true; more;) {
      present(node, out);
      more = column(node).rep() == node.max_rep;
      if (more) out += ',';
    }
  }
  out += ']';
}

void ParquetRows::present(const ParquetNode& node, std::string& out) {
  if (node.type != ParquetType::kGroup) {
    if (column(node).def() != node.max_def) throw InputError("parquet '" + file_.path() + "': column \"" + node.name + "\": its levels do not fit the schema");
    const std::string_view value = column(node).value();
    if (node.type == ParquetType::kBytes || node.type == ParquetType::kFixed) write_string(value, out);
    else out += value;
    return;
  }
  if (node.list) {  // the repeated child is the list; where it is a group of one member, that member is the element
    const ParquetNode& repeated = node.children[0];
    const bool wrapped = repeated.type == ParquetType::kGroup && repeated.children.size() == 1 && repeated.name != "array" && repeated.name != node.name + "_tuple";
    if (!wrapped) return field(repeated, out);
    out += '[';
    if (column(repeated).def() < repeated.max_def) {
      absent(repeated);
    } else {
      for (bool more = true; more;) {
        field(repeated.children[0], out);
        more = column(repeated).rep() == repeated.max_rep;
        if (more) out += ',';
      }
    }
    out += ']';
    return;
  }
  std::vector<const ParquetNode*> members;
  for (const ParquetNode& c : node.children) members.push_back(&c);
  object(members, out);
}

void ParquetRows::absent(const ParquetNode& node) {
  for_leaves(node, [&](const ParquetNode& leaf) { column(leaf).skip(); });
}

}  // namespace weft::data
