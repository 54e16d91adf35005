#include "ckpt/piece.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "base/error.h"

namespace weft::ckpt {
namespace {

std::string text(std::span<const int64_t> v) {
  std::string s = "[";
  for (size_t i = 0; i < v.size(); ++i) s += (i > 0 ? ", " : "") + std::to_string(v[i]);
  return s + "]";
}

std::optional<Box> intersect(const Box& a, const Box& b) {
  Box out = a;
  for (size_t d = 0; d < a.offset.size(); ++d) {
    const int64_t begin = std::max(a.offset[d], b.offset[d]);
    const int64_t end = std::min(a.offset[d] + a.shape[d], b.offset[d] + b.shape[d]);
    if (end <= begin) return std::nullopt;
    out.offset[d] = begin, out.shape[d] = end - begin;
  }
  return out;
}

// What of `a` lies outside `hole` (which lies inside `a`), as disjoint boxes.
void subtract(Box a, const Box& hole, std::vector<Box>& out) {
  for (size_t d = 0; d < a.offset.size(); ++d) {
    const int64_t before = hole.offset[d] - a.offset[d];
    const int64_t after = a.offset[d] + a.shape[d] - hole.offset[d] - hole.shape[d];
    if (before > 0) {
      Box b = a;
      b.shape[d] = before;
      out.push_back(std::move(b));
    }
    if (after > 0) {
      Box b = a;
      b.offset[d] = hole.offset[d] + hole.shape[d], b.shape[d] = after;
      out.push_back(std::move(b));
    }
    a.offset[d] = hole.offset[d], a.shape[d] = hole.shape[d];
  }
}

void check_box(const Piece& p) {
  bool ok = p.box.offset.size() == p.global.size() && p.box.shape.size() == p.global.size();
  for (size_t d = 0; ok && d < p.global.size(); ++d) {
    int64_t end = 0;
    ok = p.box.offset[d] >= 0 && p.box.shape[d] >= 0 && !__builtin_add_overflow(p.box.offset[d], p.box.shape[d], &end) && end <= p.global[d];
  }
  if (!ok) throw InputError("piece of '" + p.name + "': got offset " + text(p.box.offset) + " and shape " + text(p.box.shape) + ", want a box within " + text(p.global));
}

}  // namespace

std::vector<Copy> plan_copies(std::span<const Piece> have, std::span<const Piece> want) {
  std::map<std::string, std::vector<int>> by_name;
  for (size_t i = 0; i < have.size(); ++i) check_box(have[i]), by_name[have[i].name].push_back(static_cast<int>(i));
  std::vector<Copy> out;
  for (size_t w = 0; w < want.size(); ++w) {
    const Piece& p = want[w];
    check_box(p);
    const auto it = by_name.find(p.name);
    if (it == by_name.end()) throw InputError("tensor '" + p.name + "' is wanted, but not there");
    std::vector<Box> left;
    if (numel(p.box.shape) > 0) left.push_back(p.box);
    for (int h : it->second) {
      const Piece& q = have[static_cast<size_t>(h)];
      if (q.global != p.global) throw InputError("tensor '" + p.name + "': got shape " + text(q.global) + ", want " + text(p.global));
      if (q.dtype != p.dtype) throw InputError("tensor '" + p.name + "': got " + name(q.dtype) + ", want " + name(p.dtype));
      std::vector<Box> still;
      for (Box& b : left) {
        if (auto common = intersect(b, q.box)) {
          subtract(b, *common, still);
          out.push_back({h, static_cast<int>(w), std::move(*common)});
        } else {
          still.push_back(std::move(b));
        }
      }
      left = std::move(still);
      if (left.empty()) break;
    }
    if (!left.empty()) throw InputError("tensor '" + p.name + "': no piece has the box at " + text(left[0].offset) + " of shape " + text(left[0].shape));
  }
  return out;
}

void check_cover(std::span<const Piece> pieces) {
  std::map<std::string, std::vector<const Piece*>> by_name;
  for (const Piece& p : pieces) check_box(p), by_name[p.name].push_back(&p);
  for (auto& [name, all] : by_name) {
    int64_t volume = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i]->global != all[0]->global || all[i]->dtype != all[0]->dtype) throw InputError("tensor '" + name + "': pieces of different shapes or dtypes");
      volume += numel(all[i]->box.shape);
    }
    // Disjoint boxes cover the tensor when their volumes add up. Sorted by the first dim, only neighbours can meet.
    if (!all[0]->global.empty()) {
      std::sort(all.begin(), all.end(), [](const Piece* a, const Piece* b) { return a->box.offset < b->box.offset; });
      for (size_t i = 0; i < all.size(); ++i)
        for (size_t k = i + 1; k < all.size() && all[k]->box.offset[0] < all[i]->box.offset[0] + all[i]->box.shape[0]; ++k)
          if (intersect(all[i]->box, all[k]->box)) throw InputError("tensor '" + name + "': two pieces have the element at " + text(intersect(all[i]->box, all[k]->box)->offset));
    }
    if (volume != numel(all[0]->global))
      throw InputError("tensor '" + name + "': pieces have " + std::to_string(volume) + " of its " + std::to_string(numel(all[0]->global)) + " elements");
  }
}

void copy_box(const std::byte* src, const Box& src_box, std::byte* dst, const Box& dst_box, const Box& box, DType dtype) {
  WEFT_CHECK(bits(dtype) >= 8, "copy_box: packed dtype");
  const int64_t element = bits(dtype) / 8;
  const size_t dims = box.shape.size();
  if (numel(box.shape) == 0) return;
  if (dims == 0) {
    std::memcpy(dst, src, static_cast<size_t>(element));
    return;
  }
  // Trailing dims that all three have whole make one run.
  size_t inner = dims - 1;
  int64_t run = box.shape[inner];
  while (inner > 0 && box.shape[inner] == src_box.shape[inner] && box.shape[inner] == dst_box.shape[inner]) run *= box.shape[--inner];
  int64_t runs = 1;
  for (size_t d = 0; d < inner; ++d) runs *= box.shape[d];
  for (int64_t i = 0; i < runs; ++i) {
    int64_t rest = i, from = 0, to = 0, src_stride = 1, dst_stride = 1;
    for (size_t d = dims; d-- > 0;) {
      int64_t at = box.offset[d];
      if (d < inner) at += rest % box.shape[d], rest /= box.shape[d];
      from += (at - src_box.offset[d]) * src_stride, to += (at - dst_box.offset[d]) * dst_stride;
      src_stride *= src_box.shape[d], dst_stride *= dst_box.shape[d];
    }
    std::memcpy(dst + to * element, src + from * element, static_cast<size_t>(run * element));
  }
}

}  // namespace weft::ckpt
