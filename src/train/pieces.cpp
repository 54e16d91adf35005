#include "ops/aten.h"

#include "train/pieces.h"

#include <array>
#include <map>

#include "ops/tensors.h"

namespace weft::train {
namespace {

bool expert_axis(Axis a) { return a == Axis::kEp || a == Axis::kEtp || a == Axis::kEdp; }

// Of the ranks that hold the same part, the one with coordinate 0 on every axis that does not cut it.
bool is_main_replica(const Layout& layout, const Mesh& mesh) {
  bool expert = false;
  std::map<Axis, int> replicas;  // of the axes that cut
  for (const auto& [axis, place] : layout.major_to_minor) {
    expert = expert || expert_axis(axis);
    if (place.kind == Place::kShard) replicas[axis] = place.replicas;
  }
  const std::array<Axis, 3> view = expert ? std::array{Axis::kEdp, Axis::kEp, Axis::kEtp} : std::array{Axis::kDp, Axis::kCp, Axis::kTp};
  for (Axis a : view) {
    const auto it = replicas.find(a);
    if (mesh.coord(a) % (it == replicas.end() ? mesh.size(a) : it->second) != 0) return false;
  }
  return true;
}

void emit(const std::string& name, const at::Tensor& local, const Layout& layout, const std::vector<int64_t>& shape, const Mesh& mesh,
          const std::function<void(const Part&)>& visit) {
  const bool main = is_main_replica(layout, mesh);
  const std::vector<Box> boxes = local_boxes(layout, shape, mesh);
  // Along each dim the intervals stand in the local tensor in the order in which the boxes first name them.
  std::vector<std::map<int64_t, int64_t>> start(shape.size());
  std::vector<int64_t> end(shape.size(), 0);
  for (const Box& b : boxes)
    for (size_t d = 0; d < shape.size(); ++d)
      if (start[d].emplace(b.offset[d], end[d]).second) end[d] += b.shape[d];
  for (const Box& b : boxes) {
    at::Tensor part = local;
    for (size_t d = 0; d < shape.size(); ++d) part = part.narrow(static_cast<int64_t>(d), start[d].at(b.offset[d]), b.shape[d]);
    visit({{name, ops::dtype_of(local), shape, b}, part, main});
  }
}

}  // namespace

void for_each_model_part(nn::Module& model, const Mesh& mesh, const std::function<void(const Part&)>& visit) {
  model.visit_params([&](nn::Param& p) { emit(p.weight.name, p.weight.value, p.layout, p.spec.shape, mesh, visit); });
  model.visit_buffers([&](const std::string& name, at::Tensor& t) { emit(name, t, {}, t.sizes().vec(), mesh, visit); });
}

void for_each_part(Trainer& t, const Mesh& mesh, const std::function<void(const Part&)>& visit) {
  for_each_model_part(t.model(), mesh, visit);
  std::map<const ops::Weight*, const nn::Param*> params;
  t.model().visit_params([&](nn::Param& p) { params[&p.weight] = &p; });
  t.optimizer().visit_state([&](const char* kind, const ops::Weight& w, const at::Tensor& state) {
    const nn::Param& p = *params.at(&w);
    emit("optim." + std::string(kind) + "." + w.name, state, p.layout, p.spec.shape, mesh, visit);
  });
}

}  // namespace weft::train
