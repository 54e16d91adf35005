// For the kernel checks, on a GPU or on the host emulation (WEFT_EMULATE): buffers, random data, comparison, timing, one list of rows.
// A check runs a kernel on poisoned outputs and compares with a plain fp64 loop.
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#if defined(WEFT_EMULATE)
#include "emulate.h"
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#endif
#include "kernels/launch.h"

namespace weft::check {

using bf16 = __nv_bfloat16;

inline float value(float v) { return v; }
inline float value(bf16 v) { return __bfloat162float(v); }
inline float value(int32_t v) { return static_cast<float>(v); }

#if defined(WEFT_EMULATE)
inline void* device_alloc(size_t n) {  // exact size: an out-of-bounds access shows under AddressSanitizer
  void* p = nullptr;
  if (posix_memalign(&p, 256, n ? n : 1) != 0) std::abort();
  return p;
}
inline void device_free(void* p) { std::free(p); }
inline void device_copy(void* to, const void* from, size_t n) { std::memcpy(to, from, n); }
inline void device_fill(void* p, int byte, size_t n) { std::memset(p, byte, n); }
inline void device_wait(const char*) {}
inline kernels::Device device() { return {kernels::Device::kCuda, 90, 132, 232448, 0}; }
#else
inline void must(cudaError_t e, const char* what) {
  if (e != cudaSuccess) std::printf("%s: %s\n", what, cudaGetErrorString(e)), std::exit(1);
}
inline void* device_alloc(size_t n) { void* p; must(cudaMalloc(&p, n ? n : 1), "cudaMalloc"); return p; }
inline void device_free(void* p) { cudaFree(p); }
// Both wait for the device: a fill, or the end of a copy from pageable memory, may else come after a kernel on a stream that does not wait for
// the default one.
inline void device_copy(void* to, const void* from, size_t n) { must(cudaMemcpy(to, from, n, cudaMemcpyDefault), "cudaMemcpy"), must(cudaDeviceSynchronize(), "after a copy"); }
inline void device_fill(void* p, int byte, size_t n) { must(cudaMemset(p, byte, n), "cudaMemset"), must(cudaDeviceSynchronize(), "after a fill"); }
inline void device_wait(const char* what) { must(cudaGetLastError(), what), must(cudaDeviceSynchronize(), what); }
inline kernels::Device device() {
  cudaDeviceProp p;
  must(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties");
  return {kernels::Device::kCuda, p.major * 10 + p.minor, p.multiProcessorCount, static_cast<int>(p.sharedMemPerBlockOptin), 0};
}
#endif

template <class T>
struct Buffer {  // device memory; outputs start as NaN (all bits set)
  T* data = nullptr;
  size_t size = 0;
  explicit Buffer(size_t n) : data(static_cast<T*>(device_alloc(n * sizeof(T)))), size(n) { poison(); }
  explicit Buffer(const std::vector<T>& v) : Buffer(v.size()) { device_copy(data, v.data(), size * sizeof(T)); }
  Buffer(const Buffer&) = delete;
  ~Buffer() { device_free(data); }
  void poison() { device_fill(data, 0xff, size * sizeof(T)); }
  void zero() { device_fill(data, 0, size * sizeof(T)); }
  std::vector<T> host() const {
    std::vector<T> v(size);
    device_copy(v.data(), data, size * sizeof(T));
    return v;
  }
};

struct Random {
  std::mt19937_64 engine;
  explicit Random(uint64_t seed) : engine(seed) {}
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(engine() >> 40) * (1.f / (1 << 24)); }
  float normal() { return std::sqrt(-2 * std::log(uniform(1e-7f, 1))) * std::cos(6.2831853f * uniform(0, 1)); }
  template <class T>
  std::vector<T> fill(size_t n, std::function<float(Random&)> draw) {
    std::vector<T> v(n);
    for (auto& e : v) {
      if constexpr (std::is_same_v<T, bf16>) e = __float2bfloat16(draw(*this)); else e = static_cast<T>(draw(*this));
    }
    return v;
  }
  template <class T>
  std::vector<T> normal(size_t n, float scale = 1) { return fill<T>(n, [scale](Random& r) { return scale * r.normal(); }); }
  // Fast fill for large timing inputs: a table of normals, repeated with a stride.
  template <class T>
  std::vector<T> bulk(size_t n, float scale = 1) {
    const auto table = normal<T>(8191, scale);
    std::vector<T> v(n);
    for (size_t i = 0; i < n; ++i) v[i] = table[(i * 2654435761u >> 7) % table.size()];
    return v;
  }
};

inline int& failures() { static int n = 0; return n; }
inline int& rows() { static int n = 0; return n; }

// ||got - want|| / ||want|| <= relative, and no element further off than `worst` times the largest |want|. NaN fails.
template <class T>
void compare(const std::string& row, const std::vector<T>& got, const std::vector<double>& want, double relative = 1e-2, double worst = 5e-2) {
  double error = 0, norm = 0, largest = 0, off = 0;
  size_t at = 0, bad = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = value(got[i]) - want[i];
    if (!(std::abs(d) <= 1e300)) { if (bad++ == 0) at = i; continue; }
    error += d * d, norm += want[i] * want[i], largest = std::max(largest, std::abs(want[i]));
    if (std::abs(d) > off) { off = std::abs(d); if (bad == 0) at = i; }
  }
  const double rel = std::sqrt(error) / std::max(std::sqrt(norm), 1e-30);
  const bool ok = got.size() >= want.size() && bad == 0 && (want.empty() || (rel <= relative && off <= worst * largest) || (norm == 0 && error == 0));
  ++rows(), failures() += !ok;
  std::printf("%s %-64s rel %.2e worst %.2e", ok ? "ok  " : "FAIL", row.c_str(), rel, largest > 0 ? off / largest : off);
  if (!ok && !want.empty()) std::printf("  at %zu of %zu: got %g want %g, %zu not finite", at, want.size(), value(got[at]), want[at], bad);
  std::printf("\n");
}
inline void expect(const std::string& row, bool ok, const std::string& note = "") {
  ++rows(), failures() += !ok;
  std::printf("%s %-64s %s\n", ok ? "ok  " : "FAIL", row.c_str(), note.c_str());
}

