// Runs a chosen candidate: workspace from the tensor's allocator, its stream, the CPU's threads. Sources only.
#pragma once
#include <ATen/record_function.h>

#include "ops/select.h"
#include "ops/tensors.h"

namespace weft::ops {

std::string argument_kind(const char* mangled);  // "weft::kernels::RmsNormBwd" -> "RmsNormBwd"

// `name` stands in profiles; null: the kind of Args.
template <class Args>
void run(const Candidate<Args>& candidate, const Args& args, const at::Tensor& like, const char* name = nullptr) {
  at::RecordFunction record(at::RecordScope::USER_SCOPE);  // costs nothing while nobody listens
  if (record.isActive()) {
    static const std::string kind = argument_kind(typeid(Args).name());
    record.before(name != nullptr ? std::string_view(name) : kind);
  }
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
