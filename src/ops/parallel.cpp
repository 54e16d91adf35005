#include "ops/parallel.h"

#include <ATen/Parallel.h>

#ifndef INTRA_OP_PARALLEL
#error "compiled without OpenMP this loop would be serial"
#endif

namespace weft::ops {

void parallel_on_aten(int64_t count, int64_t grain, RangeBody body) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body.call(body.object, begin, end); });
}

}  // namespace weft::ops
