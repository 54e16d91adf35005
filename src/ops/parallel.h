// Loops on the tensor library's own threads. Every loop goes through here: at::parallel_for is serial in a source that is
// compiled without OpenMP, as all others are.
#pragma once
#include "base/parallel.h"

namespace weft::ops {

void parallel_on_aten(int64_t count, int64_t grain, RangeBody body);  // a ParallelFor; at::get_num_threads() threads at most

}  // namespace weft::ops
