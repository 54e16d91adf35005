#include "check.h"

#include "kernels/common/grid.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace weft::check {
namespace {

#if defined(WEFT_EMULATE)
void* allocate(size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 256, bytes > 0 ? bytes : 1) != 0) throw std::bad_alloc();
  return p;
}
void release(void* p) { std::free(p); }
void set(void* p, int byte, size_t bytes) { std::memset(p, byte, bytes); }
void copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void wait(cudaStream_t, const char*) {}
double timed(cudaStream_t, const std::function<void()>&, int) {
  throw std::runtime_error("perf: the host emulation has no timing");
}
void replay(cudaStream_t, const std::function<void()>& body) { body(); }
#else
void require(cudaError_t e, const char* what) {
  if (e != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(e) + " (" + cudaGetErrorString(e) + ")");
}
void* allocate(size_t bytes) {
  void* p = nullptr;
  require(cudaMalloc(&p, bytes > 0 ? bytes : 1), "cudaMalloc");
  return p;
}
void release(void* p) { cudaFree(p); }
// Both wait for the device: graphs run on a stream that does not wait for the default one.
void set(void* p, int byte, size_t bytes) { require(cudaMemset(p, byte, bytes), "cudaMemset"), require(cudaDeviceSynchronize(), "after a fill"); }
void copy(void* to, const void* from, size_t bytes) { require(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy"), require(cudaDeviceSynchronize(), "after a copy"); }
void wait(cudaStream_t stream, const char* what) {
  require(stream == nullptr ? cudaDeviceSynchronize() : cudaStreamSynchronize(stream), what);
}

void replay(cudaStream_t stream, const std::function<void()>& body) {  // as a captured graph
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin capture");
  body();
  require(cudaStreamEndCapture(stream, &graph), "end capture");
  require(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  require(cudaGraphLaunch(exec, stream), "replay");
  require(cudaStreamSynchronize(stream), "replay");
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
}
#endif

template <class T>
T at(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
void put(void* p, T v) {
  std::memcpy(p, &v, sizeof v);
}

__device__ uint64_t mix(uint64_t z) {
  z += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

__global__ void fill_random(void* out, int64_t count, DType dtype, double low, double high, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < count; i += gridDim.x * int64_t{256}) {
    const double v =
        low + (high - low) * static_cast<double>(mix(seed * 0x100000001B3ull + static_cast<uint64_t>(i)) >> 11) * 0x1p-53;
    switch (dtype) {
      case DType::kF32:
        static_cast<float*>(out)[i] = static_cast<float>(v);
        break;
      case DType::kBf16:
        static_cast<__nv_bfloat16*>(out)[i] = __float2bfloat16_rn(static_cast<float>(v));
        break;
      case DType::kI32:
        static_cast<int32_t*>(out)[i] = static_cast<int32_t>(floor(v));
        break;
      case DType::kI64:
        static_cast<int64_t*>(out)[i] = static_cast<int64_t>(floor(v));
        break;
      case DType::kF64:
        static_cast<double*>(out)[i] = v;
        break;
      default:
        static_cast<uint8_t*>(out)[i] = static_cast<uint8_t>(v);
    }
  }
}

#if !defined(WEFT_EMULATE)
double timed(cudaStream_t stream, const std::function<void()>& body, int repeats) {
  cudaEvent_t begin, end;
  require(cudaEventCreate(&begin), "event"), require(cudaEventCreate(&end), "event");
  std::vector<float> ms;
  for (int i = 0; i < repeats + 3; ++i) {
    require(cudaEventRecord(begin, stream), "record");
    body();
    require(cudaEventRecord(end, stream), "record");
    require(cudaEventSynchronize(end), "run");
    float t = 0;
    require(cudaEventElapsedTime(&t, begin, end), "elapsed");
    if (i >= 3) ms.push_back(t);
  }
  cudaEventDestroy(begin), cudaEventDestroy(end);
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2];
}
#endif

}  // namespace

uint64_t Random::bits() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}
double Random::normal() {
  const double u = 1 - uniform(), v = uniform();
  return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
}

double to_double(DType t, const void* p) {
  switch (t) {
    case DType::kF64:
      return at<double>(p);
    case DType::kF32:
      return at<float>(p);
    case DType::kF16:
      return __half2float(at<__half>(p));
    case DType::kBf16:
      return __bfloat162float(at<__nv_bfloat16>(p));
    case DType::kI64:
      return static_cast<double>(at<int64_t>(p));
    case DType::kI32:
      return at<int32_t>(p);
    case DType::kU16:
      return at<uint16_t>(p);
    case DType::kF8E4M3:
      return static_cast<float>(at<__nv_fp8_e4m3>(p));
    case DType::kF8E5M2:
      return static_cast<float>(at<__nv_fp8_e5m2>(p));
    default:
      return at<uint8_t>(p);
  }
}
void from_double(DType t, double v, void* p) {
  switch (t) {
    case DType::kF64:
      return put(p, v);
    case DType::kF32:
      return put(p, static_cast<float>(v));
    case DType::kF16:
      return put(p, __double2half(v));
    case DType::kBf16:
      return put(p, __double2bfloat16(v));
    case DType::kI64:
      return put(p, static_cast<int64_t>(v));
    case DType::kI32:
      return put(p, static_cast<int32_t>(v));
    case DType::kU16:
      return put(p, static_cast<uint16_t>(v));
    case DType::kF8E4M3:
      return put(p, __nv_cvt_double_to_fp8(v, __NV_SATFINITE, __NV_E4M3));
    case DType::kF8E5M2:
      return put(p, __nv_cvt_double_to_fp8(v, __NV_SATFINITE, __NV_E5M2));
    default:
      return put(p, static_cast<uint8_t>(v));
  }
}
double round_to(DType t, double v) {
  uint8_t raw[8];
  from_double(t, v, raw);
  return to_double(t, raw);
}

Buffer::Buffer(size_t bytes, size_t offset) : bytes_(bytes), total_(bytes + offset + 2 * kGuard) {
  base_ = allocate(total_);
  set(base_, 0xff, total_);
  data_ = static_cast<char*>(base_) + kGuard + offset;
}
Buffer::~Buffer() { release(base_); }
void Buffer::upload(const void* from) {
  if (bytes_ > 0) copy(data_, from, bytes_);
}
std::vector<uint8_t> Buffer::download() const {
  std::vector<uint8_t> out(bytes_);
  if (bytes_ > 0) copy(out.data(), data_, bytes_);
  return out;
}
bool Buffer::guards_hold() const {
  std::vector<uint8_t> all(total_);
  copy(all.data(), base_, total_);
  const size_t begin = static_cast<size_t>(static_cast<char*>(data_) - static_cast<char*>(base_));
  for (size_t i = 0; i < total_; ++i)
    if ((i < begin || i >= begin + bytes_) && all[i] != 0xff) return false;
  return true;
}

Array Array::of(const std::vector<double>& values, DType dtype, size_t offset) {
  Array a;
  a.dtype_ = dtype;
  const size_t size = static_cast<size_t>(bits(dtype)) / 8;
  a.raw_.resize(values.size() * size);
  a.start_.resize(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    from_double(dtype, values[i], a.raw_.data() + i * size);
    a.start_[i] = to_double(dtype, a.raw_.data() + i * size);
  }
  a.buffer_ = new Buffer(a.raw_.size(), offset);
  a.restore();
  return a;
}
Array Array::normal(Random& random, int64_t count, DType dtype, double scale, double shift, size_t offset) {
  std::vector<double> v(static_cast<size_t>(count));
  for (double& x : v) x = random.normal() * scale + shift;
  return of(v, dtype, offset);
}
Array Array::poison(int64_t count, DType dtype, size_t offset) {
  const bool integer = dtype == DType::kI32 || dtype == DType::kI64 || dtype == DType::kU8 || dtype == DType::kU16;
  return of(std::vector<double>(static_cast<size_t>(count), integer ? 119.0 : std::numeric_limits<double>::quiet_NaN()), dtype,
            offset);
}
Array::Array(Array&& o) noexcept : start_(std::move(o.start_)), raw_(std::move(o.raw_)), dtype_(o.dtype_), buffer_(o.buffer_) {
  o.buffer_ = nullptr;
}
Array& Array::operator=(Array&& o) noexcept {
  std::swap(start_, o.start_), std::swap(raw_, o.raw_), std::swap(dtype_, o.dtype_), std::swap(buffer_, o.buffer_);
  return *this;
}
Array::~Array() { delete buffer_; }
void Array::restore() const { buffer_->upload(raw_.data()); }
std::vector<double> Array::read() const {
  const std::vector<uint8_t> raw = buffer_->download();
  std::vector<double> out(start_.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = to_double(dtype_, raw.data() + i * static_cast<size_t>(bits(dtype_)) / 8);
  return out;
}

Tolerance rounded(DType t) {
  if (t == DType::kBf16) return {0.00394, 2e-5};
  if (t == DType::kF16) return {0.0006, 2e-5};
  return {4e-6, 4e-6};
}

Checker::Checker(const Options& options) : options_(options) {
#if defined(WEFT_EMULATE)
  device_ = {kernels::Device::kCuda, 90, 132, 232448, 0};
  std::printf("device name=\"host emulation\"\n");
#else
  cudaDeviceProp p;
  require(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties");
  device_.kind = kernels::Device::kCuda;
  device_.sm = p.major * 10 + p.minor;
  device_.sm_count = p.multiProcessorCount;
  device_.smem_bytes = static_cast<int>(p.sharedMemPerBlockOptin);
  require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  std::printf("device name=\"%s\" sm=%d sms=%d l2_mb=%.0f\n", p.name, device_.sm, device_.sm_count, p.l2CacheSize / 1048576.0);
  if (options_.perf) {
    const int64_t bytes = int64_t{1} << 30;
    DeviceRandom from(bytes, DType::kU8, 0, 256), to(bytes, DType::kU8, 0, 256);
    const double ms = timed(
        stream_, [&] { require(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream_), "copy"); }, 20);
    copy_tbps_ = 2.0 * static_cast<double>(bytes) / ms * 1e-9;
    std::printf("perf op=copy shape=1GiB dtype=u8 ms=%.4f gb=%.3f tbps=%.3f pct_copy=100.0\n", ms,
                2.0 * static_cast<double>(bytes) * 1e-9, copy_tbps_);
  }
#endif
}

int Checker::finish() {
  std::printf("summary cases=%d failed=%d comparisons=%d controls_missed=%d\n", cases, failed, comparisons, controls_missed);
  return failed == 0 && controls_missed == 0 ? 0 : 1;
}

Case::Case(Checker& checker, std::string op, std::string shape, DType dtype)
    : checker_(checker), op_(std::move(op)), shape_(std::move(shape)), dtype_(name(dtype)) {}

Case::~Case() {
  ++checker_.cases;
  if (!any_ && why_.empty()) why_ = "nothing was compared";
  if (!why_.empty()) ++checker_.failed;
  std::printf("check op=%s shape=%s dtype=%s ok=%d err=%.3f%s%s%s\n", op_.c_str(), shape_.c_str(), dtype_.c_str(),
              why_.empty() ? 1 : 0, worst_, why_.empty() ? "" : " why=\"", why_.c_str(), why_.empty() ? "" : "\"");
  std::fflush(stdout);
}

void Case::fail(const std::string& why) {
  if (why_.empty()) why_ = why;
}

bool Case::run(kernels::Support support, size_t workspace_bytes, const std::function<void(const kernels::Launch&)>& launch,
               std::initializer_list<const Array*> outputs) {
  if (!support) return fail(std::string("refused: ") + support.refusal), false;
  Buffer workspace(workspace_bytes);
  const kernels::Launch where{checker_.stream(), workspace.data(), nullptr};
  std::vector<std::vector<uint8_t>> first;
  for (int round = 0; round < 2; ++round) {
    for (const Array* a : outputs) a->restore();
    set(workspace.data(), 0xff, workspace_bytes);
    wait(nullptr, "poison");
    if (round == 0)
      launch(where);
    else
      replay(checker_.stream(), [&] { launch(where); });
    wait(checker_.stream(), op_.c_str());
    if (!workspace.guards_hold()) fail("wrote outside the workspace");
    size_t n = 0;
    for (const Array* a : outputs) {
      if (!a->buffer().guards_hold()) fail("wrote outside output " + std::to_string(n));
      if (round == 0)
        first.push_back(a->buffer().download());
      else if (first[n] != a->buffer().download())
        fail("output " + std::to_string(n) + " differs between a direct run and a graph's");
      ++n;
    }
  }
  return true;
}

void Case::expect(const char* what, const Array& array, const std::vector<double>& want, Tolerance t) {
  any_ = true;
  ++checker_.comparisons;
  std::vector<double> got = array.read();
  if (got.size() != want.size()) return fail(std::string(what) + ": sizes differ");
  double square = 0;
  size_t finite = 0;
  for (double w : want)
    if (std::isfinite(w)) square += w * w, ++finite;
  const double rms = finite > 0 ? std::sqrt(square / static_cast<double>(finite)) : 0;
  size_t where = 0;
  auto error = [&] {  // as a part of what is allowed
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      double e;
      if (std::isnan(want[i]) || std::isnan(got[i]))
        e = std::isnan(want[i]) && std::isnan(got[i]) ? 0 : 1e9;
      else if (got[i] == want[i])
        e = 0;
      else
        e = std::abs(got[i] - want[i]) / std::max(t.relative * std::abs(want[i]) + t.of_rms * rms + t.floor, 1e-30);
      if (!(e <= worst)) worst = e, where = i;
    }
    return worst;
  };
  const double e = error();
  worst_ = std::max(worst_, e);
  if (!(e <= 1)) {
    char text[200];
    std::snprintf(text, sizeof text, "%s[%zu]: got %.9g, want %.9g", what, where, got[where], want[where]);
    fail(text);
  }
  if (want.empty()) return;
  const size_t spoiled = want.size() * 2 / 3;  // the negative control
  got[spoiled] = std::isnan(want[spoiled]) ? 0 : want[spoiled] + std::max(rms > 0 ? 0.05 * (std::abs(want[spoiled]) + rms) : 1.0, 2 * t.floor);
  if (error() <= 1) {
    ++checker_.controls_missed;
    fail(std::string(what) + ": the negative control passed");
  }
}

void Case::expect_true(const char* what, bool ok) {
  any_ = true;
  ++checker_.comparisons;
  if (!ok) fail(what);
}

void perf(Checker& checker, const std::string& op, const std::string& shape, DType dtype, double bytes, size_t workspace_bytes,
          const std::function<void(const kernels::Launch&)>& launch, double flops) {
  void* workspace = allocate(workspace_bytes);
  const double ms = timed(
      checker.stream(),
      [&] {
        launch({checker.stream(), workspace, nullptr});
      },
      20);
  release(workspace);
  const double tbps = bytes / ms * 1e-9;
  std::printf("perf op=%s shape=%s dtype=%s ms=%.4f gb=%.3f tbps=%.3f pct_copy=%.1f", op.c_str(), shape.c_str(), name(dtype), ms,
              bytes * 1e-9, tbps, 100 * tbps / checker.copy_tbps());
  if (flops > 0) std::printf(" tflops=%.1f", flops / ms * 1e-9);
  std::printf("\n");
  std::fflush(stdout);
}

DeviceRandom::DeviceRandom(int64_t count, DType dtype, double low, double high, uint64_t seed) {
  data_ = allocate(bytes(dtype, static_cast<size_t>(count)));
  kernels::launch_grid(fill_random, dim3(4096), dim3(256), 0, nullptr, data_, count, dtype, low, high, seed);
  wait(nullptr, "fill_random");
}
DeviceRandom::~DeviceRandom() { release(data_); }

}  // namespace weft::check
