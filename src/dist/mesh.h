// Ranks as a grid with named axes. Immutable, built once in main, passed as an argument; a size-1 group copies, so that no
// caller asks whether an axis is in use.
//
// The same ranks are seen in two ways: dense (tp, cp, dp, pp) and expert (etp, ep, edp, pp), with the same pp groups. The
// first axis of `order` varies fastest: rank = sum of digit x stride (training.md 2: rank order).
#pragma once
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "comm/comm.h"

namespace weft {

enum class Axis : uint8_t { kPp, kDp, kCp, kTp, kEdp, kEp, kEtp, kCount };
const char* name(Axis);

struct MeshConfig {
  int pp = 1, dp = 1, cp = 1, tp = 1, ep = 1, etp = 1;
  std::string order = "tp-cp-ep-dp-pp";
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("pp", self.pp, "Pipeline stages.", Range{1, 1024}, Alias{"pipeline_model_parallel_size"});
    visit("dp", self.dp, "Data-parallel replicas.", Range{1, 65536});
    visit("cp", self.cp, "Context-parallel parts of a sequence.", Range{1, 1024}, Alias{"context_parallel_size"});
    visit("tp", self.tp, "Tensor-parallel parts of a layer.", Range{1, 1024}, Alias{"tensor_model_parallel_size"});
    visit("ep", self.ep, "Parts of the experts.", Range{1, 1024}, Alias{"expert_model_parallel_size"});
    visit("etp", self.etp, "Tensor-parallel parts of an expert.", Range{1, 1024}, Alias{"expert_tensor_parallel_size"});
    visit("order", self.order, "Axes, fastest varying rank first: tp-cp-ep-dp-pp or tp-cp-ep-pp-dp.");
  }
};

class Mesh {
 public:
  // Keeps `world` by reference: it outlives the mesh. ConfigError when the degrees do not fit the world or the order is unknown.
  static Mesh build(const MeshConfig&, World& world);
  static Mesh single();  // one rank, no world needed

  int size(Axis) const;
  int coord(Axis) const;  // of this rank
  int rank() const;       // of the world
  // Ranks that differ from this one only in the given axes, ascending; axes of one view (dense or expert) only.
  std::vector<int> ranks(std::initializer_list<Axis>) const;
  // Their communicator. Made at the first call, which every rank of the group makes with the same axes in the same order.
  Comm& comm(std::initializer_list<Axis>) const;
  std::string overview() const;  // every axis with its groups, for the log

 private:
  std::shared_ptr<struct MeshState> state_;
};

}  // namespace weft
