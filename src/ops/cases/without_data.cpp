#include "ops/aten.h"

#include "ops/cases/without_data.h"

#include <ATen/ExpandUtils.h>
#include <ATen/WrapDimUtils.h>
#include <torch/library.h>

namespace weft::ops::cases {
namespace {

at::Tensor& same_out(const at::Tensor& self, at::Tensor& out) {
  out.resize_(self.sizes());
  return out;
}
at::Tensor& broadcast_out(const at::Tensor& a, const at::Tensor& b, at::Tensor& out) {
  out.resize_(at::infer_size(a.sizes(), b.sizes()));
  return out;
}
at::Tensor same(const at::Tensor& self) { return at::empty_like(self); }
at::Tensor one_of(const at::Tensor& self) { return at::empty({}, self.options()); }
at::Tensor truth(const at::Tensor& self) { return at::empty_like(self, self.options().dtype(at::kBool)); }
at::Tensor searchsorted(const at::Tensor&, const at::Tensor& self, bool i32, bool, std::optional<std::string_view>, const std::optional<at::Tensor>&) {
  return at::empty_like(self, self.options().dtype(i32 ? at::kInt : at::kLong));
}
at::Tensor flip(const at::Tensor& self, at::IntArrayRef) { return at::empty_like(self); }
at::Tensor roll(const at::Tensor& self, c10::SymIntArrayRef, at::IntArrayRef) { return at::empty_like(self); }
at::Tensor where(const at::Tensor& condition, const at::Tensor& a, const at::Tensor& b) {
  return at::empty(at::infer_size(condition.sizes(), at::infer_size(a.sizes(), b.sizes())), a.options().dtype(at::result_type(a, b)));
}
at::Tensor index_select(const at::Tensor& self, int64_t dim, const at::Tensor& index) {
  std::vector<int64_t> shape = self.sizes().vec();
  shape.at(static_cast<size_t>(at::maybe_wrap_dim(dim, self.dim()))) = index.numel();
  return at::empty(shape, self.options());
}
at::Tensor solve_triangular(const at::Tensor& a, const at::Tensor& b, bool, bool, bool) {
  std::vector<int64_t> shape = at::infer_size(a.sizes().slice(0, a.dim() - 2), b.sizes().slice(0, b.dim() - 2));
  shape.insert(shape.end(), {b.size(-2), b.size(-1)});
  return at::empty(shape, b.options());
}

}  // namespace

std::shared_ptr<void> shapes_without_data() {
  auto held = std::make_shared<torch::Library>(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__);
  torch::Library& meta = *held;
  for (const char* op : {"abs.out", "logical_not.out"}) meta.impl(op, TORCH_FN(same_out));
  for (const char* op : {"logical_and.out", "logical_or.out"}) meta.impl(op, TORCH_FN(broadcast_out));
  meta.impl("relu", TORCH_FN(same));
  meta.impl("max", TORCH_FN(one_of));
  meta.impl("isnan", TORCH_FN(truth));
  meta.impl("searchsorted.Tensor", TORCH_FN(searchsorted));
  meta.impl("flip", TORCH_FN(flip));
  meta.impl("roll", TORCH_FN(roll));
  meta.impl("where.self", TORCH_FN(where));
  meta.impl("index_select", TORCH_FN(index_select));
  meta.impl("linalg_solve_triangular", TORCH_FN(solve_triangular));
  meta.impl("_local_scalar_dense", [](const at::Tensor&) { return at::Scalar(0); });
  return held;
}

}  // namespace weft::ops::cases
