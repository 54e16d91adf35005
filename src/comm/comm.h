// Moves bytes between the ranks of a group; the only thing that knows which library does it. Torch-free.
//
// Goals: the same code for one rank and for many (a group of one copies), results that do not depend on timing (sums run in
// rank order), a fault that names its rank. Non-goals: knowing tensors, layouts or gradients (dist/).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/dtype.h"

typedef struct CUstream_st* cudaStream_t;

namespace weft {

enum class Reduce : uint8_t { kSum, kMax };

struct Transfer {
  bool send;
  void* data;  // read when sending, written when receiving
  size_t count;
  DType dtype;
  int peer;  // rank in this group; not the own one
  int tag;   // messages of one pair and tag arrive in the order they were sent
};

struct Call {
  const char* what;               // the op's name in a hang report
  cudaStream_t stream = nullptr;  // of CUDA buffers
};

// Out of place: an input is never written; inputs and outputs do not overlap. `count` is in elements of `in`, of `out` for
// reduce_scatter. Every rank of the group makes the same calls in the same order (CommError when they differ). Throws
// CommError after an abort and HangError when a rank does not come in time. One thread of a rank calls at a time.
class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void all_gather(const void* in, void* out, size_t count, DType, Call) = 0;
  virtual void reduce_scatter(const void* in, void* out, size_t count, DType, Reduce, Call) = 0;
  virtual void all_reduce(const void* in, void* out, size_t count, DType, Reduce, Call) = 0;
  virtual void all_to_all(const void* in, std::span<const size_t> in_counts, void* out, std::span<const size_t> out_counts,
                          DType, Call) = 0;                     // counts known to the host
  virtual void exchange(std::span<const Transfer>, Call) = 0;  // all of a step's sends and receives at once: no order can deadlock
  virtual std::unique_ptr<Comm> lane(const char* name) = 0;    // a second communicator of the same ranks, for overlap
  virtual void abort() noexcept = 0;                           // frees the others; the report names who was missing
};

// All ranks of a run, and the making of groups. `ranks` are ascending ranks of the world that hold the caller; every one of
// them calls with the same ranks and name. Groups live no longer than the world.
class World {
 public:
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::unique_ptr<Comm> group(std::span<const int> ranks, const std::string& name) = 0;
};

std::unique_ptr<Comm> self_comm();    // a group of one rank
std::unique_ptr<World> self_world();  // a world of one rank

}  // namespace weft
