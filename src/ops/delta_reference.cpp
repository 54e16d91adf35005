// H value heads, L tokens of a chunk (i reads, j writes), K and V key and value dims. One chunk is [H, L, ...].
#include "ops/aten.h"

#include "ops/delta.h"
#include "ops/tensors.h"

namespace weft::ops::reference {
namespace {

constexpr double kNegInf = -std::numeric_limits<double>::infinity();

at::Tensor col(const at::Tensor& x_HL) { return x_HL.unsqueeze(2); }
at::Tensor row(const at::Tensor& x_HL) { return x_HL.unsqueeze(1); }

// Inputs in the wide dtype with key heads repeated, [T, H, ...].
struct Wide {
  at::Tensor q, k, v, g, beta, write;
  int64_t key_heads;
  Wide(const DeltaInputs& in) : key_heads(in.k.size(1)) {
    const auto type = wide(in.v);
    const int64_t share = in.v.size(1) / key_heads;
    q = in.q.to(type).repeat_interleave(share, 1), k = in.k.to(type).repeat_interleave(share, 1), v = in.v.to(type);
    g = in.g.to(type), beta = in.beta.to(type);
    if (in.write.defined()) write = in.write.to(type);
  }
  at::Tensor state(const DeltaInputs& in, int64_t d) const {
    return in.initial_state.defined() ? in.initial_state[d].to(v.scalar_type()) : at::zeros({v.size(1), k.size(2), v.size(2)}, v.options());
  }
  at::Tensor sum_heads(const at::Tensor& x_THK) const {
    return x_THK.view({x_THK.size(0), key_heads, x_THK.size(1) / key_heads, x_THK.size(2)}).sum(2);
  }
};

// One chunk of the scalar-gated rule: with A = strict lower triangle of beta_i (k_i.k_j) e^{cs_i - cs_j},
//   u = (I + A)^{-1} (beta v - beta e^{cs} K S0),   o = scale (e^{cs} Q S0 + P u),   S1 = e^{end} S0 + sum_j e^{end - cs_j} k_j u_j^T
struct Chunk {
  at::Tensor q, k, v, beta, cs, into, out, decay, strict, KK, A, P, KS, u;
  double scale;
  Chunk(const Wide& w, int64_t first, int64_t n, const at::Tensor& S0, double scale) : scale(scale) {
    const auto heads = [&](const at::Tensor& t) { return t.narrow(0, first, n).transpose(0, 1); };
    q = heads(w.q), k = heads(w.k), v = heads(w.v), beta = heads(w.beta), cs = at::cumsum(heads(w.g), 1);
    into = cs.exp(), out = (cs.narrow(1, n - 1, 1) - cs).exp();
    const at::Tensor seen = at::ones({n, n}, cs.options().dtype(at::kBool)).tril();
    decay = (col(cs) - row(cs)).masked_fill(seen.logical_not(), kNegInf).exp();
    strict = decay.tril(-1);
    KK = at::matmul(k, k.transpose(1, 2));
    A = col(beta) * KK * strict;
    P = scale * at::matmul(q, k.transpose(1, 2)) * decay;
    KS = at::matmul(k, S0);
    u = solve(A, col(beta) * (v - col(into) * KS), false);
  }
  static at::Tensor solve(const at::Tensor& A, const at::Tensor& rhs, bool transposed) {  // (I + A)^{-1} rhs, or with its transpose
    return at::linalg_solve_triangular(transposed ? A.transpose(1, 2) : A, rhs, /*upper=*/transposed, /*left=*/true, /*unitriangular=*/true);
  }
  at::Tensor output(const at::Tensor& S0) const { return scale * col(into) * at::matmul(q, S0) + at::matmul(P, u); }
  at::Tensor next(const at::Tensor& S0) const { return into.select(1, into.size(1) - 1).view({-1, 1, 1}) * S0 + at::matmul((k * col(out)).transpose(1, 2), u); }
};

struct Spans {  // chunks of a document
  int64_t begin, count;
  Spans(const Packing& p, int64_t d) : begin(p.host_cu_q[d]), count(p.host_cu_q[d + 1] - p.host_cu_q[d]) {}
};

}  // namespace

DeltaOut gated_delta(const DeltaInputs& in, const Packing& packing, bool want_final_state, int64_t chunk) {
  const Wide w(in);
  at::Tensor o = at::empty(w.v.sizes(), w.v.options());
  std::vector<at::Tensor> last;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const Spans s(packing, d);
    at::Tensor S = w.state(in, d);
    for (int64_t t = 0; t < s.count; t += chunk) {
      const int64_t n = std::min(chunk, s.count - t);
      const Chunk c(w, s.begin + t, n, S, in.scale);
      o.narrow(0, s.begin + t, n).copy_(c.output(S).transpose(0, 1));
      S = c.next(S);
    }
    last.push_back(S);
  }
  return {o.to(in.v.scalar_type()), want_final_state ? at::stack(last) : at::Tensor()};
}

