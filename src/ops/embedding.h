// Rows of a table. The gradient is deterministic and goes straight into main_grad: there is no dense dW.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct VocabCut {  // a table cut over ranks holds the rows [begin, begin + V) of `total`; ids of other ranks give zeros
  int64_t begin = 0, total = 0;  // total 0: not cut
};

// tokens int64 of any shape, w [V, D]. Returns [shape of tokens, D] in w's dtype. On the CPU ids outside [0, total) are a ShapeError.
at::Tensor embedding(const at::Tensor& tokens, Weight& w, const Policy&, VocabCut = {});
// y, rows of w that another kernel gathered by `tokens` [n] ([n D] in all), with the gradient of `embedding`.
at::Tensor embedding_gradient(const at::Tensor& y, const at::Tensor& tokens, Weight& w, const Policy&);
void check_embedding_table(const at::Tensor& w);  // ShapeError unless [V, D] contiguous

namespace reference {
at::Tensor embedding(const at::Tensor& tokens, const at::Tensor& w, int64_t begin);
at::Tensor embedding_bwd(const at::Tensor& dy, const at::Tensor& tokens, const at::Tensor& w, int64_t begin);  // dw, accumulation dtype
}  // namespace reference
}  // namespace weft::ops
