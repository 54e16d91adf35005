// What this process may use of the machine: instruction set, threads and memory, container limits included.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace weft::cpu {

std::string model();                 // "Intel(R) Xeon(R) ...", or the architecture
std::vector<std::string> features(); // of those that kernels choose by: "avx2", "avx512", "avx512_bf16", "amx_bf16"
std::string isa();                   // the widest set, for manifests: "amx_bf16", "avx512_bf16", "avx512", "avx2", "x86-64", "aarch64"

int cores();                         // that the affinity mask allows
double quota(const std::string& root = "/");  // CPUs that the cgroup (v1 or v2) allows, the least over its parents; 0 is no limit
int threads();                       // min(cores, quota rounded up to at least 1): the default of --threads

uint64_t memory_total(const std::string& root = "/");      // bytes: the machine's or the cgroup's limit
uint64_t memory_available(const std::string& root = "/");  // bytes that can be had without swapping
uint64_t memory_used();                                    // resident bytes of this process
uint64_t memory_peak();                                    // the most it ever was

}  // namespace weft::cpu
