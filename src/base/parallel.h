// How a CPU kernel reaches threads without owning any: the caller lends a loop. One thread pool per process (the tensor
// library's) serves kernels and library calls alike, so two pools never fight over the cores.
#pragma once
#include <cstdint>
#include <type_traits>

namespace weft {

struct RangeBody {  // a borrowed callable over [begin, end)
  void* object;
  void (*call)(void* object, int64_t begin, int64_t end);
};
// Cuts [0, count) in ranges of at least `grain`, runs them on some threads, returns when all are done. Null means serial.
using ParallelFor = void (*)(int64_t count, int64_t grain, RangeBody body);

template <class F>
void parallel_for(ParallelFor loop, int64_t count, int64_t grain, F&& body) {
  using Body = std::remove_reference_t<F>;
  if (loop == nullptr || count <= grain) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  loop(count, grain, {const_cast<void*>(static_cast<const void*>(&body)), [](void* object, int64_t begin, int64_t end) {
                        (*static_cast<Body*>(object))(begin, end);
                      }});
}

}  // namespace weft
