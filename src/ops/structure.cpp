#include "ops/aten.h"

#include "ops/structure.h"

#include "kernels/structure/structure.h"
#include "ops/address.h"
#include "ops/composed.h"
#include "ops/node.h"
#include "ops/run.h"

namespace weft::ops {
namespace {

using kernels::StructureBwd;
using kernels::StructureFwd;

constexpr Candidate<StructureFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_structure_fwd_sm90>, nullptr, kernels::structure_fwd_sm90},
#endif
    kAtenOnCpu<StructureFwd>,
};
constexpr Candidate<StructureBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_structure_bwd_sm90>, kernels::workspace_structure_bwd_sm90, kernels::structure_bwd_sm90},
#endif
    kAtenOnCpu<StructureBwd>,
};

kernels::StructureStreams borrow(const std::vector<StructureStream>& streams) {
  kernels::StructureStreams s{};
  s.num = static_cast<int32_t>(streams.size());
  for (size_t i = 0; i < streams.size(); ++i) {
    s.ids[i] = static_cast<const int32_t*>(address(streams[i].ids));
    s.classes[i] = static_cast<int32_t>(streams[i].classes);
  }
  return s;
}

// Rows of the table for one stream, and 1 where the id is present.
std::pair<at::Tensor, at::Tensor> rows_of(const StructureStream& s, int64_t offset) {
  const at::Tensor id = s.ids.to(at::kLong);
  return {id.clamp(0, s.classes - 1) + offset, id >= 0};
}

struct StructureNode final : Node {
  std::vector<StructureStream> streams;
  Weight *table = nullptr, *scale = nullptr;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous();
    const int64_t dim = table->value.size(1);
    StructureBwd a{borrow(streams), dy.data_ptr(), table->value.data_ptr(), nullptr, nullptr, nullptr, dy.size(0), static_cast<int32_t>(dim),
                   dtype_of(dy)};
    if (scale->value.scalar_type() == at::kFloat) a.scale = address_of<float>(scale->value);
    const auto* c = select<StructureBwd>("structure_embedding_bwd", kBwd, a, policy);
    if (!composed(c)) {
      a.dtable = table->wants_grad() ? address_of<float>(table->main_grad) : nullptr;
      a.dscale = scale->wants_grad() ? address_of<float>(scale->main_grad) : nullptr;
      run(*c, a, dy);
      if (table->trainable) table->done();
      if (scale->trainable) scale->done();
      return {};
    }
    const auto t = wide(dy);
    const at::Tensor g = dy.to(t), values = table->value.to(t), scales = scale->value.to(t);
    at::Tensor dtable = at::zeros_like(values), dscale = at::zeros_like(scales);
    int64_t offset = 0;
    for (size_t i = 0; i < streams.size(); offset += streams[i].classes, ++i) {
      if (!streams[i].ids.defined()) continue;
      const auto [rows, present] = rows_of(streams[i], offset);
      const at::Tensor masked = g * present.unsqueeze(1);
      const int64_t k = static_cast<int64_t>(i);
      dtable.index_add_(0, rows, masked * scales[k]);
      dscale[k] = (masked * values.index_select(0, rows)).sum();
    }
    table->accumulate(dtable), scale->accumulate(dscale);
    return {};
  }
};

}  // namespace

at::Tensor structure_embedding(const std::vector<StructureStream>& streams, int64_t tokens, Weight& table, Weight& scale, const Policy& policy) {
  const char* op = "structure_embedding";
  int64_t total = 0;
  for (const StructureStream& s : streams) {
    check_shape(s.classes > 0, op, "classes", std::to_string(s.classes), "1 or more");
    check_shape(!s.ids.defined() || (s.ids.dim() == 1 && s.ids.size(0) == tokens && s.ids.scalar_type() == at::kInt && s.ids.is_contiguous()), op,
                "ids", describe(s.ids), "[" + std::to_string(tokens) + "] i32 contiguous");
    total += s.classes;
  }
  check_shape(!streams.empty() && streams.size() <= 8, op, "streams", std::to_string(streams.size()), "1 to 8");
  check_shape(table.value.dim() == 2 && table.value.size(0) == total && table.value.is_contiguous(), op, "table", describe(table.value),
              "[" + std::to_string(total) + ", dim] contiguous");
  check_shape(scale.value.dim() == 1 && scale.value.size(0) == static_cast<int64_t>(streams.size()) &&
                  (scale.value.scalar_type() == at::kFloat || scale.value.scalar_type() == at::kDouble),
              op, "scale", describe(scale.value), "[" + std::to_string(streams.size()) + "] f32");
  auto node = make_node<StructureNode>(policy, {}, table.wants_grad() || scale.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  const int64_t dim = table.value.size(1);
  StructureFwd a{borrow(streams), table.value.data_ptr(), nullptr, nullptr, tokens, static_cast<int32_t>(dim), dtype_of(table.value)};
  if (scale.value.scalar_type() == at::kFloat) a.scale = address_of<float>(scale.value);
  const auto* c = select<StructureFwd>(op, kFwd, a, policy);
  at::Tensor y;
  if (composed(c)) {
    const auto t = wide(table.value);
    const at::Tensor values = table.value.to(t), scales = scale.value.to(t);
    y = at::zeros({tokens, dim}, values.options());
    int64_t offset = 0;
    for (size_t i = 0; i < streams.size(); offset += streams[i].classes, ++i) {
      if (!streams[i].ids.defined()) continue;
      const auto [rows, present] = rows_of(streams[i], offset);
      y = y + values.index_select(0, rows) * present.unsqueeze(1) * scales[static_cast<int64_t>(i)];
    }
    y = y.to(table.value.scalar_type());
  } else {
    y = at::empty({tokens, dim}, table.value.options());
    a.y = y.data_ptr();
    run(*c, a, y);
  }
  if (node) node->streams = streams, node->table = &table, node->scale = &scale;
  return attach(node, y);
}

}  // namespace weft::ops
