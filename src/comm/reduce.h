// Element-wise reductions on host memory, in the caller's order. 16-bit floats are summed in fp32 and rounded once.
#pragma once
#include <span>

#include "comm/comm.h"

namespace weft {

// out[i] = op over r of in[r][i], r ascending, for i in [0, count). CommError for a dtype that has no sum.
void reduce_into(std::span<const void* const> in, void* out, size_t count, DType, Reduce, const char* what);

}  // namespace weft
