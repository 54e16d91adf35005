// Typed errors. A library throws; app/ maps each type to one exit code (its table), serve/ to one HTTP status.
// Text: `op: what was wrong: got X, want Y`, and where it helps a last line `try: ...`.
#pragma once
#include <source_location>
#include <stdexcept>
#include <string>

namespace weft {

struct Error : std::runtime_error {
  Error(const std::string& what, std::source_location at = std::source_location::current())
      : std::runtime_error(what), where(at) {}
  std::source_location where;
};

struct ConfigError : Error { using Error::Error; };        // the user's file or flags are wrong
struct InputError : Error { using Error::Error; };         // an input is missing, malformed or of the wrong shape
struct ShapeError : Error { using Error::Error; };         // a tensor breaks an op's contract
struct UnsupportedError : Error { using Error::Error; };   // no candidate takes the call
struct UnavailableError : Error { using Error::Error; };   // something outside is not to be had: GPU, network, package
struct OutOfMemoryError : Error { using Error::Error; };   // host or device
struct IoError : Error { using Error::Error; };            // storage full or failing
struct CheckpointError : Error { using Error::Error; };    // checkpoints exist and none is valid
struct NonFiniteError : Error { using Error::Error; };     // names the first bad tensor
struct ReplicaError : Error { using Error::Error; };       // replicas differ
struct CommError : Error { using Error::Error; };          // group, op, rank, seconds
struct HangError : Error { using Error::Error; };          // rank, op, shapes
struct CudaError : Error { using Error::Error; };          // a CUDA call failed
struct InternalError : Error { using Error::Error; };      // a bug of ours
struct Interrupted : Error { using Error::Error; };        // Ctrl-C in a verb that keeps no state
struct SavedOnSignal : Error { using Error::Error; };      // state is saved: run again to go on

[[noreturn]] void check_failed(const char* condition, const std::string& text,
                               std::source_location at = std::source_location::current());

}  // namespace weft

// For bugs only: unreachable from any input. WEFT_CHECK(n == 3, "three parts, got " + std::to_string(n)).
#define WEFT_CHECK(condition, text)                                  \
  do {                                                               \
    if (!(condition)) [[unlikely]] ::weft::check_failed(#condition, text); \
  } while (false)
