// Runs a chosen candidate: workspace from the tensor's allocator, its stream, the CPU's threads. Sources only.
#pragma once
#include "ops/select.h"
#include "ops/tensors.h"

namespace weft::ops {

std::string argument_kind(const char* mangled);  // "weft::kernels::RmsNormBwd" -> "RmsNormBwd"

struct ErasedCall {  // so that what surrounds a call is compiled once
  void (*run)(const void* candidate, const void* args, const kernels::Launch&);
  const void *candidate, *args;
  size_t workspace;          // bytes
  const char *name, *kind;  // of the profile; `kind` is mangled and stands in for a null name
};
void run_erased(const ErasedCall&, const at::Tensor& like);

// `name` stands in profiles; null: the kind of Args.
template <class Args>
void run(const Candidate<Args>& candidate, const Args& args, const at::Tensor& like, const char* name = nullptr) {
  const auto call = [](const void* c, const void* a, const kernels::Launch& launch) {
    static_cast<const Candidate<Args>*>(c)->run(*static_cast<const Args*>(a), launch);
  };
  run_erased({call, &candidate, &args, candidate.workspace == nullptr ? 0 : candidate.workspace(args), name, typeid(Args).name()}, like);
}

}  // namespace weft::ops