DeltaGrads gated_delta_bwd(const at::Tensor& d_o, const DeltaInputs& in, const at::Tensor& d_final_state, const Packing& packing, int64_t chunk) {
  const Wide w(in);
  const at::Tensor go = d_o.to(w.v.scalar_type());
  const auto like = [](const at::Tensor& t) { return at::zeros(t.sizes(), t.options()); };
  at::Tensor dq = like(w.q), dk = like(w.k), dv = like(w.v), dg = like(w.g), d_beta = like(w.beta);
  std::vector<at::Tensor> first;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const Spans s(packing, d);
    std::vector<at::Tensor> before{w.state(in, d)};
    for (int64_t t = 0; t + chunk < s.count; t += chunk) before.push_back(Chunk(w, s.begin + t, chunk, before.back(), in.scale).next(before.back()));
    at::Tensor dS = d_final_state.defined() ? d_final_state[d].to(w.v.scalar_type()) : like(before[0]);
    for (int64_t i = (s.count + chunk - 1) / chunk - 1; i >= 0; --i) {
      const int64_t at = s.begin + i * chunk, n = std::min(chunk, s.count - i * chunk);
      const at::Tensor S0 = before[static_cast<size_t>(i)];
      const Chunk c(w, at, n, S0, in.scale);
      const at::Tensor g = go.narrow(0, at, n).transpose(0, 1), keep = c.into.select(1, n - 1);
      const at::Tensor qS = at::matmul(c.q, S0), udS = at::matmul(c.u, dS.transpose(1, 2));
      at::Tensor dcs = c.scale * c.into * (g * qS).sum(2), d_end = keep * (dS * S0).sum(at::IntArrayRef{1, 2});
      at::Tensor gq = c.scale * col(c.into) * at::matmul(g, S0.transpose(1, 2)), gk = col(c.out) * udS;
      const at::Tensor X = c.out * (c.k * udS).sum(2);
      dcs = dcs - X, d_end = d_end + X.sum(1);
      // o = P u
      const at::Tensor dP = at::matmul(g, c.u.transpose(1, 2)), dQK = c.scale * dP * c.decay, W1 = dP * c.P;
      gq = gq + at::matmul(dQK, c.k), gk = gk + at::matmul(dQK.transpose(1, 2), c.q);
      dcs = dcs + W1.sum(2) - W1.sum(1);
      // u = (I + A)^{-1} R
      const at::Tensor du = at::matmul(c.P.transpose(1, 2), g) + col(c.out) * at::matmul(c.k, dS), dR = Chunk::solve(c.A, du, true);
      const at::Tensor dA = -at::matmul(dR, c.u.transpose(1, 2)), dKK = dA * col(c.beta) * c.strict, W2 = dA * c.A;
      gk = gk + at::matmul(dKK, c.k) + at::matmul(dKK.transpose(1, 2), c.k);
      dcs = dcs + W2.sum(2) - W2.sum(1);
      // R = beta (v - e^{cs} K S0)
      at::Tensor gb = (dA * c.KK * c.strict).sum(2) + (dR * (c.v - col(c.into) * c.KS)).sum(2);
      const at::Tensor dKS = -col(c.beta * c.into) * dR;
      gk = gk + at::matmul(dKS, S0.transpose(1, 2));
      dcs = dcs + (dKS * c.KS).sum(2);
      dcs.select(1, n - 1).add_(d_end);
      dS = keep.view({-1, 1, 1}) * dS + c.scale * at::matmul((c.q * col(c.into)).transpose(1, 2), g) + at::matmul(c.k.transpose(1, 2), dKS);
      const auto put = [&](at::Tensor& to, const at::Tensor& from) { to.narrow(0, at, n).copy_(from.transpose(0, 1)); };
      put(dq, gq), put(dk, gk), put(dv, col(c.beta) * dR), put(d_beta, gb), put(dg, at::cumsum(dcs.flip({1}), 1).flip({1}));
    }
    first.push_back(dS);
  }
  DeltaGrads out{w.sum_heads(dq).to(in.q.scalar_type()), w.sum_heads(dk).to(in.k.scalar_type()), dv.to(in.v.scalar_type()), dg, d_beta, {}, {}};
  if (in.initial_state.defined()) out.d_initial_state = at::stack(first);
  return out;
}