// Median ms of `repeat` runs.
inline double time_ms(const std::function<void()>& run, int repeat = 20) {
#if defined(WEFT_EMULATE)
  (void)repeat, run();
  return 0;
#else
  for (int i = 0; i < 3; ++i) run();
  std::vector<float> ms(repeat);
  cudaEvent_t a, b;
  must(cudaEventCreate(&a), "event"), must(cudaEventCreate(&b), "event");
  for (auto& m : ms) {
    cudaEventRecord(a), run(), cudaEventRecord(b);
    must(cudaEventSynchronize(b), "timed run"), cudaEventElapsedTime(&m, a, b);
  }
  std::sort(ms.begin(), ms.end());
  cudaEventDestroy(a), cudaEventDestroy(b);
  return ms[repeat / 2];
#endif
}
inline void report(const std::string& row, double ms, double goal_ms, double bytes, double flops) {
  std::printf("perf %-56s %8.3f ms  goal %7.3f  %6.2f TB/s %7.1f TFLOP/s\n", row.c_str(), ms, goal_ms, bytes / ms * 1e-9, flops / ms * 1e-9);
}

struct Result {  // an output as a kernel has left it, and how it began
  void* data;
  size_t bytes;
  int began;  // every byte: 0xff poison, 0 for outputs that are added to
};
template <class T>
Result written(const Buffer<T>& b) { return {b.data, b.size * sizeof(T), 0xff}; }
template <class T>
Result added(const Buffer<T>& b) { return {b.data, b.size * sizeof(T), 0}; }

// Once more directly and once from a CUDA graph, on outputs that begin as before: the same bits, or, where sums have no fixed order,
// other bytes than before. The results were written by the same call before.
inline void again(const std::string& row, const std::function<void(const kernels::Launch&)>& run, void* workspace, std::vector<Result> results, bool same_bits = true) {
  const auto read = [](const Result& r) {
    std::vector<uint8_t> v(r.bytes);
    device_copy(v.data(), r.data, r.bytes);
    return v;
  };
  std::vector<std::vector<uint8_t>> first;
  for (const Result& r : results) first.push_back(read(r));
  const auto check = [&](const char* how, const std::function<void()>& go) {
    for (const Result& r : results) device_fill(r.data, r.began, r.bytes);
    go();
    device_wait(how);
    bool same = true;
    for (size_t i = 0; i < results.size(); ++i)
      same &= same_bits ? read(results[i]) == first[i] : results[i].bytes == 0 || read(results[i]) != std::vector<uint8_t>(results[i].bytes, static_cast<uint8_t>(results[i].began));
    expect(row + how, same, same ? "" : "other bits");
  };
  check("again", [&] { run({nullptr, workspace}); });
#if !defined(WEFT_EMULATE)
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  run({stream, workspace});
  must(cudaStreamEndCapture(stream, &graph), "end of capture");
  must(cudaGraphInstantiate(&exec, graph, 0), "graph");
  check("from a graph", [&] { must(cudaDeviceSynchronize(), "before a graph"), must(cudaGraphLaunch(exec, stream), "graph launch"), must(cudaStreamSynchronize(stream), "graph"); });
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
#endif
}

inline std::vector<int32_t> packed(const std::vector<int>& lengths) {
  std::vector<int32_t> cu{0};
  for (int l : lengths) cu.push_back(cu.back() + l);
  return cu;
}
template <class T>
std::vector<double> wide(const std::vector<T>& v) {
  std::vector<double> r(v.size());
  for (size_t i = 0; i < v.size(); ++i) r[i] = value(v[i]);
  return r;
}

}  // namespace weft::check
