// Sparse MLA against fp64: indices out of order, -1, in the future, in another document, and rows with no key at all.
#include <cuda_fp8.h>

#include <algorithm>

#include "harness.h"
#include "kernels/sparse_mla/sparse_mla.h"

namespace weft::check {
namespace {

enum Stored { kPlain, kTensorScale, kRowScales };

// Codes of x and their scales, rows of `width`; x becomes what they stand for, in bf16.
struct Codes {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};
Codes encode(std::vector<bf16>& x, size_t width, bool rows) {
  Codes out{std::vector<uint8_t>(x.size()), std::vector<float>(rows ? x.size() / width : 1)};
  const size_t block = rows ? width : x.size();
  for (size_t first = 0; first < x.size(); first += block) {
    float most = 0;
    for (size_t i = first; i < first + block; ++i) most = std::max(most, std::abs(__bfloat162float(x[i])));
    const float scale = out.scales[first / block] = most / 448;
    for (size_t i = first; i < first + block; ++i) {
      __nv_fp8_e4m3 code(__bfloat162float(x[i]) / scale);
      out.codes[i] = code.__x, x[i] = __float2bfloat16(static_cast<float>(code) * scale);
    }
  }
  return out;
}

void check(const char* label, const std::vector<int>& lengths, int H, int K, Stored stored = kPlain, float scale = 1 / std::sqrt(128.f)) {
  const int D = 128, V = 64;
  const std::string name = std::string("sparse_mla ") + label + (stored == kPlain ? " " : stored == kTensorScale ? " f8 " : " f8 rows ");
  Random random(H + K);
  const auto cu = packed(lengths);
  const size_t T = cu.back();
  auto q = random.normal<bf16>(T * H * D), kv = random.normal<bf16>(T * D), d_o = random.normal<bf16>(T * H * V);
  Codes q8, kv8;
  if (stored != kPlain) q8 = encode(q, static_cast<size_t>(H) * D, stored == kRowScales), kv8 = encode(kv, D, stored == kRowScales);
  std::vector<int32_t> indices(T * K, -1);
  for (size_t t = 0; t < T; ++t) {
    std::vector<int32_t> all(T);
    for (size_t i = 0; i < T; ++i) all[i] = static_cast<int32_t>(i);
    std::shuffle(all.begin(), all.end(), random.engine);
    const int n = std::min<int>(K, static_cast<int>(T));  // spread over the row, so that few tokens still have keys in every tile
    for (int j = 0; j < n; ++j) indices[t * K + j * K / n] = t == 1 || random.uniform(0, 1) < 0.1f ? -1 : all[j];
  }
  const auto hq = wide(q), hk = wide(kv), hg = wide(d_o);
  std::vector<double> o(T * H * V), lse(T * H), dq(T * H * D), dkv(T * D);
  size_t document = 0;
  for (size_t t = 0; t < T; ++t) {
    while (static_cast<size_t>(cu[document + 1]) <= t) ++document;
    for (int h = 0; h < H; ++h) {
      const size_t row = t * H + h;
      std::vector<double> s(K, -INFINITY);
      double m = -1e300, sum = 0;
      for (int j = 0; j < K; ++j) {
        const int i = indices[t * K + j];
        if (i < cu[document] || i > static_cast<int>(t)) continue;
        double d = 0;
        for (int k = 0; k < D; ++k) d += hq[row * D + k] * hk[static_cast<size_t>(i) * D + k];
        s[j] = d * scale, m = std::max(m, s[j]);
      }
      for (double v : s) sum += std::exp(v - m);
      lse[row] = sum > 0 ? (m + std::log(sum)) / std::log(2.) : -INFINITY;
      if (sum == 0) continue;
      double delta = 0;
      std::vector<double> p(K), dp(K);
      for (int j = 0; j < K; ++j) {
        p[j] = std::exp(s[j] - m) / sum;
        if (p[j] == 0) continue;
        const size_t i = indices[t * K + j];
        for (int c = 0; c < V; ++c) o[row * V + c] += p[j] * hk[i * D + c], dp[j] += hg[row * V + c] * hk[i * D + c];
        delta += p[j] * dp[j];
      }
      for (int j = 0; j < K; ++j) {
        if (p[j] == 0) continue;
        const size_t i = indices[t * K + j];
        const double ds = p[j] * (dp[j] - delta) * scale;
        for (int k = 0; k < D; ++k) dq[row * D + k] += ds * hk[i * D + k], dkv[i * D + k] += ds * hq[row * D + k];
        for (int c = 0; c < V; ++c) dkv[i * D + c] += p[j] * hg[row * V + c];
      }
    }
  }
  Buffer<bf16> gq(q), gk(kv), gg(d_o), go(o.size()), gdq(dq.size()), gdkv(dkv.size());
  Buffer<int32_t> gi(indices), gcu(cu);
  Buffer<float> gl(lse.size());
  const int64_t docs = static_cast<int64_t>(lengths.size());
  kernels::SparseMlaFwd f{gq.data, gk.data, gi.data, gcu.data, go.data, gl.data, static_cast<int64_t>(T), docs, H, D, V, K, scale, DType::kBf16};
  Buffer<uint8_t> cq(q8.codes), ck(kv8.codes);
  Buffer<float> sq(q8.scales), sk(kv8.scales);
  if (stored != kPlain) f.q = cq.data, f.kv = ck.data, f.stored = DType::kF8E4M3, f.scales = {sq.data, sk.data, stored == kRowScales};
  const auto s = kernels::supports_sparse_mla_fwd_sm90(f, device());
  if (!s) return expect(name, false, s.refusal);
  kernels::sparse_mla_fwd_sm90(f, {});
  device_wait("sparse_mla_fwd");
  compare(name + "o", go.host(), o);
  auto got = gl.host();
  bool same = true;
  for (size_t i = 0; i < lse.size(); ++i) {
    same &= std::isinf(lse[i]) == std::isinf(got[i]);
    if (std::isinf(lse[i])) lse[i] = 0, got[i] = 0;
  }
  expect(name + "rows without a key", same);
  compare(name + "lse", got, lse, 1e-3, 1e-3);
  again(name + "fwd ", [&](const kernels::Launch& l) { kernels::sparse_mla_fwd_sm90(f, l); }, nullptr, {written(go), written(gl)});
  kernels::SparseMlaBwd b{f.q, f.kv, gi.data, gcu.data, go.data, gg.data, gl.data, gdq.data, gdkv.data, f.tokens, docs, H, D, V, K, scale, DType::kBf16, false, f.stored, f.scales};
  Buffer<uint8_t> workspace(kernels::workspace_sparse_mla_bwd_sm90(b));
  kernels::sparse_mla_bwd_sm90(b, {nullptr, workspace.data});
  device_wait("sparse_mla_bwd");
  compare(name + "dq", gdq.host(), dq), compare(name + "dkv", gdkv.host(), dkv);
  again(name + "bwd ", [&](const kernels::Launch& l) { kernels::sparse_mla_bwd_sm90(b, l); }, workspace.data, {written(gdq)});
  again(name + "bwd dkv ", [&](const kernels::Launch& l) { kernels::sparse_mla_bwd_sm90(b, l); }, workspace.data, {written(gdkv)}, /*same_bits=*/false);
}

}  // namespace

void check_sparse_mla(bool small) {
  check("three tokens", {3}, 32, 64);
  check("three documents, K 256, few", {7, 0, 3, 2}, 32, 256);
  check("heads 20, K 320, few", {4, 3}, 20, 320);
  check("heads 40, K 50, few", {5}, 40, 50);
  check("scale below 0", {4}, 32, 64, kPlain, -0.1f), check("scale 0", {3}, 32, 20, kPlain, 0);
  if (!small) check("three documents, K 256", {20, 0, 40, 9}, 32, 256), check("heads 20, K 320", {30, 11}, 20, 320), check("heads 40, K 50", {21}, 40, 50);
  for (const Stored stored : {kTensorScale, kRowScales}) {
    check("two documents, K 70", {3, 0, 4}, 32, 70, stored);
    if (!small) check("three documents, K 256", {20, 0, 40, 9}, 32, 256, stored), check("heads 40, K 50", {21}, 40, 50, stored);
  }
  if (!small) check("K 256 long", {300, 411}, 32, 256), check("many documents", std::vector<int>(200, 3), 32, 128);
}

void perf_sparse_mla() {
  const int H = 32, D = 128, V = 64, K = 256, b = 8, s = 4096;
  const size_t T = static_cast<size_t>(b) * s;
  Random random(2);
  Buffer<bf16> q(random.bulk<bf16>(T * H * D)), kv(random.bulk<bf16>(T * D)), d_o(random.bulk<bf16>(T * H * V)), o(T * H * V), dq(T * H * D), dkv(T * D);
  std::vector<int32_t> indices(T * K, -1);
  for (size_t t = 0; t < T; ++t) {  // distinct keys spread over the causal part of the document
    const int64_t start = static_cast<int64_t>(t / s * s), n = static_cast<int64_t>(t) - start + 1;
    for (int j = 0; j < K && j < n; ++j) indices[t * K + j] = static_cast<int32_t>(start + (n <= K ? j : j * n / K));
  }
  Buffer<int32_t> gi(indices), cu(packed(std::vector<int>(b, s)));
  Buffer<float> lse(T * H);
  kernels::SparseMlaFwd f{q.data, kv.data, gi.data, cu.data, o.data, lse.data, static_cast<int64_t>(T), b, H, D, V, K, 0.088f, DType::kBf16};
  kernels::SparseMlaBwd w{q.data, kv.data, gi.data, cu.data, o.data, d_o.data, lse.data, dq.data, dkv.data, f.tokens, b, H, D, V, K, 0.088f, DType::kBf16, false};
  Buffer<uint8_t> workspace(kernels::workspace_sparse_mla_bwd_sm90(w));
  const double pair = 2.0 * T * K * H;
  report("sparse_mla fwd b8 s4096 K256 h32", time_ms([&] { kernels::sparse_mla_fwd_sm90(f, {}); }), 0.67, 2.0 * T * (H * (D + V) + D + 2 * K), pair * (D + V));
  report("sparse_mla bwd b8 s4096 K256 h32", time_ms([&] { kernels::sparse_mla_bwd_sm90(w, {nullptr, workspace.data}); }), 2.4, 2.0 * T * (H * (2 * D + 2 * V) + 2 * D + 2 * K), pair * (3 * D + 2 * V));
  {  // codes: half the bytes of q and kv
    Random codes(3);
    std::vector<uint8_t> c(T * H * D), ck(T * D);
    for (auto& x : c) x = static_cast<uint8_t>(codes.engine() & 0x3F);
    for (auto& x : ck) x = static_cast<uint8_t>(codes.engine() & 0x3F);
    Buffer<uint8_t> q8(c), kv8(ck);
    Buffer<float> one(std::vector<float>{1.0f});
    f.q = w.q = q8.data, f.kv = w.kv = kv8.data, f.stored = w.stored = DType::kF8E4M3, f.scales = w.scales = {one.data, one.data, false};
    report("sparse_mla f8 fwd b8 s4096 K256 h32", time_ms([&] { kernels::sparse_mla_fwd_sm90(f, {}); }), 0.67, T * (H * (D + 2.0 * V) + D + 4 * K), pair * (D + V));
    report("sparse_mla f8 bwd b8 s4096 K256 h32", time_ms([&] { kernels::sparse_mla_bwd_sm90(w, {nullptr, workspace.data}); }), 2.4, T * (H * (3.0 * D + 4 * V) + 3 * D + 4 * K), pair * (3 * D + 2 * V));
  }
  device_wait("sparse_mla perf");
}

}  // namespace weft::check
