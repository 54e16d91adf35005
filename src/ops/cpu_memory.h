// Memory of CPU tensors. A step frees and takes the same sizes again: returning each to the kernel would cost a page fault for
// every 4 KiB, and leaving them to the C library's heap lets it grow without end where sizes depend on the data (its threshold for
// mappings rises to the largest block ever freed).
#pragma once
#include <cstddef>
#include <cstdint>

namespace weft::ops {

// From now on large CPU tensors come from blocks of a few sizes that are kept and used again. Blocks in use and waiting stay together within
// a quarter (or 64 MiB, where that is more) above the most that was lately in use, which all that a step frees fits into: the next step maps
// nothing. Called once, before the first tensor; calling it again changes nothing.
void keep_cpu_tensors();

struct CpuMemory {
  int64_t used = 0, kept = 0;  // bytes in large tensors; bytes of blocks that wait
};
CpuMemory cpu_memory();  // zeros before keep_cpu_tensors()

size_t block_size(size_t bytes);  // the size of the block that holds so much: at most an eighth more

}  // namespace weft::ops
