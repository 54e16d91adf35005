#include "ops/aten.h"

#include "ops/rope_table.h"

#include <cmath>
#include <numbers>

#include "ops/tensors.h"

namespace weft::ops {

double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; }

double rope_concentration(const RopeSpec& spec) {
  const RopeScaling& s = spec.scaling;
  if (s.kind != RopeScaling::kYarn) return 1;
  if (s.mscale != 0 && s.mscale_all_dim != 0) return yarn_mscale(s.factor, s.mscale) / yarn_mscale(s.factor, s.mscale_all_dim);
  return yarn_mscale(s.factor, s.mscale == 0 ? 1 : s.mscale);
}

std::vector<double> rope_frequencies(const RopeSpec& spec) {
  check_shape(spec.rotated >= 0 && spec.rotated % 2 == 0, "rope_frequencies", "rotated", std::to_string(spec.rotated), "an even number");
  const RopeScaling& s = spec.scaling;
  const double dims = static_cast<double>(spec.rotated), turn = 2 * std::numbers::pi;
  // The dim whose frequency turns `rotations` times within the original context.
  const auto dim_of = [&](double rotations) { return dims * std::log(s.original_positions / (rotations * turn)) / (2 * std::log(spec.base)); };
  double low = 0, high = 0;
  if (s.kind == RopeScaling::kYarn) {
    low = dim_of(s.beta_fast), high = dim_of(s.beta_slow);
    if (s.round_range) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, dims - 1);
    if (low == high) high += 0.001;  // a step instead of a ramp
  }
  std::vector<double> out;
  for (int64_t i = 0; i < spec.rotated / 2; ++i) {
    const double f = std::pow(spec.base, -2.0 * static_cast<double>(i) / dims);
    switch (s.kind) {
      case RopeScaling::kNone: out.push_back(f); break;
      case RopeScaling::kLinear: out.push_back(f / s.factor); break;
      case RopeScaling::kYarn: {
        const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        out.push_back(f / s.factor * ramp + f * (1 - ramp));
        break;
      }
      case RopeScaling::kLlama3: {
        const double wavelength = turn / f;
        const double smooth = (s.original_positions / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
        if (wavelength < s.original_positions / s.high_freq_factor) out.push_back(f);
        else if (wavelength > s.original_positions / s.low_freq_factor) out.push_back(f / s.factor);
        else out.push_back((1 - smooth) * f / s.factor + smooth * f);
        break;
      }
    }
  }
  return out;
}

RopeTable rope_table(const RopeSpec& spec, int64_t positions, at::Device device) {
  const at::Tensor f = at::tensor(rope_frequencies(spec), at::kDouble);
  const at::Tensor angle = at::outer(at::arange(positions, at::kDouble), f);  // fp64: position 1e6 times 1 rad still has its fraction
  const double c = rope_concentration(spec);
  return {(angle.cos() * c).to(device, at::kFloat), (angle.sin() * c).to(device, at::kFloat)};
}

RopeTable rope_rows(const RopeTable& table, const at::Tensor& positions_AT, const std::vector<int64_t>& sections) {
  int64_t total = 0;
  for (int64_t s : sections) total += s;
  check_shape(positions_AT.dim() == 2 && positions_AT.size(0) == static_cast<int64_t>(sections.size()), "rope_rows", "positions",
              describe(positions_AT), "[" + std::to_string(sections.size()) + ", tokens]");
  check_shape(total == table.cos_PF.size(1), "rope_rows", "sum of sections", std::to_string(total), std::to_string(table.cos_PF.size(1)));
  std::vector<at::Tensor> cos, sin;
  int64_t first = 0;
  for (size_t a = 0; a < sections.size(); ++a) {
    const at::Tensor p = positions_AT[static_cast<int64_t>(a)].to(at::kLong);
    cos.push_back(table.cos_PF.narrow(1, first, sections[a]).index_select(0, p));
    sin.push_back(table.sin_PF.narrow(1, first, sections[a]).index_select(0, p));
    first += sections[a];
  }
  return {at::cat(cos, 1), at::cat(sin, 1)};
}

}  // namespace weft::ops
