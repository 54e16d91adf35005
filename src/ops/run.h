// Runs a chosen candidate: workspace from the tensor's allocator, its stream, the CPU's threads. Sources only.
#pragma once
#include "ops/select.h"
#include "ops/tensors.h"

namespace weft::ops {

template <class Args>
void run(const Candidate<Args>& candidate, const Args& args, const at::Tensor& like) {
  kernels::Launch launch = launch_on(like);
  at::Tensor workspace;
  if (candidate.workspace != nullptr) {
    const size_t bytes = candidate.workspace(args);
    if (bytes > 0) {
      workspace = at::empty({static_cast<int64_t>(bytes)}, like.options().dtype(at::kByte).requires_grad(false));
      launch.workspace = workspace.data_ptr();
    }
  }
  candidate.run(args, launch);
}

}  // namespace weft::ops
