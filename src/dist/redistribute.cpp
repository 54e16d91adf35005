#include "ops/aten.h"

#include "dist/redistribute.h"

#include <numeric>

#include "dist/cut.h"
#include "ops/node.h"
#include "ops/tensors.h"

namespace weft {
namespace {

using Steps = std::vector<std::pair<Axis, Place>>;
using Segments = std::vector<Interval>;

bool same(const Place& a, const Place& b) { return a.kind == b.kind && a.dim == b.dim && a.replicas == b.replicas && a.zigzag == b.zigzag; }
bool shards(const Place& p) { return p.kind == Place::kShard; }

// One axis of the mesh acting on one dim. `pieces[r]`: the intervals of the uncut dim that rank r holds.
struct Cut {
  Comm& comm;
  int dim, size, coord;
  std::vector<Segments> pieces;
  int64_t uncut = 0, part = 0;

  Cut(const Mesh& mesh, Axis axis, const Place& p, const Segments& segments) : comm(mesh.comm({axis})), dim(p.dim), size(mesh.size(axis)), coord(mesh.coord(axis)) {
    for (int r = 0; r < size; ++r) pieces.push_back(cut(segments, p, size / p.replicas, r / p.replicas));
    for (const Interval& i : segments) uncut += i.end - i.begin;
    for (const Interval& i : pieces[0]) part += i.end - i.begin;
  }
  at::Tensor take(const at::Tensor& whole, int r) const {  // rank r's piece of a tensor that is whole in `dim`
    std::vector<at::Tensor> parts;
    for (const Interval& i : pieces[static_cast<size_t>(r)]) parts.push_back(whole.narrow(dim, i.begin, i.end - i.begin));
    return (parts.size() == 1 ? parts[0] : at::cat(parts, dim)).contiguous();
  }
  at::Tensor all_parts(const at::Tensor& whole) const {  // [size, piece...]
    std::vector<at::Tensor> parts;
    for (int r = 0; r < size; ++r) parts.push_back(take(whole, r));
    return at::stack(parts);
  }
  at::Tensor put_together(const at::Tensor& parts) const {  // parts [size, piece...]
    std::vector<int64_t> shape = parts[0].sizes().vec();
    shape[static_cast<size_t>(dim)] = uncut;
    at::Tensor whole = at::empty(shape, parts.options());
    for (int r = 0; r < size; ++r) {
      int64_t at = 0;
      for (const Interval& i : pieces[static_cast<size_t>(r)]) {
        whole.narrow(dim, i.begin, i.end - i.begin).copy_(parts[r].narrow(dim, at, i.end - i.begin));
        at += i.end - i.begin;
      }
    }
    return whole;
  }
};

class Mover {
 public:
  Mover(const Mesh& mesh, at::Tensor t) : mesh_(mesh), t_(std::move(t)) {}

  at::Tensor run(const Layout& from, const Layout& to) {
    const Steps &a = from.major_to_minor, &b = to.major_to_minor;
    size_t shared = 0;
    while (from.segments == to.segments && shared < a.size() && shared < b.size() && a[shared].first == b[shared].first && same(a[shared].second, b[shared].second)) ++shared;
    const bool only_last = shared + 1 == a.size() && shared + 1 == b.size() && a.back().first == b.back().first;
    if (only_last && a.back().second.kind == Place::kPartial && shards(b.back().second)) {
      reduce_scatter(b.back(), segments_at(to, shared, false));
    } else if (only_last && shards(a.back().second) && shards(b.back().second) && a.back().second.dim != b.back().second.dim) {
      all_to_all(a.back(), segments_at(from, shared, true), b.back(), segments_at(to, shared, false));
    } else {
      for (size_t i = a.size(); i-- > shared;) undo(a[i], from, i);
      for (size_t i = shared; i < b.size(); ++i) apply(b[i], to, i);
    }
    return t_;
  }

 private:
  using Step = std::pair<Axis, Place>;

  // The intervals of step i's dim before it is cut, in local coordinates. The first cut of a fused dim sees its segments.
  // `is_cut`: t_ is already cut by step i.
  Segments segments_at(const Layout& layout, size_t i, bool is_cut) const {
    const Place& p = layout.major_to_minor[i].second;
    if (p.dim < 0 || p.dim >= t_.dim()) throw ShapeError("redistribute: dim to cut: got " + std::to_string(p.dim) + ", want below " + std::to_string(t_.dim()));
    const auto parts = [&](size_t k) { return mesh_.size(layout.major_to_minor[k].first) / layout.major_to_minor[k].second.replicas; };
    std::vector<size_t> earlier;  // cuts of the same dim
    for (size_t k = 0; k < i; ++k)
      if (shards(layout.major_to_minor[k].second) && layout.major_to_minor[k].second.dim == p.dim) earlier.push_back(k);
    int64_t whole = t_.size(p.dim) * (is_cut ? parts(i) : 1);
    for (size_t k : earlier) whole *= parts(k);
    const auto first = std::find_if(layout.major_to_minor.begin(), layout.major_to_minor.end(), [](const Step& s) { return shards(s.second); });
    Segments out;
    int64_t at = 0;
    if (!layout.segments.empty() && first->second.dim == p.dim) {
      for (int64_t s : layout.segments) out.push_back({at, at + s}), at += s;
      if (at != whole) throw ShapeError("redistribute: sum of segments: got " + std::to_string(at) + ", want " + std::to_string(whole));
    } else {
      out.push_back({0, whole});
    }
    for (size_t k : earlier) out = cut(out, layout.major_to_minor[k].second, parts(k), mesh_.coord(layout.major_to_minor[k].first) / layout.major_to_minor[k].second.replicas);
    at = 0;
    for (Interval& v : out) v = {at, at + v.end - v.begin}, at = v.end;
    return out;
  }

