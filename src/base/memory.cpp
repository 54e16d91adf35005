#include "base/memory.h"

#if defined(__GLIBC__)
#include <malloc.h>

#include <limits>
#endif

namespace weft {

void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

}  // namespace weft