// One past the document's last token; no step is taken where tensors have no data.
static int64_t last_of(const Packing& p, int64_t document, const at::Tensor& like) { return p.host_cu_q[like.is_meta() ? document : document + 1]; }

DeltaOut gated_delta2(const DeltaInputs& in, const Packing& packing, bool want_final_state) {
  const Wide w(in);
  std::vector<at::Tensor> o, last;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    at::Tensor S = w.state(in, d);  // [H, K, V]
    for (int64_t t = packing.host_cu_q[d]; t < last_of(packing, d, in.v); ++t) {
      S = w.g[t].exp().unsqueeze(2) * S;
      const at::Tensor r = w.write[t] * w.v[t] - (S * (w.beta[t] * w.k[t]).unsqueeze(2)).sum(1);
      S = S + w.k[t].unsqueeze(2) * r.unsqueeze(1);
      o.push_back(in.scale * (S * w.q[t].unsqueeze(2)).sum(1));
    }
    last.push_back(S);
  }
  return {o.empty() ? at::empty_like(in.v) : at::stack(o).to(in.v.scalar_type()), want_final_state ? at::stack(last) : at::Tensor()};
}

DeltaGrads gated_delta2_bwd(const at::Tensor& d_o, const DeltaInputs& in, const at::Tensor& d_final_state, const Packing& packing) {
  const Wide w(in);
  const at::Tensor go = d_o.to(w.v.scalar_type());
  const auto like = [](const at::Tensor& t) { return at::zeros(t.sizes(), t.options()); };
  at::Tensor dq = like(w.q), dk = like(w.k), dv = like(w.v), dg = like(w.g), d_beta = like(w.beta), d_write = like(w.write);
  std::vector<at::Tensor> first;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t begin = packing.host_cu_q[d], end = last_of(packing, d, in.v);
    std::vector<at::Tensor> decayed;  // S' of each token
    at::Tensor S = w.state(in, d);
    const auto written = [&](int64_t t, const at::Tensor& decayed_S) { return w.write[t] * w.v[t] - (decayed_S * (w.beta[t] * w.k[t]).unsqueeze(2)).sum(1); };
    for (int64_t t = begin; t < end; ++t) {
      decayed.push_back(w.g[t].exp().unsqueeze(2) * S);
      S = decayed.back() + w.k[t].unsqueeze(2) * written(t, decayed.back()).unsqueeze(1);
    }
    at::Tensor G = d_final_state.defined() ? d_final_state[d].to(w.v.scalar_type()) : like(S);
    for (int64_t t = end - 1; t >= begin; --t) {
      const at::Tensor Sp = decayed[static_cast<size_t>(t - begin)], r = written(t, Sp), bk = w.beta[t] * w.k[t];
      S = Sp + w.k[t].unsqueeze(2) * r.unsqueeze(1);
      dq[t].copy_(in.scale * (S * go[t].unsqueeze(1)).sum(2));
      G = G + in.scale * w.q[t].unsqueeze(2) * go[t].unsqueeze(1);
      const at::Tensor dr = (G * w.k[t].unsqueeze(2)).sum(1), d_bk = -(Sp * dr.unsqueeze(1)).sum(2);
      dk[t].copy_((G * r.unsqueeze(1)).sum(2) + d_bk * w.beta[t]);
      d_beta[t].copy_(d_bk * w.k[t]);
      dv[t].copy_(dr * w.write[t]), d_write[t].copy_(dr * w.v[t]);
      G = G - bk.unsqueeze(2) * dr.unsqueeze(1);
      dg[t].copy_((G * Sp).sum(2));
      G = w.g[t].exp().unsqueeze(2) * G;
    }
    first.push_back(G);
  }
  DeltaGrads out{w.sum_heads(dq).to(in.q.scalar_type()), w.sum_heads(dk).to(in.k.scalar_type()), dv.to(in.v.scalar_type()), dg, d_beta, d_write, {}};
  if (in.initial_state.defined()) out.d_initial_state = at::stack(first);
  return out;
}

}  // namespace weft::ops::reference
