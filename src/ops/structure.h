// Structure embedding (nam56r.md 8): id streams (syntax classes, depths, ...) share one stacked table.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct StructureStream {
  at::Tensor ids;   // [T] int32; below 0: absent; above: the last class. Undefined: the stream is missing and adds nothing
  int64_t classes;  // rows of the table
};

// y[t] = sum_c scale[c] * table[offset_c + min(id_c[t], classes_c - 1)]. table [sum of classes, dim], scale [streams] fp32 (fp64 in
// parity runs). 1 to 8 streams. Returns [tokens, dim] in the table's dtype. ShapeError.
at::Tensor structure_embedding(const std::vector<StructureStream>&, int64_t tokens, Weight& table, Weight& scale, const Policy&);

}  // namespace weft::ops
