// What the machine has and how fast it is, for doctor and for the choice of a device.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace weft::app {

struct Gpu {
  std::string name;
  uint64_t memory;  // bytes
  int sm;           // 90 for compute capability 9.0
};
std::vector<Gpu> find_gpus(std::string* driver = nullptr);  // asks the driver's library, if there is one; "13.0"
bool built_with_cuda();
std::string torch_version();
std::string torch_folder();   // where libtorch_cpu was loaded from
std::string weft_home();      // ${WEFT_HOME:-~/.cache/weft}: where installed and made things are kept
std::string build_id();       // commit, and "-dirty" for a changed tree
std::string build_text();     // "g++ 12.2.0, Release, CUDA off"
const char* weft_version();   // "0.1.0"

// Measured in this process with its threads: the best of several rounds.
double gemm_flops(bool bf16, const std::string& device = "cpu");  // FLOP/s of at::linear on squares: 2048, on a GPU 8192
double copy_bytes();           // bytes read + written a second by a copy of 256 MiB

}  // namespace weft::app
