// The footer of a Parquet file: its schema as a tree and where the pages of each column lie.
// Source: Apache Parquet, "parquet.thrift" and "File format". Not read: encrypted files, columns in other files.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/files.h"

namespace weft::data {

enum class ParquetType : uint8_t { kBool, kInt32, kInt64, kInt96, kFloat, kDouble, kBytes, kFixed, kGroup };

struct ParquetNode {
  std::string name;
  enum Repetition : uint8_t { kRequired, kOptional, kRepeated } repetition = kRequired;
  ParquetType type = ParquetType::kGroup;
  int32_t width = 0;       // of kFixed
  bool list = false;       // a LIST group: one repeated child that holds the element
  bool text = false;       // kBytes that are UTF-8 (or JSON), kept apart from raw bytes by its annotation
  int max_def = 0, max_rep = 0;
  int first_leaf = 0, end_leaf = 0;  // columns below, in file order; one for a leaf
  std::vector<ParquetNode> children;
};

struct ParquetChunk {  // one column of one row group
  int64_t begin = 0, end = 0;  // bytes of the file
  int64_t values = 0;
  int32_t codec = 0;
};
struct ParquetGroup {
  int64_t rows = 0;
  std::vector<ParquetChunk> columns;
};

class ParquetFile {
 public:
  explicit ParquetFile(const std::string& path);  // InputError, naming file and rule
  const std::string& path() const { return path_; }
  int64_t rows() const { return rows_; }
  const ParquetNode& root() const { return root_; }
  const std::vector<ParquetGroup>& groups() const { return groups_; }
  std::string_view bytes() const { return map_->text(); }
  std::string columns() const;  // names of the top level, for messages

 private:
  void read_footer(std::string_view footer);
  std::string path_;
  std::shared_ptr<const MappedFile> map_;
  ParquetNode root_;
  std::vector<ParquetGroup> groups_;
  int64_t rows_ = 0;
};

}  // namespace weft::data
