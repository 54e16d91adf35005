// Structure embedding: up to 8 id streams share one stacked table S [sum of classes, dim].
//   y[t, :] = sum_c scale[c] * S[offset_c + min(id_c[t], classes_c - 1), :]; an id below 0 or a null stream adds nothing.
// Backward: dS and dscale in a fixed order (deterministic), added to. Bound: memory (y or dy once; S stays in cache).
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct StructureStreams {
  const int32_t* ids[8];  // [tokens] each, or null
  int32_t classes[8];     // rows of S of each stream; offsets are their prefix sums
  int32_t num;            // streams, 1 to 8
};

struct StructureFwd {
  StructureStreams streams;
  const void* table;   // [sum of classes, dim] dtype
  const float* scale;  // [num] fp32 on the device
  void* y;             // [tokens, dim] dtype
  int64_t tokens;
  int32_t dim;
  DType dtype;
};

struct StructureBwd {
  StructureStreams streams;
  const void* dy;      // [tokens, dim] dtype
  const void* table;   // [sum of classes, dim] dtype
  const float* scale;  // [num] fp32
  float* dtable;       // [sum of classes, dim] fp32, added to; or null
  float* dscale;       // [num] fp32, added to; or null
  int64_t tokens;
  int32_t dim;
  DType dtype;
};

Support supports_structure_fwd_sm90(const StructureFwd&, const Device&);
Support supports_structure_bwd_sm90(const StructureBwd&, const Device&);
size_t workspace_structure_bwd_sm90(const StructureBwd&);
void structure_fwd_sm90(const StructureFwd&, const Launch&);
void structure_bwd_sm90(const StructureBwd&, const Launch&);

}  // namespace weft::kernels
