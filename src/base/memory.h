// How the process keeps freed memory.
#pragma once

namespace weft {

// Large tensors come and go at every step: by default the C library returns each to the kernel and pays a page fault for every
// 4 KiB when it comes again, which costs more than most element-wise ops. After this call freed memory stays with the process.
// Called once in main, before threads start; does nothing where the C library is not glibc.
void keep_freed_memory();

}  // namespace weft
