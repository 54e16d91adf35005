// Rows of a Parquet file as JSON lines with the columns that are wanted, so that all that reads JSON lines reads Parquet.
// Lists become lists, groups objects, nulls null; text is escaped, never changed.
// Source for the nesting: Melnik et al., "Dremel: interactive analysis of web-scale datasets", 2010.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/parquet_column.h"

namespace weft::data {

class ParquetRows {
 public:
  // InputError when the file has none of the columns. Row groups before `first_row` are not touched.
  ParquetRows(const std::string& path, const std::vector<std::string>& columns, int64_t first_row = 0);
  int64_t rows() const { return file_.rows(); }
  bool next(std::string& line);  // without a line end; false behind the last row
 private:
  void open_group();
  void object(const std::vector<const ParquetNode*>& fields, std::string& out);
  void field(const ParquetNode& node, std::string& out);
  void present(const ParquetNode& node, std::string& out);
  void absent(const ParquetNode& node);
  ParquetColumn& column(const ParquetNode& node) { return *columns_[static_cast<size_t>(node.first_leaf)]; }
  ParquetFile file_;
  std::vector<const ParquetNode*> wanted_;
  std::vector<std::unique_ptr<ParquetColumn>> columns_;  // by leaf; null where not wanted
  size_t group_ = 0;
  int64_t row_ = 0, group_left_ = 0;
};

}  // namespace weft::data
