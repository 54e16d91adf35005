// Element types. The one header of base/ that .cu files may include: no torch, no <source_location>.
#pragma once
#include <cstddef>
#include <cstdint>

namespace weft {

enum class DType : uint8_t { kF64, kF32, kF16, kBf16, kF8E4M3, kF8E5M2, kF8E8M0, kF4E2M1, kI64, kI32, kU16, kU8 };

// Bits of one element: kF4E2M1 packs two in a byte.
constexpr int bits(DType t) {
  switch (t) {
    case DType::kF64: case DType::kI64: return 64;
    case DType::kF32: case DType::kI32: return 32;
    case DType::kF16: case DType::kBf16: case DType::kU16: return 16;
    case DType::kF4E2M1: return 4;
    default: return 8;
  }
}

constexpr size_t bytes(DType t, size_t count) { return (count * static_cast<size_t>(bits(t)) + 7) / 8; }

constexpr const char* name(DType t) {
  constexpr const char* names[] = {"f64", "f32", "f16", "bf16", "f8e4m3", "f8e5m2", "f8e8m0", "f4e2m1", "i64", "i32", "u16", "u8"};
  return names[static_cast<int>(t)];
}

}  // namespace weft
