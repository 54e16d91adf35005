#include "data/structure/node_types.h"

#include <array>
#include <cstdlib>

#include <fmt/format.h>

namespace weft::data {
namespace {

constexpr NodeType kTable[kNodeTypes] = {
    {"other", "unit", ""},
    {"comment", "unit", ""},
    {"attribute", "unit", "400-499"},
    {"directive", "preprocessor", "500"},
    {"macro definition", "preprocessor", "501"},
    {"macro use", "preprocessor", "502"},
    {"include", "preprocessor", "503"},
    {"namespace", "scope", "22"},
    {"linkage", "scope", "23"},
    {"using", "scope", "33-35"},
    {"static assertion", "scope", "602"},
    {"struct", "type", "2"},
    {"union", "type", "3"},
    {"class", "type", "4"},
    {"enum", "type", "5"},
    {"class template", "type", "31-32"},
    {"type alias", "type", "20, 36, 601"},
    {"template parameter", "type", "27-29"},
    {"base class", "type", "44"},
    {"access", "type", "39"},
    {"friend", "type", "603"},
    {"concept", "type", "604"},
    {"function", "function", "8"},
    {"method", "function", "21"},
    {"constructor", "function", "24"},
    {"destructor", "function", "25"},
    {"conversion", "function", "26"},
    {"function template", "function", "30"},
    {"parameter", "data", "10"},
    {"variable", "data", "9"},
    {"field", "data", "6"},
    {"enumerator", "data", "7"},
    {"type name", "reference", "43"},
    {"template name", "reference", "45"},
    {"namespace name", "reference", "46"},
    {"member name", "reference", "47-50"},
    {"value", "expression", "101"},
    {"member", "expression", "102"},
    {"call", "expression", "103"},
    {"unary", "expression", "112, 136"},
    {"binary", "expression", "114"},
    {"compound assignment", "expression", "115"},
    {"conditional", "expression", "116"},
    {"subscript", "expression", "113"},
    {"cast", "expression", "117, 124-128, 152"},
    {"parentheses", "expression", "111"},
    {"initializer list", "expression", "118-119, 155"},
    {"lambda", "expression", "105, 144"},
    {"new or delete", "expression", "134-135"},
    {"this", "expression", "132"},
    {"throw", "expression", "133"},
    {"other expression", "expression", "100, 104, 120-122, 129, 137-143, 146-148, 150-151, 153-154, 156"},
    {"number", "literal", "106-108, 149"},
    {"string", "literal", "109"},
    {"character", "literal", "110"},
    {"bool or null", "literal", "123, 130-131, 145"},
    {"block", "statement", "202"},
    {"declaration", "statement", "231"},
    {"if", "statement", "205"},
    {"switch", "statement", "203-204, 206"},
    {"loop", "statement", "207-209, 225"},
    {"return", "statement", "214"},
    {"jump", "statement", "201, 210-213"},
    {"other statement", "statement", "200, 215-224, 226-230, 232-299"},
};

constexpr const char* kStructureNames[kStructures][2] = {
    {"other", "what none of the others covers; the blank lines between the parts of a document"},
    {"preamble", "of a file: all before its first function that the classes below do not cover"},
    {"function signature", "a function up to its body, attributes and template head included; a declaration outside a class"},
    {"function body", "from `{` to `}`, whatever stands in it"},
    {"class declaration", "struct, class, union, enum: head and braces"},
    {"class member", "fields, enumerators, declarations of methods, access labels"},
    {"comment", "wherever it stands"},
    {"typedef", "typedef, using =, alias templates"},
    {"namespace", "its head and braces"},
};

constexpr int kKinds = 1024;
std::array<uint8_t, kKinds> make_map() {
  std::array<uint8_t, kKinds> map{};
  for (int type = 0; type < kNodeTypes; ++type) {
    for (const char* at = kTable[type].kinds; *at != 0;) {
      char* end = nullptr;
      const long first = std::strtol(at, &end, 10);
      const long last = *end == '-' ? std::strtol(end + 1, &end, 10) : first;
      for (long k = first; k <= last; ++k) map[static_cast<size_t>(k)] = static_cast<uint8_t>(type);
      at = *end == ',' ? end + 2 : end;
    }
  }
  return map;
}

}  // namespace

std::span<const NodeType> node_types() { return kTable; }

int node_type_of_kind(int kind) {
  static const std::array<uint8_t, kKinds> map = make_map();
  return kind >= 0 && kind < kKinds ? map[static_cast<size_t>(kind)] : kOtherNode;
}

const char* name_of(Structure s) { return kStructureNames[static_cast<int>(s)][0]; }

std::string structure_markdown() {
  std::string out = "| id | structure | covers |\n|---|---|---|\n";
  for (int i = 0; i < kStructures; ++i) out += fmt::format("| {} | {} | {} |\n", i, kStructureNames[i][0], kStructureNames[i][1]);
  out += "\n| id | node type | group | libclang's cursor kinds |\n|---|---|---|---|\n";
  for (int i = 0; i < kNodeTypes; ++i) {
    const std::string_view kinds = kTable[i].kinds;
    out += fmt::format("| {} | {} | {} | {} |\n", i, kTable[i].name, kTable[i].group, !kinds.empty() ? kinds : i == kCommentNode ? "(comment tokens)" : "(all others)");
  }
  return out;
}

}  // namespace weft::data
