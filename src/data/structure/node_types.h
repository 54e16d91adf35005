// The node types of the side stream `ast_node_type`: what libclang calls a cursor, in 64 classes of ten groups. docs/structure.md
// prints the table; a test keeps the two equal.
#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace weft::data {

struct NodeType {
  const char *name, *group;
  const char* kinds;  // numbers of libclang's cursor kinds, "106-108, 149"; "" for those that no kind has
};
std::span<const NodeType> node_types();    // the position is the id
int node_type_of_kind(int cursor_kind);    // 0 for what is not listed
constexpr int kNodeTypes = 64, kOtherNode = 0, kCommentNode = 1;

enum class Structure : uint8_t { kOther, kPreamble, kSignature, kBody, kClass, kMember, kComment, kTypedef, kNamespace };
constexpr int kStructures = 9;
const char* name_of(Structure);

std::string structure_markdown();  // both tables, as docs/structure.md has them

}  // namespace weft::data
