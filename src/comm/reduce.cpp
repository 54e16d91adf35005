#include "comm/reduce.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "base/error.h"

namespace weft {
namespace {

float from_bf16(uint16_t v) { return std::bit_cast<float>(static_cast<uint32_t>(v) << 16); }
uint16_t to_bf16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  if (std::isnan(f)) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

float from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3ff;
  if (e == 31) return std::bit_cast<float>(sign | 0x7f800000 | (m << 13));
  const float magnitude = e == 0 ? std::ldexp(static_cast<float>(m), -24) : std::bit_cast<float>(((e + 112) << 23) | (m << 13));
  return sign != 0 ? -magnitude : magnitude;
}
uint16_t to_f16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000);
  const float a = std::fabs(f);
  if (std::isnan(f)) return sign | 0x7e00;
  if (a >= 65520.0f) return sign | 0x7c00;
  if (a < 6.103515625e-5f) return sign | static_cast<uint16_t>(std::nearbyint(a * 16777216.0f));  // subnormal: units of 2^-24
  const uint32_t v = std::bit_cast<uint32_t>(a) - (112u << 23);
  return sign | static_cast<uint16_t>((v + 0xfff + ((v >> 13) & 1)) >> 13);
}

template <class T, class Wide, class Load, class Store>
void reduce_as(std::span<const void* const> in, void* out, size_t count, Reduce op, Load load, Store store) {
  T* y = static_cast<T*>(out);
  for (size_t i = 0; i < count; ++i) {
    Wide acc = load(static_cast<const T*>(in[0])[i]);
    for (size_t r = 1; r < in.size(); ++r) {
      const Wide v = load(static_cast<const T*>(in[r])[i]);
      if (op == Reduce::kSum) acc += v;
      else if (v > acc || v != v) acc = v;  // NaN wins: a maximum must not hide it
    }
    y[i] = store(acc);
  }
}

template <class T>
void reduce_plain(std::span<const void* const> in, void* out, size_t count, Reduce op) {
  const auto same = [](T v) { return v; };
  reduce_as<T, T>(in, out, count, op, same, same);
}

}  // namespace

void reduce_into(std::span<const void* const> in, void* out, size_t count, DType t, Reduce op, const char* what) {
  switch (t) {
    case DType::kF64: return reduce_plain<double>(in, out, count, op);
    case DType::kF32: return reduce_plain<float>(in, out, count, op);
    case DType::kI64: return reduce_plain<int64_t>(in, out, count, op);
    case DType::kI32: return reduce_plain<int32_t>(in, out, count, op);
    case DType::kU8: return reduce_as<uint8_t, unsigned>(in, out, count, op, [](uint8_t v) { return unsigned{v}; },
                                                        [](unsigned v) { return static_cast<uint8_t>(v); });
    case DType::kBf16: return reduce_as<uint16_t, float>(in, out, count, op, from_bf16, to_bf16);
    case DType::kF16: return reduce_as<uint16_t, float>(in, out, count, op, from_f16, to_f16);
    default: throw CommError(std::string(what) + ": reduce: got " + name(t) + ", want f64, f32, f16, bf16, i64, i32 or u8");
  }
}

}  // namespace weft
