// weft doctor: one block to copy into a report.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <ATen/Parallel.h>
#include <filesystem>
#include <fstream>

#include "app/all_verbs.h"
#include "app/flags.h"
#include "app/machine.h"
#include "base/cpu.h"
#include "base/files.h"
#include "base/text.h"

namespace weft::app {
namespace {

std::string system_name() {
  std::ifstream in("/etc/os-release");
  std::string name = "Linux";
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("PRETTY_NAME=")) name = line.substr(13, line.size() - 14);
  utsname kernel{};
  ::uname(&kernel);
  return fmt::format("{}, kernel {}, {}", name, kernel.release, kernel.machine);
}

std::string limit(int what, bool in_bytes) {
  rlimit r{};
  if (::getrlimit(static_cast<__rlimit_resource>(what), &r) != 0) return "?";
  if (r.rlim_cur == RLIM_INFINITY) return "unlimited";
  return in_bytes ? human_bytes(r.rlim_cur) : std::to_string(r.rlim_cur);
}

struct Report {
  Json figures = Json::object();
  std::vector<std::string> missing;
  void line(const char* name, const std::string& text) { fmt::print("{:<8} {}\n", name, text); }
};

void report_machine(Report& r) {
  const double quota = cpu::quota();
  r.line("weft", fmt::format("{} ({}; {})", weft_version(), build_id(), build_text()));
  r.line("system", system_name());
  r.line("cpu", fmt::format("{}; {} cores{}: {} threads; {}", cpu::model(), cpu::cores(),
                            quota > 0 ? fmt::format(", container quota {:.2g}", quota) : "", at::get_num_threads(),
                            join(cpu::features(), " ")));
  r.line("memory", fmt::format("{}, {} available", human_bytes(cpu::memory_total()), human_bytes(cpu::memory_available())));
  r.line("disk", fmt::format("{} free here, {} in /dev/shm", human_bytes(free_disk(".")), human_bytes(free_disk("/dev/shm"))));
  r.line("limits", fmt::format("open files {}, locked memory {}, stack {}", limit(RLIMIT_NOFILE, false), limit(RLIMIT_MEMLOCK, true),
                               limit(RLIMIT_STACK, true)));
  r.line("torch", fmt::format("{} in {}", torch_version(), torch_folder()));
  r.figures["version"] = weft_version();
  r.figures["build"] = build_id();
  r.figures["isa"] = cpu::isa();
  r.figures["cores"] = cpu::cores();
  r.figures["threads"] = at::get_num_threads();
  r.figures["memory_bytes"] = cpu::memory_total();
  if (cpu::features().empty()) r.missing.push_back("AVX2: kernels run, slowly; no remedy but another machine");
}

void report_gpus(Report& r) {
  std::string driver;
  const std::vector<Gpu> gpus = find_gpus(&driver);
  r.figures["gpus"] = gpus.size();
  if (gpus.empty()) {
    r.line("gpu", std::filesystem::exists("/dev/nvidia0") ? "a device is there, but no driver library (libcuda.so.1)" : "none");
    return;
  }
  for (const Gpu& g : gpus) r.line("gpu", fmt::format("{}, {}, sm_{}, driver CUDA {}", g.name, human_bytes(g.memory), g.sm, driver));
  if (!built_with_cuda()) r.missing.push_back("CUDA kernels: this binary is built without; install nvcc 13.0, then run ./weft");
  if (gpus[0].sm != 90) r.missing.push_back(fmt::format("kernels for sm_{}: only sm_90 (H100, H200) is built", gpus[0].sm));
}

void measure(Report& r) {
  const double bf16 = gemm_flops(true), fp32 = gemm_flops(false), copy = copy_bytes();
  r.line("gemm", fmt::format("bf16 {:.3f} TFLOP/s, fp32 {:.3f} TFLOP/s (2048 cubed, {} threads)", bf16 / 1e12, fp32 / 1e12,
                             at::get_num_threads()));
  r.line("copy", fmt::format("{:.1f} GB/s read + written", copy / 1e9));
  r.figures["gemm_bf16_flops"] = bf16;
  r.figures["gemm_fp32_flops"] = fp32;
  r.figures["copy_bytes_per_s"] = copy;
}

}  // namespace

Action doctor(Flags& flags, Common& common) {
  auto quick = std::make_shared<bool>(false);
  add_compute_flags(flags, common);
  add_json_flag(flags, common);
  flags.flag("--quick", *quick, "Do not measure.");
  flags.footer("JSON keys: version build isa cores threads memory_bytes gpus gemm_bf16_flops gemm_fp32_flops copy_bytes_per_s missing");
  return [quick, &common] {
    use_device(common);
    Report r;
    report_machine(r);
    report_gpus(r);
    if (!*quick) measure(r);
    for (const std::string& m : r.missing) r.line("missing", m);
    if (r.missing.empty()) r.line("missing", "nothing");
    r.figures["missing"] = r.missing;
    write_figures(common, r.figures);
    return 0;
  };
}

}  // namespace weft::app
