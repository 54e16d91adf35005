#include "ops/aten.h"

#include "ops/sample.h"

#include "kernels/sample/sample.h"
#include "ops/address.h"
#include "ops/run.h"

namespace weft::ops {
namespace reference {

Sampled sample(const at::Tensor& logits, const SampleOptions& o) {
  const auto t = wide(logits);
  std::vector<at::Tensor> tokens, logprobs;
  for (int64_t r = 0; r < logits.size(0); ++r) {
    const SampleRow& s = o.rows[static_cast<size_t>(r)];
    at::Tensor z = logits[r].to(t);
    const at::Tensor counts = o.counts.defined() ? o.counts[r].to(t) : at::zeros_like(z);
    const at::Tensor seen = o.in_prompt.defined() ? (counts > 0).logical_or(o.in_prompt[r] != 0) : counts > 0;
    z = at::where(seen, at::where(z > 0, z / s.repetition, z * s.repetition), z);
    z = z - s.frequency * counts - s.presence * (counts > 0);
    z = at::where(z.isnan(), at::full_like(z, -INFINITY), z);
    if (s.temperature != 0) z = z / s.temperature;
    const at::Tensor logp = at::log_softmax(z, 0), highest = z.max();
    const at::Tensor order = std::get<1>(at::sort(z, /*stable=*/true, 0, /*descending=*/true));
    at::Tensor token = order.narrow(0, 0, 1);
    if (s.temperature != 0) {
      const int64_t n = z.size(0), k = s.top_k > 0 ? std::min<int64_t>(s.top_k, n) : n;
      const at::Tensor mass = at::exp(z - highest).index_select(0, order.narrow(0, 0, k));  // from the highest down
      const at::Tensor before = mass.cumsum(0) - mass;
      at::Tensor stays = mass >= s.min_p;
      if (s.top_p < 1) stays = stays.logical_and(before < s.top_p * mass.sum());
      stays[0] = true;
      const at::Tensor left = at::zeros_like(z).index_put_({order.narrow(0, 0, k)}, at::where(stays, mass, at::zeros_like(mass)));
      const at::Tensor run = left.cumsum(0);
      token = (run > s.uniform * left.sum()).to(at::kLong).argmax().view({1});
    }
    const bool none = !highest.isfinite().item<bool>() && highest.item<double>() < 0;
    tokens.push_back(none ? at::full_like(token, -1) : token);
    logprobs.push_back(none ? at::full({1}, -INFINITY, logp.options()) : logp.index_select(0, token));
  }
  if (tokens.empty()) return {at::empty({0}, logits.options().dtype(at::kInt)), at::empty({0}, logits.options().dtype(at::kFloat))};
  return {at::cat(tokens).to(at::kInt), at::cat(logprobs).to(t)};
}

}  // namespace reference

namespace {

constexpr Candidate<kernels::Sample> kSample[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_sample_sm90>, nullptr, kernels::sample_sm90},
#endif
    {"cpu", on_device<kernels::supports_sample_cpu>, nullptr, kernels::sample_cpu},
};

void check(bool ok, const char* what, double got, const char* want) { check_shape(ok, "sample", what, std::to_string(got), want); }

}  // namespace

Sampled sample(const at::Tensor& logits, const SampleOptions& o, const Policy& policy) {
  const at::NoGradGuard no_grad;
  check_shape(logits.dim() == 2 && logits.size(1) > 0 && (logits.stride(1) == 1 || logits.size(1) == 1), "sample", "logits", describe(logits),
              "[rows, V], V contiguous");
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  check_shape(static_cast<int64_t>(o.rows.size()) == rows, "sample", "settings", std::to_string(o.rows.size()), std::to_string(rows) + ", one a row");
  const auto fits = [&](const at::Tensor& t, at::ScalarType dtype) { return !t.defined() || (t.sizes() == logits.sizes() && t.is_contiguous() && t.scalar_type() == dtype); };
  check_shape(fits(o.counts, at::kInt), "sample", "counts", describe(o.counts), "[rows, V] i32 contiguous");
  check_shape(fits(o.in_prompt, at::kByte), "sample", "in_prompt", describe(o.in_prompt), "[rows, V] u8 contiguous");
  // Settings travel as one small matrix: one copy to the device.
  at::Tensor host = at::empty({8, rows}, at::kFloat);
  float* f = host.data_ptr<float>();
  for (int64_t r = 0; r < rows; ++r) {
    const SampleRow& s = o.rows[static_cast<size_t>(r)];
    check(s.temperature >= 0 && std::isfinite(s.temperature), "temperature", s.temperature, "0 or more");
    check(s.top_p > 0 && s.top_p <= 1, "top_p", s.top_p, "above 0, to 1");
    check(s.min_p >= 0 && s.min_p <= 1, "min_p", s.min_p, "0 to 1");
    check(s.top_k >= 0, "top_k", static_cast<double>(s.top_k), "0 or more");
    check(s.uniform >= 0 && s.uniform < 1, "uniform", s.uniform, "0 to below 1");
    check(s.repetition > 0, "repetition", s.repetition, "above 0");
    const int32_t k = static_cast<int32_t>(std::min<int64_t>(s.top_k, vocab));
    const float uniform = std::min(static_cast<float>(s.uniform), 0x1.fffffep-1f);
    const float row[8] = {static_cast<float>(s.temperature), static_cast<float>(s.top_p),    static_cast<float>(s.min_p),
                          uniform,                           static_cast<float>(s.repetition), static_cast<float>(s.presence),
                          static_cast<float>(s.frequency),   std::bit_cast<float>(k)};
    for (int64_t i = 0; i < 8; ++i) f[i * rows + r] = row[i];
  }
  const at::Tensor settings = host.to(logits.device());
  const float* s = address_of<float>(settings);
  Sampled out{at::empty({rows}, logits.options().dtype(at::kInt)), at::empty({rows}, logits.options().dtype(at::kFloat))};
  const kernels::Sample a{logits.data_ptr(), s, reinterpret_cast<const int32_t*>(s + 7 * rows), s + rows, s + 2 * rows, s + 4 * rows, s + 5 * rows,
                          s + 6 * rows, o.counts.defined() ? address_of<int32_t>(o.counts) : nullptr,
                          o.in_prompt.defined() ? address_of<uint8_t>(o.in_prompt) : nullptr, s + 3 * rows, address_of<int32_t>(out.token),
                          address_of<float>(out.logprob), rows, logits.stride(0), static_cast<int32_t>(vocab), dtype_of(logits)};
  const auto* c = select<kernels::Sample>("sample", kSample, a, policy);
  if (c == nullptr) return reference::sample(logits, o);
  run(*c, a, logits);
  return out;
}

}  // namespace weft::ops
