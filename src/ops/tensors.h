// Between at::Tensor and the plain pointers of kernels. Sources only: include after ops/aten.h.
#pragma once
#include "base/dtype.h"
#include "base/error.h"
#include "ops/aten.h"
#include "ops/policy.h"

namespace weft::ops {

DType dtype_of(const at::Tensor&);            // ShapeError for a dtype that Weft does not have
DType dtype_of(at::ScalarType);
at::ScalarType scalar_type(DType);            // kF8E8M0, kF4E2M1 and kU16 are bytes or shorts to ATen
std::string describe(const at::Tensor&);      // "[128, 64] bf16 cpu", for messages
kernels::Device device_of(at::Device);        // this_cpu(), or the GPU's properties, read once
kernels::Launch launch_on(const at::Tensor&);  // the current stream of its device, or the CPU's threads

// A tensor's address for a kernel, to which null says "not there": null for an undefined tensor only. A tensor of no elements has no
// address of its own, nor has one without data (meta); it gets one that nothing reads. `floats` is null for other dtypes too: their kernels are the reference's.
void* address(const at::Tensor&);
float* floats(const at::Tensor&);
void* any_address();  // the one that nothing reads, aligned; also for what a forward would have saved, where candidates are only asked

// Accumulation dtype: fp64 stays fp64, everything else computes in fp32.
inline at::ScalarType wide(const at::Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// Throws ShapeError `op: what: got X, want Y` when `ok` is false.
void check_shape(bool ok, const char* op, const char* what, const std::string& got, const std::string& want);

}  // namespace weft::ops
