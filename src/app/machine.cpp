#include "ops/aten.h"

#include "app/machine.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

namespace weft::app {

std::vector<Gpu> find_gpus(std::string* driver) {
  // The driver's own library, by its C interface: works in a build without CUDA.
  void* lib = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (lib == nullptr) return {};
  const auto find = [&]<class F>(F*& f, const char* name) { return (f = reinterpret_cast<F*>(::dlsym(lib, name))) != nullptr; };
  int (*init)(unsigned), (*version)(int*), (*count)(int*), (*get)(int*, int), (*name)(char*, int, int), (*memory)(size_t*, int),
      (*attribute)(int*, int, int);
  std::vector<Gpu> out;
  if (!find(init, "cuInit") || !find(version, "cuDriverGetVersion") || !find(count, "cuDeviceGetCount") || !find(get, "cuDeviceGet") ||
      !find(name, "cuDeviceGetName") || !find(memory, "cuDeviceTotalMem_v2") || !find(attribute, "cuDeviceGetAttribute") || init(0) != 0)
    return {};
  int n = 0, v = 0;
  if (driver != nullptr && version(&v) == 0) *driver = fmt::format("{}.{}", v / 1000, v % 1000 / 10);
  if (count(&n) != 0) return {};
  for (int i = 0; i < n; ++i) {
    constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
    int device = 0, major = 0, minor = 0;
    char text[256] = {};
    size_t bytes = 0;
    if (get(&device, i) != 0 || name(text, sizeof text - 1, device) != 0 || memory(&bytes, device) != 0 ||
        attribute(&major, kMajor, device) != 0 || attribute(&minor, kMinor, device) != 0)
      continue;
    out.push_back({text, bytes, major * 10 + minor});
  }
  return out;
}

bool built_with_cuda() {
#ifdef WEFT_CUDA
  return true;
#else
  return false;
#endif
}

std::string torch_version() { return TORCH_VERSION; }

std::string torch_folder() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<void*>(&at::get_num_threads), &info) == 0 || info.dli_fname == nullptr) return "?";
  std::error_code error;
  const auto path = std::filesystem::weakly_canonical(info.dli_fname, error);
  return path.parent_path().string();
}

std::string build_text() {
  return fmt::format("g++ {}.{}.{}, {}, CUDA {}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__, WEFT_BUILD_TYPE,
                     built_with_cuda() ? "on" : "off");
}

namespace {

template <class F>
double best_seconds(F&& f) {  // of at least five rounds and a third of a second, after one to warm up
  using Clock = std::chrono::steady_clock;
  f();
  double best = 1e30, total = 0;
  for (int i = 0; i < 5 || total < 0.3; ++i) {
    const auto begin = Clock::now();
    f();
    const double s = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::min(best, s);
    total += s;
  }
  return best;
}

}  // namespace

std::string weft_home() {
  if (const char* home = std::getenv("WEFT_HOME"); home != nullptr && *home != 0) return home;
  const char* user = std::getenv("HOME");
  return std::string(user != nullptr ? user : ".") + "/.cache/weft";
}

double gemm_flops(bool bf16, const std::string& device) {
  const at::NoGradGuard no_grad;
  const int64_t n = device == "cpu" ? 2048 : 8192;
  const auto options = at::TensorOptions().dtype(bf16 ? at::kBFloat16 : at::kFloat).device(at::Device(device));
  const at::Tensor x = at::randn({n, n}, at::kFloat).to(options), w = at::randn({n, n}, at::kFloat).to(options);
  const double seconds = best_seconds([&] {
    const at::Tensor y = at::linear(x, w);
    if (device != "cpu") y[0][0].item<float>();  // waits for the device
  });
  return 2.0 * static_cast<double>(n * n * n) / seconds;
}

double copy_bytes() {
  constexpr int64_t n = 256 << 20;
  const at::Tensor from = at::zeros({n / 4}), to = at::empty({n / 4});
  return 2.0 * n / best_seconds([&] { to.copy_(from); });
}

}  // namespace weft::app
