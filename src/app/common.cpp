// Flags that several verbs share.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <cstdio>

#include "app/flags.h"
#include "app/machine.h"
#include "app/verb.h"
#include "base/cpu.h"
#include "base/error.h"
#include "ops/cpu_memory.h"

namespace weft::app {

void add_compute_flags(Flags& flags, Common& common) {
  flags.option("--threads", common.threads, "Threads; 0 is what the machine and its container allow.").range(0, 4096);
  flags.option("--device", common.device, "auto, cpu, cuda or cuda:N.");
}

void add_json_flag(Flags& flags, Common& common) {
  flags.option("--json", common.json, "Write the figures to this file; - is standard output.").value_name("FILE");
}

void add_set_flag(Flags& flags, std::vector<std::string>& assignments) {
  flags.option("--set", assignments, "Change one setting; may be repeated.").value_name("KEY=VALUE").one_each();
}

std::string use_device(const Common& common) {
  at::set_num_threads(common.threads > 0 ? common.threads : cpu::threads());
  ops::keep_cpu_tensors();
  const std::string& want = common.device;
  if (want == "cpu") return want;
  int index = 0;
  if (want != "auto" && want != "cuda") {
    const bool numbered = want.starts_with("cuda:") && want.size() > 5 && want.find_first_not_of("0123456789", 5) == std::string::npos;
    if (!numbered || want.size() > 9) throw ConfigError(fmt::format("--device: got '{}', want auto, cpu, cuda or cuda:N", want));
    index = std::stoi(want.substr(5));
  }
  const auto gpus = find_gpus();
  if (want == "auto" && (gpus.empty() || !built_with_cuda())) return "cpu";
  if (!built_with_cuda())
    throw UnavailableError(fmt::format("--device {}: this binary is built without CUDA\n  try: WEFT_CUDA=on ./weft, where nvcc is", want));
  if (index >= static_cast<int>(gpus.size()))
    throw UnavailableError(fmt::format("--device {}: got {} GPUs\n  try: --device cpu", want, gpus.size()));
  return "cuda:" + std::to_string(index);
}

void write_figures(const Common& common, const Json& figures) {
  if (common.json.empty()) return;
  if (common.json == "-") fmt::print("{}\n", figures.dump(2));
  else write_json_file(common.json, figures);
}

}  // namespace weft::app
