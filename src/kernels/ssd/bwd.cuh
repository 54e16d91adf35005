// The passes of the SSD backward and how its workspace is cut.
#pragma once
#include "kernels/common/packed.cuh"
#include "kernels/ssd/tiles.cuh"

namespace weft::kernels::ssd {

struct BwdWorkspace {
  void* d_states;  // [slots, H, P, N] bf16: gradient of the state after each chunk
  float* dA;       // [slots, H]
  float* dD;       // [slots, H]
};

void bwd_state(const SsdBwd&, void* d_states, cudaStream_t);

}  // namespace weft::kernels::ssd
