#include "ops/aten.h"

#include "ops/mixed_gemm.h"

#include "kernels/gemm/split.h"
#include "ops/composed.h"
#include "ops/linear.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::SplitBf16;

struct Mixed {  // a call, for the choice alone
  int64_t tokens, dim, outputs;
  DType x, w;
};

// "split": the product of parts below. "widened": the activations are brought to the other factor's dtype first.
constexpr Candidate<Mixed> kMixed[] = {
    {"split", [](const Mixed& m, const Policy& p) -> kernels::Support {
       if (p.device.kind != kernels::Device::kCuda) return {"runs on CUDA only"};
       if (m.x != DType::kBf16 || m.w != DType::kF32) return {"not bf16 activations with an fp32 matrix"};
       if (m.tokens == 0) return {"no tokens"};
       return {};
     }, nullptr, nullptr},
    {"widened", [](const Mixed& m, const Policy&) -> kernels::Support {
       if (m.w != DType::kF32 && m.w != DType::kF64) return {"the matrix is not f32 or f64"};
       return {};
     }, nullptr, nullptr},
};

bool splits(const char* op, const at::Tensor& x, at::ScalarType x_type, const at::Tensor& w, const Policy& policy) {
  const Mixed m{x.size(0), w.size(1), w.size(0), dtype_of(x_type), dtype_of(w)};
  return select<Mixed>(op, kMixed, m, of_parts(policy)) == &kMixed[0];
}

constexpr Candidate<SplitBf16> kSplit[] = {
#ifdef WEFT_CUDA
    {"cuda", on_device<kernels::supports_split_bf16>, nullptr, kernels::split_bf16},
#endif
    kAtenOnCpu<SplitBf16>,
};

// The three parts, one below the other ([3 rows, cols]) or side by side ([rows, 3 cols]).
at::Tensor parts(const at::Tensor& v, bool below, const int8_t (&part_at)[3], const Policy& policy) {
  const int64_t rows = v.size(0), cols = v.size(1);
  const at::Tensor source = v.contiguous(), out = at::empty({below ? 3 * rows : rows, below ? cols : 3 * cols}, v.options().dtype(at::kBFloat16));
  const SplitBf16 a{source.data_ptr<float>(), out.data_ptr(), rows, cols, below ? cols : 3 * cols, below ? rows * cols : cols,
                    {part_at[0], part_at[1], part_at[2]}};
  const auto* c = select<SplitBf16>("split_bf16", kSplit, a, policy);
  if (!composed(c)) {
    run(*c, a, out);
    return out;
  }
  std::vector<at::Tensor> part;
  at::Tensor left = source;
  for (int p = 0; p < 3; ++p) part.push_back(left.to(at::kBFloat16)), left = left - part.back().to(at::kFloat);
  return at::cat({part[part_at[0]], part[part_at[1]], part[part_at[2]]}, below ? 0 : 1);
}

constexpr int8_t kAllParts[3] = {0, 1, 2};

}  // namespace

at::Tensor mixed_forward(const char* op, const at::Tensor& x, const at::Tensor& w, const Policy& policy) {
  if (!splits(op, x, x.scalar_type(), w, policy)) return at::mm(x.to(w.scalar_type()), w.t());
  const int64_t tokens = x.size(0), outputs = w.size(0);
  const at::Tensor three = at::empty({tokens, 3 * outputs}, w.options());
  gemm(op, x, false, parts(w, true, kAllParts, of_parts(policy)), true, three, false, of_parts(policy));
  return three.view({tokens, 3, outputs}).sum(1);
}

// The result is rounded to bf16, so of the nine products of parts three suffice: their sum is good to 2^-16.
at::Tensor mixed_dx(const char* op, const at::Tensor& d, const at::Tensor& w, at::ScalarType x_type, const Policy& policy) {
  if (!splits(op, d, x_type, w, policy)) return at::mm(d, w.to(d.scalar_type())).to(x_type);
  const at::Tensor dx = at::empty({d.size(0), w.size(1)}, w.options().dtype(x_type));
  gemm(op, parts(d, false, {0, 1, 0}, of_parts(policy)), false, parts(w, true, {0, 0, 1}, of_parts(policy)), false, dx, false, of_parts(policy));
  return dx;
}

void mixed_dw(const char* op, const at::Tensor& d, const at::Tensor& x, at::Tensor dw, const Policy& policy) {
  if (!splits(op, x, x.scalar_type(), dw, policy)) {
    dw.add_(at::mm(d.t(), x.to(d.scalar_type())));
    return;
  }
  const at::Tensor three = at::empty({3 * dw.size(0), dw.size(1)}, dw.options());
  gemm(op, parts(d, false, kAllParts, of_parts(policy)), true, x, false, three, false, of_parts(policy));
  dw.add_(three.view({3, dw.size(0), dw.size(1)}).sum(0));
}

}  // namespace weft::ops
