#include "data/parquet_file.h"

#include <cstring>

#include "base/error.h"
#include "data/thrift.h"

namespace weft::data {
namespace {

constexpr size_t kMaxNodes = 10000;
constexpr int kMaxDepth = 32;

struct Element {  // of the flattened schema
  ParquetNode node;
  int64_t children = 0;
};

Element read_element(ThriftReader& in) {
  Element e;
  in.structure([&](int16_t field, ThriftType type) {
    switch (field) {
      case 1: e.node.type = static_cast<ParquetType>(in.integer()); break;
      case 2: e.node.width = static_cast<int32_t>(in.integer()); break;
      case 3: e.node.repetition = static_cast<ParquetNode::Repetition>(in.integer()); break;
      case 4: e.node.name = in.binary(); break;
      case 5: e.children = in.integer(); break;
      case 6: {  // converted type: UTF8 0, LIST 3, ENUM 4, JSON 19
        const int64_t converted = in.integer();
        e.node.list |= converted == 3;
        e.node.text |= converted == 0 || converted == 4 || converted == 19;
        break;
      }
      case 10:  // logical type: STRING 1, LIST 3, ENUM 4, JSON 12
        in.structure([&](int16_t logical, ThriftType t) {
          e.node.list |= logical == 3;
          e.node.text |= logical == 1 || logical == 4 || logical == 12;
          in.skip(t);
        });
        break;
      default: in.skip(type);
    }
  });
  return e;
}

ParquetChunk read_chunk(ThriftReader& in, const std::string& where) {
  ParquetChunk c;
  int64_t data = -1, dictionary = -1, bytes = -1;
  in.structure([&](int16_t field, ThriftType type) {
    if (field == 1) throw InputError(where + ": a column lies in another file: got '" + std::string(in.binary()) + "'");
    if (field == 8) throw InputError(where + ": the file is encrypted");
    if (field != 3) return in.skip(type);
    in.structure([&](int16_t meta, ThriftType t) {
      switch (meta) {
        case 4: c.codec = static_cast<int32_t>(in.integer()); break;
        case 5: c.values = in.integer(); break;
        case 7: bytes = in.integer(); break;
        case 9: data = in.integer(); break;
        case 11: dictionary = in.integer(); break;
        default: in.skip(t);
      }
    });
  });
  c.begin = dictionary > 0 && dictionary < data ? dictionary : data;
  c.end = c.begin + bytes;
  if (c.begin < 4 || bytes < 0 || c.values < 0) throw InputError(where + ": a column without pages: got offset " + std::to_string(c.begin) + ", " + std::to_string(bytes) + " bytes");
  return c;
}

class Tree {
 public:
  Tree(std::vector<Element> elements, const std::string& where) : elements_(std::move(elements)), where_(where) {}
  ParquetNode build() {
    ParquetNode root = node(0, 0, 0);
    if (at_ != elements_.size()) throw InputError(where_ + ": the schema has " + std::to_string(elements_.size() - at_) + " elements too many");
    return root;
  }
  int leaves() const { return leaves_; }

