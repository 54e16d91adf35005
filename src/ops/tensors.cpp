#include "ops/aten.h"

#include "ops/tensors.h"

#include "ops/parallel.h"

#ifdef WEFT_CUDA
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#endif

#include <ATen/record_function.h>
#include <cxxabi.h>

#include <array>
#include <cstdlib>
#include <mutex>

#include "ops/packing.h"
#include "ops/run.h"
#include "ops/weight.h"

namespace weft::ops {

DType dtype_of(at::ScalarType t) {
  switch (t) {
    case at::kDouble: return DType::kF64;
    case at::kFloat: return DType::kF32;
    case at::kHalf: return DType::kF16;
    case at::kBFloat16: return DType::kBf16;
    case at::kFloat8_e4m3fn: return DType::kF8E4M3;
    case at::kFloat8_e5m2: return DType::kF8E5M2;
    case at::kLong: return DType::kI64;
    case at::kInt: return DType::kI32;
    case at::kUInt16: return DType::kU16;
    case at::kByte: return DType::kU8;
    default: throw ShapeError(std::string("dtype: got ") + at::toString(t) + ", want a float or integer type of Weft");
  }
}

DType dtype_of(const at::Tensor& t) { return dtype_of(t.scalar_type()); }

at::ScalarType scalar_type(DType t) {
  switch (t) {
    case DType::kF64: return at::kDouble;
    case DType::kF32: return at::kFloat;
    case DType::kF16: return at::kHalf;
    case DType::kBf16: return at::kBFloat16;
    case DType::kF8E4M3: return at::kFloat8_e4m3fn;
    case DType::kF8E5M2: return at::kFloat8_e5m2;
    case DType::kI64: return at::kLong;
    case DType::kI32: return at::kInt;
    case DType::kU16: return at::kUInt16;
    case DType::kU8: case DType::kF8E8M0: case DType::kF4E2M1: return at::kByte;
  }
  throw InternalError("scalar_type: unknown dtype");
}

std::string describe(const at::Tensor& t) {
  if (!t.defined()) return "undefined";
  std::string s = "[";
  for (int64_t i = 0; i < t.dim(); ++i) s += (i ? ", " : "") + std::to_string(t.size(i));
  return s + "] " + name(dtype_of(t)) + (t.is_cuda() ? " cuda" : " cpu") + (t.is_contiguous() ? "" : " (strided)");
}

void* any_address() {
  alignas(256) static char nothing[256];
  return nothing;
}

void* address(const at::Tensor& t) {
  if (!t.defined()) return nullptr;
  return t.numel() == 0 || t.is_meta() ? any_address() : t.data_ptr();
}

float* floats(const at::Tensor& t) { return t.defined() && t.scalar_type() == at::kFloat ? static_cast<float*>(address(t)) : nullptr; }

kernels::Device device_of(at::Device device) {
  if (device.is_cpu()) return this_cpu();
#ifdef WEFT_CUDA
  static std::mutex mutex;
  static std::array<kernels::Device, 64> known;
  const int index = device.has_index() ? device.index() : c10::cuda::getCurrentCUDAStream().device_index();
  const std::lock_guard lock(mutex);
  kernels::Device& d = known.at(static_cast<size_t>(index));
  if (d.sm == 0) {
    cudaDeviceProp p{};
    if (const cudaError_t e = cudaGetDeviceProperties(&p, index); e != cudaSuccess)
      throw CudaError(std::string("device: properties of the GPU: ") + cudaGetErrorString(e));
    d = {kernels::Device::kCuda, p.major * 10 + p.minor, p.multiProcessorCount, static_cast<int>(p.sharedMemPerBlockOptin), 0};
  }
  return d;
#else
  throw UnavailableError("device: got " + device.str() + ", want cpu: this build has no CUDA");
#endif
}

kernels::Launch launch_on(const at::Tensor& t) {
  kernels::Launch launch;
  if (t.is_cuda()) {
#ifdef WEFT_CUDA
    launch.stream = c10::cuda::getCurrentCUDAStream(t.device().index()).stream();
#endif
  } else {
    launch.parallel = parallel_on_aten;
  }
  return launch;
}

std::string argument_kind(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(mangled, nullptr, nullptr, &status), std::free);
  const std::string name = status == 0 ? text.get() : mangled;
  const size_t scope = name.rfind(':');
  return scope == std::string::npos ? name : name.substr(scope + 1);
}

void run_erased(const ErasedCall& call, const at::Tensor& like) {
  std::string kind;
  at::RecordFunction record(at::RecordScope::USER_SCOPE);  // costs nothing while nobody listens
  if (record.isActive()) {
    if (call.name == nullptr) kind = argument_kind(call.kind);
    record.before(call.name != nullptr ? std::string_view(call.name) : kind);
  }
  kernels::Launch launch = launch_on(like);
  at::Tensor workspace;
  if (call.workspace > 0) {
    workspace = at::empty({static_cast<int64_t>(call.workspace)}, like.options().dtype(at::kByte).requires_grad(false));
    launch.workspace = workspace.data_ptr();
  }
  call.run(call.candidate, call.args, launch);
}

void check_shape(bool ok, const char* op, const char* what, const std::string& got, const std::string& want) {
  if (!ok) throw ShapeError(std::string(op) + ": " + what + ": got " + got + ", want " + want);
}

void Weight::accumulate(const at::Tensor& dw) {
  if (!trainable) return;
  if (main_grad.defined()) main_grad.add_(dw.view(main_grad.sizes()));
  done();
}

Packing Packing::of(const std::vector<int32_t>& lengths, at::Device device) {
  Packing p;
  p.host_cu_q.push_back(0);
  for (int32_t n : lengths) {
    if (n < 0) throw ShapeError("packing: document length: got " + std::to_string(n) + ", want 0 or more");
    p.host_cu_q.push_back(p.host_cu_q.back() + n);
    p.max_q = std::max(p.max_q, n);
  }
  p.max_kv = p.max_q;
  p.host_kv_lens = lengths;
  const at::Device place = device.is_meta() ? at::Device(at::kCPU) : device;  // lengths are read where tensors have no data, too
  p.cu_q = at::tensor(p.host_cu_q, at::kInt).to(place);
  p.kv_lens = at::tensor(lengths, at::kInt).to(place);
  return p;
}

}  // namespace weft::ops
