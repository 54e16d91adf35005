// What every kernel shares: where it runs, what it is lent, how it refuses. Torch-free.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/parallel.h"

typedef struct CUstream_st* cudaStream_t;

namespace weft::kernels {

struct Device {
  enum Kind : uint8_t { kCpu, kCuda } kind = kCpu;
  int sm = 0, sm_count = 0, smem_bytes = 0;  // CUDA: 90 for sm_90, multiprocessors, opt-in shared memory of a block
  uint32_t isa = 0;                          // CPU: bits of Isa
};
enum Isa : uint32_t { kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 4, kAmxBf16 = 8 };

struct Launch {
  cudaStream_t stream = nullptr;   // CUDA kernels enqueue here and return
  void* workspace = nullptr;       // as many bytes as the candidate's `workspace` asked for
  ParallelFor parallel = nullptr;  // CPU kernels: the caller's threads; null is serial
};

struct Support {  // empty when the candidate takes the call, else the reason it does not
  const char* refusal = nullptr;
  explicit operator bool() const { return refusal == nullptr; }
};

}  // namespace weft::kernels
