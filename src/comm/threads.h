// Ranks as threads of one process, on the CPU: how parallel code is tested without a GPU, and how small runs share a machine.
#pragma once
#include <chrono>
#include <functional>

#include "comm/comm.h"

namespace weft {

struct RankOptions {
  std::chrono::milliseconds hang_after{60000};  // a rank that is later than this is reported by number, with its last call
};

// Runs fn(world of rank r) on n threads and joins them. When ranks throw, every group is aborted and the first error that is
// not a mere consequence of the abort is thrown here.
void run_ranks(int n, const std::function<void(World&)>& fn, const RankOptions& = {});

}  // namespace weft
