#include <cstring>

#include "base/error.h"
#include "comm/comm.h"

#ifdef WEFT_CUDA
#include <cuda_runtime_api.h>
#endif

namespace weft {
namespace {

void copy(const void* in, void* out, size_t n, const Call& call) {
  if (n == 0) return;
#ifdef WEFT_CUDA
  // Host or device memory: the driver knows. A host copy needs no stream.
  cudaPointerAttributes at{};
  if (cudaPointerGetAttributes(&at, out) == cudaSuccess && at.type != cudaMemoryTypeUnregistered && at.type != cudaMemoryTypeHost) {
    if (const cudaError_t e = cudaMemcpyAsync(out, in, n, cudaMemcpyDefault, call.stream); e != cudaSuccess)
      throw CudaError(std::string(call.what) + ": copy of a group of one: " + cudaGetErrorString(e));
    return;
  }
#else
  (void)call;
#endif
  std::memcpy(out, in, n);
}

class SelfComm final : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_gather(const void* in, void* out, size_t count, DType t, Call call) override { copy(in, out, bytes(t, count), call); }
  void reduce_scatter(const void* in, void* out, size_t count, DType t, Reduce, Call call) override { copy(in, out, bytes(t, count), call); }
  void all_reduce(const void* in, void* out, size_t count, DType t, Reduce, Call call) override { copy(in, out, bytes(t, count), call); }
  void all_to_all(const void* in, std::span<const size_t> in_counts, void* out, std::span<const size_t> out_counts, DType t,
                  Call call) override {
    if (in_counts.size() != 1 || out_counts.size() != 1 || in_counts[0] != out_counts[0])
      throw CommError(std::string(call.what) + ": all_to_all: counts of a group of one must be one and equal");
    copy(in, out, bytes(t, in_counts[0]), call);
  }
  void exchange(std::span<const Transfer> all, Call call) override {
    if (!all.empty()) throw CommError(std::string(call.what) + ": exchange: got a peer, but the group has one rank");
  }
  std::unique_ptr<Comm> lane(const char*) override { return std::make_unique<SelfComm>(); }
  void abort() noexcept override {}
};

class SelfWorld final : public World {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::unique_ptr<Comm> group(std::span<const int> ranks, const std::string& name) override {
    if (ranks.size() != 1 || ranks[0] != 0) throw CommError("group " + name + ": the world has one rank, rank 0");
    return std::make_unique<SelfComm>();
  }
};

}  // namespace

std::unique_ptr<Comm> self_comm() { return std::make_unique<SelfComm>(); }
std::unique_ptr<World> self_world() { return std::make_unique<SelfWorld>(); }

}  // namespace weft
