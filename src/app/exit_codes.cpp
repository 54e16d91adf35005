#include "app/exit_codes.h"

#include <c10/util/Exception.h>

#include <new>
#include <string_view>

#include "base/error.h"

namespace weft::app {
namespace {

template <class E>
bool is(const std::exception& e) { return dynamic_cast<const E*>(&e) != nullptr; }

bool is_out_of_memory(const std::exception& e) {  // the tensor library has a type for the device only
  if (is<std::bad_alloc>(e) || is<c10::OutOfMemoryError>(e)) return true;
  return is<c10::Error>(e) && std::string_view(e.what()).find("DefaultCPUAllocator") != std::string_view::npos;
}

constexpr ExitCode kTable[] = {
    {2, "ConfigError", "usage or configuration refused", is<ConfigError>},
    {2, "UnsupportedError", "no kernel takes the call", is<UnsupportedError>},
    {11, "CommError", "a rank is lost", is<CommError>},
    {12, "HangError", "a rank hangs", is<HangError>},
    {20, "CheckpointError", "checkpoints exist and none is valid", is<CheckpointError>},
    {30, "NonFiniteError", "a loss or gradient is not finite", is<NonFiniteError>},
    {31, "ReplicaError", "replicas differ", is<ReplicaError>},
    {65, "InputError", "an input is missing, malformed or of the wrong shape", is<InputError>},
    {69, "UnavailableError", "something outside is not to be had: network, package, GPU, lock", is<UnavailableError>},
    {70, "ShapeError", "a bug: a tensor breaks an operator's contract", is<ShapeError>},
    {70, "CudaError", "a CUDA call failed", is<CudaError>},
    {70, "InternalError", "a bug", is<InternalError>},
    {71, "OutOfMemoryError", "out of memory, host or device", is<OutOfMemoryError>},
    {74, "IoError", "storage is full or failing", is<IoError>},
    {75, "SavedOnSignal", "saved on a signal or a time limit: run again to go on", is<SavedOnSignal>},
    {130, "Interrupted", "interrupted, nothing to save", is<Interrupted>},
    {71, "bad_alloc", "out of memory, host or device", is_out_of_memory},
};

}  // namespace

std::span<const ExitCode> exit_codes() { return kTable; }

int exit_code(const std::exception& error) {
  for (const ExitCode& row : kTable)
    if (row.matches(error)) return row.code;
  return 70;
}

}  // namespace weft::app
