// Errors of CUDA calls, for .cu files: they include nothing of base/ but dtype.h.
#pragma once

namespace weft::kernels {

// Throws weft::CudaError `what: CUDA call failed: got <name of code> (<text>), want cudaSuccess`.
[[noreturn]] void throw_cuda(const char* what, int code);

// After a kernel launch: throws when the launch itself was refused. Does not wait; legal while a stream is captured.
void check_launch(const char* what);

// False on a machine without a GPU, where libraries cannot be asked what they take: their documented limits have to do.
bool cuda_present();

}  // namespace weft::kernels
