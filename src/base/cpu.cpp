#include "base/cpu.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "base/text.h"

namespace weft::cpu {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

uint64_t field_kib(const std::string& path, const std::string& name) {  // "MemTotal:  123 kB" in bytes
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name + ":")) return std::strtoull(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
  return 0;
}

// Folders of this process's cgroup and of all above it, for a v1 controller or v2 ("").
std::vector<std::string> cgroup_folders(const std::string& root, const std::string& controller) {
  std::ifstream in(root + "/proc/self/cgroup");
  std::string path = "/";
  bool found = false;
  for (std::string line; std::getline(in, line);) {  // "0::/a/b" (v2), "4:cpu,cpuacct:/a/b" (v1)
    const std::vector<std::string> parts = split(line, ':');
    if (parts.size() < 3) continue;
    const std::vector<std::string> names = split(parts[1], ',');
    if (controller.empty() ? parts[1].empty() : std::find(names.begin(), names.end(), controller) != names.end())
      path = parts[2], found = true;
  }
  const std::string base = root + "/sys/fs/cgroup" + (controller.empty() ? "" : "/" + controller);
  std::vector<std::string> out;
  if (found)
    for (std::string at = path; at.size() > 1; at = at.substr(0, at.rfind('/'))) out.push_back(base + at);
  out.push_back(base);  // inside a container its own group is mounted here
  return out;
}

uint64_t number(const std::string& text, uint64_t otherwise) {
  return text.empty() || text.starts_with("max") || text[0] == '-' ? otherwise : std::strtoull(text.c_str(), nullptr, 10);
}

constexpr uint64_t kNoLimit = uint64_t{1} << 60;  // v1 writes a number near 2^63 for none

// The least limit over the groups, and in `room` the least of limit - used.
uint64_t memory_limit(const std::string& root, uint64_t* room) {
  uint64_t least = kNoLimit;
  *room = kNoLimit;
  const auto take = [&](const std::string& limit_file, const std::string& used_file, const std::string& stat, const char* cache) {
    const uint64_t limit = number(first_line(limit_file), kNoLimit);
    if (limit >= kNoLimit) return;
    uint64_t used = number(first_line(used_file), 0);
    std::ifstream in(stat);  // page cache that can be dropped does not count
    for (std::string name, value; in >> name >> value;)
      if (name == cache) used -= std::min(used, number(value, 0));
    least = std::min(least, limit);
    *room = std::min(*room, limit - std::min(limit, used));
  };
  for (const std::string& dir : cgroup_folders(root, ""))
    take(dir + "/memory.max", dir + "/memory.current", dir + "/memory.stat", "inactive_file");
  for (const std::string& dir : cgroup_folders(root, "memory"))
    take(dir + "/memory.limit_in_bytes", dir + "/memory.usage_in_bytes", dir + "/memory.stat", "total_inactive_file");
  return least;
}

}  // namespace

std::string model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return std::string(trim(std::string_view(line).substr(line.find(':') + 1)));
  return isa();
}

std::vector<std::string> features() {
  std::vector<std::string> out;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) out.emplace_back("avx2");
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) out.emplace_back("avx512");
  if (__builtin_cpu_supports("avx512bf16")) out.emplace_back("avx512_bf16");
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("flags")) {
      if (line.find(" amx_bf16") != std::string::npos) out.emplace_back("amx_bf16");
      break;
    }
#endif
  return out;
}

std::string isa() {
  const std::vector<std::string> all = features();
  if (!all.empty()) return all.back();
#if defined(__x86_64__)
  return "x86-64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}

int cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
}

double quota(const std::string& root) {
  double least = 0;
  const auto take = [&](double limit, double period) {
    if (limit > 0 && period > 0 && (least == 0 || limit / period < least)) least = limit / period;
  };
  for (const std::string& dir : cgroup_folders(root, "")) {
    std::istringstream line(first_line(dir + "/cpu.max"));  // "200000 100000" or "max 100000"
    std::string limit;
    double period = 0;
    if (line >> limit >> period && limit != "max") take(std::strtod(limit.c_str(), nullptr), period);
  }
  for (const std::string& dir : cgroup_folders(root, "cpu"))
    take(std::strtod(first_line(dir + "/cpu.cfs_quota_us").c_str(), nullptr),
         std::strtod(first_line(dir + "/cpu.cfs_period_us").c_str(), nullptr));
  return least;
}

int threads() {
  const double limit = quota();
  return limit > 0 ? std::clamp(static_cast<int>(std::ceil(limit - 1e-9)), 1, cores()) : cores();
}

uint64_t memory_total(const std::string& root) {
  uint64_t room = 0;
  return std::min(field_kib(root + "/proc/meminfo", "MemTotal"), memory_limit(root, &room));
}

uint64_t memory_available(const std::string& root) {
  uint64_t room = 0;
  memory_limit(root, &room);
  return std::min(field_kib(root + "/proc/meminfo", "MemAvailable"), room);
}

uint64_t memory_used() { return field_kib("/proc/self/status", "VmRSS"); }
uint64_t memory_peak() { return field_kib("/proc/self/status", "VmHWM"); }

}  // namespace weft::cpu