 private:
  ParquetNode node(int def, int rep, int depth) {
    if (at_ >= elements_.size() || depth > kMaxDepth) throw InputError(where_ + ": the schema is no tree of at most " + std::to_string(kMaxDepth) + " levels");
    Element e = std::move(elements_[at_++]);
    ParquetNode n = std::move(e.node);
    if (depth == 0) n.repetition = ParquetNode::kRequired;
    if (n.repetition > ParquetNode::kRepeated || n.type > ParquetType::kGroup) throw InputError(where_ + ": column \"" + n.name + "\": unknown type or repetition");
    n.max_def = def + (n.repetition == ParquetNode::kRequired ? 0 : 1);
    n.max_rep = rep + (n.repetition == ParquetNode::kRepeated ? 1 : 0);
    n.first_leaf = leaves_;
    if (e.children > 0) n.type = ParquetType::kGroup;
    else if (n.type == ParquetType::kGroup && depth > 0) throw InputError(where_ + ": column \"" + n.name + "\" has neither a type nor children");
    if (n.type == ParquetType::kGroup) {
      for (int64_t i = 0; i < e.children; ++i) n.children.push_back(node(n.max_def, n.max_rep, depth + 1));
    } else {
      ++leaves_;
    }
    n.end_leaf = leaves_;
    n.list = n.list && n.children.size() == 1 && n.children[0].repetition == ParquetNode::kRepeated;
    return n;
  }
  std::vector<Element> elements_;
  const std::string& where_;
  size_t at_ = 0;
  int leaves_ = 0;
};

}  // namespace

ParquetFile::ParquetFile(const std::string& path) : path_(path), map_(std::make_shared<const MappedFile>(path)) {
  const std::string_view all = map_->text();
  const auto fail = [&](const std::string& rule) { throw InputError("parquet '" + path + "': " + rule); };
  if (all.size() < 12 || !all.starts_with("PAR1")) fail("not a Parquet file: it does not begin with PAR1");
  if (all.ends_with("PARE")) fail("the file is encrypted");
  if (!all.ends_with("PAR1")) fail("the file is cut off: it does not end with PAR1");
  uint32_t size;
  std::memcpy(&size, all.data() + all.size() - 8, 4);
  if (size > all.size() - 12) fail("its footer does not fit: got " + std::to_string(size) + " bytes of " + std::to_string(all.size()));
  read_footer(all.substr(all.size() - 8 - size, size));
  for (const ParquetGroup& g : groups_) {
    for (const ParquetChunk& c : g.columns) {
      if (c.end > static_cast<int64_t>(all.size()) - 8 || c.end < c.begin) fail("a column lies outside the file: got bytes " + std::to_string(c.begin) + " to " + std::to_string(c.end) + " of " + std::to_string(all.size()));
    }
  }
}

void ParquetFile::read_footer(std::string_view footer) {
  const std::string where = "parquet '" + path_ + "'";
  ThriftReader in(footer, where);
  std::vector<Element> elements;
  in.structure([&](int16_t field, ThriftType type) {
    switch (field) {
      case 2:
        in.list([&](ThriftType) {
          elements.push_back(read_element(in));
          if (elements.size() > kMaxNodes) throw InputError(where + ": got more than " + std::to_string(kMaxNodes) + " columns");
        });
        break;
      case 3: rows_ = in.integer(); break;
      case 4:
        in.list([&](ThriftType) {
          ParquetGroup g;
          in.structure([&](int16_t f, ThriftType t) {
            if (f == 1) in.list([&](ThriftType) { g.columns.push_back(read_chunk(in, where)); });
            else if (f == 3) g.rows = in.integer();
            else in.skip(t);
          });
          groups_.push_back(std::move(g));
        });
        break;
      case 8: throw InputError(where + ": the file is encrypted");
      default: in.skip(type);
    }
  });
  Tree tree(std::move(elements), where);
  root_ = tree.build();
  int64_t rows = 0;
  for (const ParquetGroup& g : groups_) {
    if (static_cast<int>(g.columns.size()) != tree.leaves()) throw InputError(where + ": a row group has " + std::to_string(g.columns.size()) + " columns, want " + std::to_string(tree.leaves()));
    if (g.rows < 0 || g.rows > rows_ - rows) throw InputError(where + ": the row groups have more rows than the file: want " + std::to_string(rows_));
    rows += g.rows;
  }
  if (rows != rows_) throw InputError(where + ": the row groups have " + std::to_string(rows) + " rows, want " + std::to_string(rows_));
}

std::string ParquetFile::columns() const {
  std::string out;
  for (const ParquetNode& n : root_.children) out += (out.empty() ? "\"" : ", \"") + n.name + "\"";
  return out;
}

}  // namespace weft::data
