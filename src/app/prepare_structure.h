// The part of `weft prepare` that reads C and C++ with libclang: its flags and its report.
#pragma once
#include <string>

#include "base/json.h"
#include "data/structure/prepare_structure.h"

namespace weft::app {

class Flags;

struct StructureFlags {
  std::string language;  // "": off
  data::StructureOptions options;
};
// After all other flags of the verb: those that mean nothing here are refused beside --structure.
void add_structure_flags(Flags&, StructureFlags&);
// Prepares and prints what is particular to sources; adds its figures.
data::PrepareReport prepare_structure(const data::PrepareOptions& options, const StructureFlags& flags, const data::TokenizerMaker& maker, Json& figures);

}  // namespace weft::app
