// Rotary frequencies and the tables made of them. Owned by the caller: nothing is cached behind its back.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace weft::ops {

struct RopeScaling {
  enum Kind : uint8_t { kNone, kLinear, kYarn, kLlama3 } kind = kNone;
  double factor = 1;               // kLinear: positions / factor; kYarn, kLlama3: low frequencies / factor
  double original_positions = 0;   // context of pre-training (kYarn, kLlama3)
  double beta_fast = 32, beta_slow = 1;  // kYarn: rotations in the original context that bound the ramp
  bool round_range = true;         // kYarn: the ramp's bounds are rounded outward to whole dims
  double mscale = 1, mscale_all_dim = 0;  // kYarn: cos and sin are multiplied by the concentration
  double low_freq_factor = 1, high_freq_factor = 4;  // kLlama3
};

struct RopeSpec {
  int64_t rotated = 0;    // dims that turn (even)
  double base = 10000;    // "ABF" is a larger base
  RopeScaling scaling{};
};

// 0.1 * mscale * ln(factor) + 1, or 1 for factor <= 1 (YaRN, Peng et al. 2023).
double yarn_mscale(double factor, double mscale);
// What kYarn multiplies cos and sin with: yarn_mscale(factor, mscale), over yarn_mscale(factor, mscale_all_dim) where that is set; else 1.
double rope_concentration(const RopeSpec&);
// [rotated / 2] radians per position. ShapeError for odd `rotated`.
std::vector<double> rope_frequencies(const RopeSpec&);

struct RopeTable {
  at::Tensor cos_PF, sin_PF;  // [positions, rotated / 2] fp32
  bool defined() const { return cos_PF.defined(); }
};
RopeTable rope_table(const RopeSpec&, int64_t positions, at::Device device = at::kCPU);
// mRoPE: positions_AT int64 or int32, [3, T] (time, height, width); sections [A] say how many of the frequencies each axis turns. Returns
// a table with one row a token, to be used with positions 0..T-1.
RopeTable rope_rows(const RopeTable&, const at::Tensor& positions_AT, const std::vector<int64_t>& sections);

}  // namespace weft::ops
