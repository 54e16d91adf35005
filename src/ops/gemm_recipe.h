// In which precision a linear layer multiplies. Chosen per layer by nn/precision.
#pragma once
#include <array>
#include <cstdint>

namespace weft::ops {

struct WeightCopies;  // ops/linear_f8.h

struct GemmRecipe {
  // kBf16: in the dtype of the tensors, which agree. kF32: x is brought to fp32 for an fp32 weight, y is fp32 (routers).
  // kTf32: as kBf16, but fp32 factors are rounded to TF32 on GPUs.
  // FP8 with current scaling (ops/linear_f8.h): kF8Tensor one scale a tensor, kF8Row one a row, kF8Block 1x128 and 128x128.
  enum Kind : uint8_t { kBf16, kF32, kTf32, kF8Tensor, kF8Row, kF8Block } kind = kBf16;
  bool exact = false;  // FP8 in plain tensor code with nothing rounded: the function that the backward differentiates. For tests

  WeightCopies* copies = nullptr;  // where the layer keeps the FP8 forms of its weight; null: they are made at every call

  bool is_f8() const { return kind >= kF8Tensor; }
};
constexpr std::array<const char*, 6> names(GemmRecipe::Kind) { return {"bf16", "f32", "tf32", "f8_tensor", "f8_row", "f8_block"}; }

}  // namespace weft::ops
