// In which precision a linear layer multiplies. Chosen per layer by parallel/precision.
#pragma once
#include <cstdint>

namespace weft::ops {

struct GemmRecipe {
  // kBf16: in the dtype of the tensors, which agree. kF32: x is brought to fp32 for an fp32 weight, y is fp32 (routers).
  enum Kind : uint8_t { kBf16, kF32, kF8Tensor, kF8Row, kF8Block } kind = kBf16;
};

}  // namespace weft::ops
