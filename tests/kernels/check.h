// Checks own CUDA kernels against plain fp64 loops on the host, without torch.
//
// A case runs a kernel twice from the same start: directly, then captured in a CUDA graph. Both runs must give the same bits,
// equal the reference within the tolerance, and leave the guard bytes around every buffer alone. Outputs and workspaces start as
// poison, so what is not written shows. After each comparison one element of the result is spoiled: that must fail (the negative
// control). Built with WEFT_EMULATE the kernels run on the host emulation and there are no graphs and no perf. With perf a case
// is timed instead: bytes over time, beside a device copy of the same process.
#pragma once
#if defined(WEFT_EMULATE)
#include "emulate_math.h"
#else
#include <cuda_runtime.h>
#endif

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "kernels/launch.h"

namespace weft::check {

struct Options {
  bool perf = false, small = false;
  std::string filter;  // part of an op's name
};

class Random {  // splitmix64
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  uint64_t bits();
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
  double normal();
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }

 private:
  uint64_t state_;
};

class Buffer {  // device bytes between two guards
 public:
  explicit Buffer(size_t bytes, size_t offset = 0);  // `offset` bytes off the 256-byte alignment
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void upload(const void* from);
  std::vector<uint8_t> download() const;
  bool guards_hold() const;

 private:
  static constexpr size_t kGuard = 512;
  void *base_ = nullptr, *data_ = nullptr;
  size_t bytes_, total_;
};

// A tensor: its start in fp64 (rounded to dtype) and its copy on the device.
class Array {
 public:
  static Array normal(Random&, int64_t count, DType, double scale = 1, double shift = 0, size_t offset = 0);
  static Array of(const std::vector<double>& values, DType, size_t offset = 0);
  static Array poison(int64_t count, DType, size_t offset = 0);  // NaN, or 0x7f7f.. for integers
  Array(Array&&) noexcept;
  Array& operator=(Array&&) noexcept;
  ~Array();

  const std::vector<double>& start() const { return start_; }
  double operator[](int64_t i) const { return start_[static_cast<size_t>(i)]; }
  int64_t count() const { return static_cast<int64_t>(start_.size()); }
  DType dtype() const { return dtype_; }
  void restore() const;              // the start, to the device
  std::vector<double> read() const;  // from the device
  Buffer& buffer() const { return *buffer_; }
  void* data() const { return count() == 0 ? nullptr : buffer_->data(); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data());
  }

 private:
  Array() = default;
  std::vector<double> start_;
  std::vector<uint8_t> raw_;
  DType dtype_ = DType::kF32;
  Buffer* buffer_ = nullptr;
};

double to_double(DType, const void* element);
void from_double(DType, double value, void* element);
double round_to(DType, double value);

struct Tolerance {
  double relative, of_rms, floor = 0;  // |got - want| <= relative * |want| + of_rms * rms(want) + floor
};
Tolerance rounded(DType);  // one rounding of an fp32 result
constexpr Tolerance kExact{0, 0};
constexpr Tolerance kSums{1e-5, 3e-5};  // long fp32 sums

class Checker {
 public:
  explicit Checker(const Options&);
  const Options& options() const { return options_; }
  const kernels::Device& device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  double copy_tbps() const { return copy_tbps_; }  // read plus write
  bool wants(const char* op) const { return std::string(op).find(options_.filter) != std::string::npos; }
  int finish();  // prints the summary; 0 when all is well
  int cases = 0, failed = 0, comparisons = 0, controls_missed = 0;

 private:
  Options options_;
  kernels::Device device_;
  cudaStream_t stream_ = nullptr;
  double copy_tbps_ = 0;
};

class Case {  // one printed line
 public:
  Case(Checker&, std::string op, std::string shape, DType);
  ~Case();
  // Runs `launch` twice as said above; `outputs` are restored before each. False when refused or failed.
  bool run(kernels::Support, size_t workspace_bytes, const std::function<void(const kernels::Launch&)>& launch,
           std::initializer_list<const Array*> outputs);
  void expect(const char* what, const Array& got, const std::vector<double>& want, Tolerance);
  void expect_true(const char* what, bool ok);
  void fail(const std::string& why);

 private:
  Checker& checker_;
  std::string op_, shape_, dtype_, why_;
  double worst_ = 0;  // error as a part of what is allowed
  bool any_ = false;
};

// Times `launch` (median of 20 after 3) and prints a perf line. `bytes`: the fewest that must move.
void perf(Checker&, const std::string& op, const std::string& shape, DType, double bytes, size_t workspace_bytes,
          const std::function<void(const kernels::Launch&)>& launch, double flops = 0);

class DeviceRandom {  // large device tensors of random values, for perf: uniform in [low, high)
 public:
  DeviceRandom(int64_t count, DType, double low = -1, double high = 1, uint64_t seed = 1);
  ~DeviceRandom();
  DeviceRandom(const DeviceRandom&) = delete;
  DeviceRandom& operator=(const DeviceRandom&) = delete;
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

struct Suite {
  const char* name;
  void (*run)(Checker&);
};

}  // namespace weft::check
