#include "dist/layout.h"

#include <numeric>
#include <string>

#include "base/error.h"
#include "dist/cut.h"

namespace weft {
namespace {

using Intervals = std::vector<Interval>;

[[noreturn]] void refuse(const std::string& what, int64_t got, const std::string& want) {
  throw ShapeError("layout: " + what + ": got " + std::to_string(got) + ", want " + want);
}

void push(Intervals& out, Interval i) {
  if (!out.empty() && out.back().end == i.begin) out.back().end = i.end;  // neighbours are one box
  else if (i.end > i.begin) out.push_back(i);
}

// Intervals of every dim that this rank holds.
std::vector<Intervals> local_intervals(const Layout& layout, std::span<const int64_t> shape, const Mesh& mesh) {
  std::vector<Intervals> dims;
  for (int64_t n : shape) dims.push_back({{0, n}});
  bool first_cut = true;
  for (const auto& [axis, place] : layout.major_to_minor) {
    if (place.kind != Place::kShard) continue;
    if (place.dim < 0 || place.dim >= static_cast<int>(shape.size())) refuse("dim to cut", place.dim, "below " + std::to_string(shape.size()));
    const size_t d = static_cast<size_t>(place.dim);
    const int n = mesh.size(axis);
    if (place.replicas < 1 || n % place.replicas != 0) refuse(std::string("replicas over ") + name(axis), place.replicas, "a divisor of " + std::to_string(n));
    if (first_cut && !layout.segments.empty()) {
      const int64_t sum = std::accumulate(layout.segments.begin(), layout.segments.end(), int64_t{0});
      if (sum != shape[d]) refuse("sum of segments", sum, "the dim, " + std::to_string(shape[d]));
      dims[d].clear();
      int64_t at = 0;
      for (int64_t s : layout.segments) dims[d].push_back({at, at + s}), at += s;
    }
    first_cut = false;
    dims[d] = cut(dims[d], place, n / place.replicas, mesh.coord(axis) / place.replicas);
  }
  for (Intervals& d : dims) {
    if (d.size() == 1) continue;
    Intervals merged;
    for (const Interval& i : d) push(merged, i);
    if (merged.empty()) merged.push_back({0, 0});
    d = std::move(merged);
  }
  return dims;
}

}  // namespace

std::vector<Interval> cut(const std::vector<Interval>& in, const Place& place, int parts, int part) {
  Intervals pieces;
  const int chunks = place.zigzag ? 2 * parts : parts;
  for (const Interval& i : in) {
    const int64_t n = i.end - i.begin;
    if (n % chunks != 0) refuse("dim " + std::to_string(place.dim), n, "a multiple of " + std::to_string(chunks));
    const int64_t step = n / chunks;
    const auto add = [&](int64_t c) { pieces.push_back({i.begin + c * step, i.begin + (c + 1) * step}); };
    add(part);
    if (place.zigzag) add(chunks - 1 - part);
  }
  return pieces;
}

int64_t numel(std::span<const int64_t> shape) { return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()); }

std::vector<Box> local_boxes(const Layout& layout, std::span<const int64_t> shape, const Mesh& mesh) {
  std::vector<Box> out{{}};
  for (const Intervals& dim : local_intervals(layout, shape, mesh)) {
    std::vector<Box> more;
    for (const Box& b : out)
      for (const Interval& i : dim) {
        Box next = b;
        next.offset.push_back(i.begin), next.shape.push_back(i.end - i.begin);
        more.push_back(std::move(next));
      }
    out = std::move(more);
  }
  return out;
}

std::vector<int64_t> local_shape(const Layout& layout, std::span<const int64_t> shape, const Mesh& mesh) {
  std::vector<int64_t> out;
  for (const Intervals& dim : local_intervals(layout, shape, mesh)) {
    int64_t n = 0;
    for (const Interval& i : dim) n += i.end - i.begin;
    out.push_back(n);
  }
  return out;
}

}  // namespace weft
