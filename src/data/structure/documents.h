// Pieces to documents: which callees go in, in what order, and what is written of them.
#pragma once
#include <functional>
#include <unordered_set>

#include "data/indexed.h"
#include "data/prepare.h"
#include "data/side_streams.h"
#include "data/structure/aligned.h"
#include "data/structure/function_table.h"
#include "data/structure/prepare_structure.h"

namespace weft::data {

class StructureWriter {  // one split: tokens, streams, lines of documents
 public:
  struct Document {
    std::array<std::vector<int32_t>, kNumStreams> streams;
    std::vector<int32_t> ids;
    std::string line;  // JSON
  };
  StructureWriter(const std::string& prefix, TokenType type);
  void add(const Document&);
  int64_t documents() const { return tokens_.documents(); }
  void finish();   // with the block hashes
  void discard();

 private:
  std::string prefix_;
  IndexedWriter tokens_;
  SideStreamWriter streams_;
  PartFile lines_;
};

struct DocumentOptions {
  StructureOptions structure;
  HoldOut hold_out = HoldOut::kNone;
  int64_t hold_out_every = 0, memory = 0;
  int32_t eod = -1;  // appended when it is 0 or above
};
class DocumentMaker {
 public:
  DocumentMaker(const FunctionTable&, const Spool&, const MappedFile& tokens, const std::vector<std::string>& paths, const DocumentOptions&);
  bool held_out(int32_t row) const { return data::held_out(table_, row, options_.hold_out, options_.hold_out_every); }
  // The document of a root; false when it is too short or its text was there before.
  bool make(int32_t root, StructureWriter::Document& out, StructureReport& report);

 private:
  struct Part { int32_t row; int64_t tokens; };
  std::vector<Part> choose(int32_t root, StructureReport& report);
  const FunctionTable& table_;
  const Spool& spool_;
  const MappedFile& tokens_;
  const std::vector<std::string>& paths_;
  DocumentOptions options_;
  std::vector<int32_t> seen_at_;
  std::unordered_set<std::string> digests_;
};

}  // namespace weft::data