  Call call(const char* what) const { return {what, ops::launch_on(t_).stream}; }

  void undo(const Step& s, const Layout& layout, size_t i) {
    Comm& comm = mesh_.comm({s.first});
    if (s.second.kind == Place::kReplicate || comm.size() == 1) return;
    const at::Tensor in = t_.contiguous();
    if (s.second.kind == Place::kPartial) {
      t_ = at::empty_like(in);
      comm.all_reduce(in.const_data_ptr(), t_.data_ptr(), static_cast<size_t>(in.numel()), ops::dtype_of(in), Reduce::kSum, call("redistribute: addends to copies"));
      return;
    }
    const Cut c(mesh_, s.first, s.second, segments_at(layout, i, true));
    std::vector<int64_t> shape = in.sizes().vec();
    shape.insert(shape.begin(), c.size);
    at::Tensor parts = at::empty(shape, in.options());
    comm.all_gather(in.const_data_ptr(), parts.data_ptr(), static_cast<size_t>(in.numel()), ops::dtype_of(in), call("redistribute: shards to copies"));
    t_ = c.put_together(parts);
  }

  void apply(const Step& s, const Layout& layout, size_t i) {
    if (s.second.kind == Place::kReplicate) return;
    if (s.second.kind == Place::kPartial) {  // one rank has the addend, the others zeros
      if (mesh_.coord(s.first) != 0) t_ = at::zeros_like(t_);
      return;
    }
    const Cut c(mesh_, s.first, s.second, segments_at(layout, i, false));
    t_ = c.take(t_, c.coord);
  }

  void reduce_scatter(const Step& to, const Segments& segments) {
    const Cut c(mesh_, to.first, to.second, segments);
    const at::Tensor in = c.all_parts(t_);
    t_ = at::empty(in[0].sizes(), in.options());
    c.comm.reduce_scatter(in.const_data_ptr(), t_.data_ptr(), static_cast<size_t>(t_.numel()), ops::dtype_of(t_), Reduce::kSum, call("redistribute: addends to shards"));
  }

  void all_to_all(const Step& from, const Segments& from_segments, const Step& to, const Segments& to_segments) {
    const Cut a(mesh_, from.first, from.second, from_segments), b(mesh_, to.first, to.second, to_segments);
    const at::Tensor in = b.all_parts(t_);
    const at::Tensor out = at::empty_like(in);
    const std::vector<size_t> counts(static_cast<size_t>(b.size), static_cast<size_t>(in[0].numel()));
    a.comm.all_to_all(in.const_data_ptr(), counts, out.data_ptr(), counts, ops::dtype_of(in), call("redistribute: shards to shards"));
    t_ = a.put_together(out);
  }

  const Mesh& mesh_;
  at::Tensor t_;
};

Layout dual(Layout l) {
  for (auto& [axis, place] : l.major_to_minor)
    if (place.kind == Place::kPartial) place = {};
  return l;
}

struct RedistributeNode final : ops::Node {
  Layout from, cotangent;
  Mesh mesh = Mesh::single();
  ops::variable_list apply(ops::variable_list&& grads) override { return {Mover(mesh, grads[0]).run(cotangent, dual(from))}; }
};

}  // namespace

at::Tensor redistribute(const at::Tensor& t, const Layout& from, const Layout& to, const Layout& cotangent, const Mesh& mesh) {
  for (const auto& [axis, place] : cotangent.major_to_minor)
    if (shards(place) && place.replicas > 1) throw ShapeError("redistribute: cotangent: a slice with replicas does not say who sums");
  auto node = ops::make_node<RedistributeNode>({}, {t}, false);
  if (node) node->from = from, node->cotangent = cotangent, node->mesh = mesh;
  at::Tensor out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    out = Mover(mesh, t.detach()).run(from, to);
    if (out.is_same(t) || out.storage().is_alias_of(t.storage())) out = out.clone();
  }
  return ops::attach(node, out);
}

}  // namespace weft
