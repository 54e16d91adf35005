// T query rows, S key rows, H heads, G key heads, D and V dims; inside one document q queries and k keys.
#include "ops/aten.h"

#include "ops/attention.h"

#include <cmath>
#include <limits>

#include "kernels/attention/attention.h"
#include "ops/tensors.h"

namespace weft::ops {

std::vector<int32_t> host_kv_lens(const Packing& p) {
  if (!p.kv_lens.is_cpu() && static_cast<int64_t>(p.host_kv_lens.size()) == p.documents()) return p.host_kv_lens;
  const at::Tensor lens = p.kv_lens.cpu().contiguous();
  return {lens.data_ptr<int32_t>(), lens.data_ptr<int32_t>() + lens.numel()};
}

std::vector<int32_t> host_key_starts(const Packing& p, const AttentionOptions& o) {
  if (o.key_starts.defined()) {
    const at::Tensor starts = o.key_starts.cpu().contiguous();
    return {starts.data_ptr<int32_t>(), starts.data_ptr<int32_t>() + starts.numel()};
  }
  std::vector<int32_t> starts;
  int32_t next = 0;
  for (int32_t n : host_kv_lens(p)) starts.push_back(next), next += n;
  return starts;
}

at::Tensor qk_clip_gamma(const at::Tensor& max_logit_H, double threshold) {
  const at::Tensor gamma = (threshold / max_logit_H.clamp_min(std::numeric_limits<float>::min())).clamp_max(1.0);
  return at::where(max_logit_H > 0, gamma, at::ones_like(gamma));
}

namespace reference {
namespace {

// kernels::attention_hash on int64 tensors that hold uint32 values.
at::Tensor mul32(const at::Tensor& x, uint32_t c) {  // x * c mod 2^32 without passing 2^63
  const int64_t low = c & 0xffff, high = c >> 16;
  return (x * low + ((x * high).bitwise_and(0xffff) * 65536)).bitwise_and(0xffffffffLL);
}
at::Tensor hash(uint32_t seed, const at::Tensor& query, const at::Tensor& key) {
  at::Tensor x = mul32(query, 0x9e3779b1u).bitwise_xor(static_cast<int64_t>(seed)).bitwise_xor((mul32(key, 0x85ebca77u) + 0x165667b1LL).bitwise_and(0xffffffffLL));
  x = x.bitwise_xor(x.bitwise_right_shift(16));
  x = mul32(x, 0x7feb352du);
  x = x.bitwise_xor(x.bitwise_right_shift(15));
  x = mul32(x, 0x846ca68bu);
  return x.bitwise_xor(x.bitwise_right_shift(16));
}

struct Pairs {             // one document
  int64_t q0, q, k0, k;    // first row and count
  at::Tensor seen_qk;      // bool
  at::Tensor factor_Hqk;   // keep / (1 - dropout), or undefined
};

template <class Body>
void each_document(const at::Tensor& q_THD, const Packing& packing, const AttentionOptions& o, const Body& body) {
  const std::vector<int32_t> lens = host_kv_lens(packing), starts = host_key_starts(packing, o);
  const auto options = q_THD.options().dtype(at::kLong).requires_grad(false);
  for (int64_t d = 0; d < packing.documents(); ++d) {
    Pairs p{packing.host_cu_q[d], packing.host_cu_q[d + 1] - packing.host_cu_q[d], starts[d], lens[d], {}, {}};
    const at::Tensor at_q1 = at::arange(p.q, options).unsqueeze(1) + (p.k - p.q), at_1k = at::arange(p.k, options).unsqueeze(0);
    p.seen_qk = at::ones({p.q, p.k}, options.dtype(at::kBool));
    const int32_t right = o.causal ? 0 : o.window_right;
    if (right >= 0) p.seen_qk = p.seen_qk.logical_and(at_1k <= at_q1 + right);
    if (o.window_left >= 0) p.seen_qk = p.seen_qk.logical_and(at_1k >= at_q1 - o.window_left);
    if (o.dropout > 0) {
      std::vector<at::Tensor> heads;
      const auto threshold = static_cast<int64_t>(static_cast<double>(static_cast<float>(o.dropout)) * 4294967296.0);
      for (int64_t h = 0; h < q_THD.size(1); ++h)
        heads.push_back(hash(kernels::attention_head_seed(o.seed, static_cast<int32_t>(h)), at::arange(p.q0, p.q0 + p.q, options).unsqueeze(1),
                             at::arange(p.k0, p.k0 + p.k, options).unsqueeze(0)) >= threshold);
      p.factor_Hqk = at::stack(heads).to(wide(q_THD)) / (1 - o.dropout);
    }
    body(p);
  }
}

double scale_of(const at::Tensor& q_THD, const AttentionOptions& o) { return o.scale != 0 ? o.scale : 1 / std::sqrt(static_cast<double>(q_THD.size(2))); }

// Rows [first, first + count) as [H, count, D] in the wide dtype, key heads repeated for their query heads.
at::Tensor rows(const at::Tensor& x, int64_t first, int64_t count, int64_t heads) {
  at::Tensor y = x.narrow(0, first, count).to(wide(x)).transpose(0, 1);
  return y.size(0) == heads ? y : y.repeat_interleave(heads / y.size(0), 0);
}

at::Tensor sum_heads(const at::Tensor& x_HkD, int64_t groups) {  // -> [k, G, D]
  return x_HkD.view({groups, x_HkD.size(0) / groups, x_HkD.size(1), x_HkD.size(2)}).sum(1).transpose(0, 1);
}

}  // namespace

AttentionOut attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Packing& packing, const AttentionOptions& o) {
  const int64_t T = q.size(0), H = q.size(1);
  const auto options = q.options().dtype(wide(q)).requires_grad(false);
  const double ninf = -std::numeric_limits<double>::infinity();
  AttentionOut out{at::zeros({T, H, v.size(2)}, options), at::full({T, H}, ninf, options), at::full({H}, ninf, options)};
  each_document(q, packing, o, [&](const Pairs& p) {
    if (p.q == 0) return;
    at::Tensor s_Hqk = at::matmul(rows(q, p.q0, p.q, H), rows(k, p.k0, p.k, H).transpose(1, 2)) * scale_of(q, o);
    s_Hqk = s_Hqk.masked_fill(p.seen_qk.logical_not(), ninf);
    if (p.k > 0) out.max_logit_H = at::maximum(out.max_logit_H, s_Hqk.amax({1, 2}));
    at::Tensor lse_Hq = p.k > 0 ? at::logsumexp(s_Hqk, {2}) : at::full({H, p.q}, ninf, options);
    if (o.sinks != nullptr) lse_Hq = at::logaddexp(lse_Hq, o.sinks->value.to(wide(q)).unsqueeze(1).expand_as(lse_Hq));
    at::Tensor p_Hqk = (s_Hqk - lse_Hq.unsqueeze(2)).exp().masked_fill(p.seen_qk.logical_not(), 0);
    if (p.factor_Hqk.defined()) p_Hqk = p_Hqk * p.factor_Hqk;
    out.o_THV.narrow(0, p.q0, p.q).copy_(at::matmul(p_Hqk, rows(v, p.k0, p.k, H)).transpose(0, 1));
    out.lse_TH.narrow(0, p.q0, p.q).copy_(lse_Hq.t());
  });
  out.o_THV = out.o_THV.to(q.scalar_type());
  return out;
}

AttentionGrads attention_bwd(const at::Tensor& d_o, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& o,
                             const at::Tensor& lse, const Packing& packing, const AttentionOptions& options) {
  const int64_t H = q.size(1), G = k.size(1);
  const auto wider = q.options().dtype(wide(q)).requires_grad(false);
  AttentionGrads g{at::zeros(q.sizes(), wider), at::zeros(k.sizes(), wider), at::zeros(v.sizes(), wider), {}};
  const double scale = scale_of(q, options);
  const at::Tensor delta_TH = (o.to(wide(q)) * d_o.to(wide(q))).sum(2);
  each_document(q, packing, options, [&](const Pairs& p) {
    if (p.q == 0 || p.k == 0) return;
    const at::Tensor q_HqD = rows(q, p.q0, p.q, H), k_HkD = rows(k, p.k0, p.k, H), v_HkV = rows(v, p.k0, p.k, H), do_HqV = rows(d_o, p.q0, p.q, H);
    const at::Tensor lse_Hq1 = lse.narrow(0, p.q0, p.q).to(wide(q)).t().unsqueeze(2), delta_Hq1 = delta_TH.narrow(0, p.q0, p.q).t().unsqueeze(2);
    const at::Tensor p_Hqk = (at::matmul(q_HqD, k_HkD.transpose(1, 2)) * scale - lse_Hq1).exp().masked_fill(p.seen_qk.logical_not(), 0);
    at::Tensor dp_Hqk = at::matmul(do_HqV, v_HkV.transpose(1, 2));
    at::Tensor kept_Hqk = p_Hqk;
    if (p.factor_Hqk.defined()) dp_Hqk = dp_Hqk * p.factor_Hqk, kept_Hqk = p_Hqk * p.factor_Hqk;
    const at::Tensor ds_Hqk = p_Hqk * (dp_Hqk - delta_Hq1) * scale;
    g.dq.narrow(0, p.q0, p.q).copy_(at::matmul(ds_Hqk, k_HkD).transpose(0, 1));
    g.dk.narrow(0, p.k0, p.k).copy_(sum_heads(at::matmul(ds_Hqk.transpose(1, 2), q_HqD), G));
    g.dv.narrow(0, p.k0, p.k).copy_(sum_heads(at::matmul(kept_Hqk.transpose(1, 2), do_HqV), G));
  });
  if (options.sinks != nullptr) {
    const at::Tensor p_TH = (options.sinks->value.to(wide(q)).unsqueeze(0) - lse.to(wide(q))).exp();
    g.d_sinks = -(p_TH * delta_TH).sum(0);
  }
  g.dq = g.dq.to(q.scalar_type()), g.dk = g.dk.to(q.scalar_type()), g.dv = g.dv.to(q.scalar_type());
  return g;
}

}  // namespace reference
}  // namespace weft::ops
