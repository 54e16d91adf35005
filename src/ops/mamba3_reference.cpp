// T tokens, H heads, R ranks, N states, P head dim, A angles; c chunks of L tokens (i reads, j writes); m = (token, rank) rows of a chunk.
#include "ops/aten.h"

#include <numbers>

#include "ops/chunks.h"
#include "ops/mamba3.h"
#include "ops/tensors.h"

namespace weft::ops::reference {
namespace {

using at::IntArrayRef;

// Running sum over the tokens of each document, from its end when `reverse`.
at::Tensor running_sum(const at::Tensor& x_T, const Packing& packing, bool reverse) {
  at::Tensor out = at::empty_like(x_T);
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t first = packing.host_cu_q[d], n = packing.host_cu_q[d + 1] - first;
    const at::Tensor part = x_T.narrow(0, first, n);
    out.narrow(0, first, n).copy_(reverse ? at::cumsum(part.flip({0}), 0).flip({0}) : at::cumsum(part, 0));
  }
  return out;
}

// x of the next token of the same document, 0 for the last; `back`: of the previous one.
at::Tensor shifted(const at::Tensor& x_T, const Packing& packing, bool back) {
  at::Tensor out = at::zeros_like(x_T);
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t first = packing.host_cu_q[d], n = packing.host_cu_q[d + 1] - first;
    if (n > 1) out.narrow(0, first + (back ? 1 : 0), n - 1).copy_(x_T.narrow(0, first + (back ? 0 : 1), n - 1));
  }
  return out;
}

struct Pairs {  // components of a state row that turn together
  bool halves;
  int64_t A, N;
  at::Tensor u(const at::Tensor& x) const { return halves ? x.narrow(-1, 0, A) : x.slice(-1, 0, 2 * A, 2); }
  at::Tensor w(const at::Tensor& x) const { return halves ? x.narrow(-1, N / 2, A) : x.slice(-1, 1, 2 * A, 2); }
  at::Tensor turned(const at::Tensor& x_THRN, const at::Tensor& theta_THA, double sign) const {
    at::Tensor out = x_THRN.clone();
    const at::Tensor c = theta_THA.cos().unsqueeze(2), s = sign * theta_THA.sin().unsqueeze(2);
    u(out).copy_(u(x_THRN) * c - w(x_THRN) * s);
    w(out).copy_(u(x_THRN) * s + w(x_THRN) * c);
    return out;
  }
};

at::Tensor to_heads(const at::Tensor& B_TRGN, int64_t heads) { return B_TRGN.transpose(1, 2).repeat_interleave(heads / B_TRGN.size(2), 1); }
at::Tensor to_groups(const at::Tensor& x_THRN, int64_t groups) {
  return x_THRN.view({x_THRN.size(0), groups, x_THRN.size(1) / groups, x_THRN.size(2), x_THRN.size(3)}).sum(2).transpose(1, 2);
}

// Everything before the recurrence, in the wide dtype.
struct Before {
  at::Tensor x, z, dt, a, lambda, omega, theta, k, q, v, gamma, ahead, mimo_x, mimo_z, mimo_o, D;
  Pairs pairs;
  Before(const Mamba3Scan& in, const Packing& packing, const Mamba3State& initial)
      : pairs{in.B_TRGN.size(1) > 1, in.omega_TA.size(1), in.B_TRGN.size(3)} {
    const auto type = wide(in.x_THP);
    const int64_t H = in.x_THP.size(1), P = in.x_THP.size(2), R = in.B_TRGN.size(1);
    const auto or_ones = [&](const at::Tensor& t) { return t.defined() ? t.to(type) : at::ones({H, R, P}, in.x_THP.options().dtype(type)); };
    x = in.x_THP.to(type), z = in.z_THP.to(type), dt = in.dt_TH.to(type), a = in.a_TH.to(type), lambda = in.lambda_TH.to(type), omega = in.omega_TA.to(type);
    mimo_x = or_ones(in.mimo_x), mimo_z = or_ones(in.mimo_z), mimo_o = or_ones(in.mimo_o);
    if (in.D.defined()) D = in.D.to(type).view({1, H, 1, 1});
    theta = running_sum(omega.unsqueeze(1) * dt.unsqueeze(2), packing, false);
    if (initial.theta_nHA.defined())
      for (int64_t d = 0; d < packing.documents(); ++d)
        theta.narrow(0, packing.host_cu_q[d], packing.host_cu_q[d + 1] - packing.host_cu_q[d]).add_(initial.theta_nHA[d].to(type));
    k = pairs.turned(to_heads(in.B_TRGN.to(type), H) + in.B_bias.to(type), theta, 1);
    q = pairs.turned(to_heads(in.C_TRGN.to(type), H) + in.C_bias.to(type), theta, 1);
    v = x.unsqueeze(2) * mimo_x;
    gamma = lambda * dt;
    ahead = shifted((1 - lambda) * dt, packing, false);  // what the next token adds to this token's weight
  }
};

// The recurrence in chunks: k and q [c, H, m, N], v [c, H, m, P].
struct Core {
  Chunks chunks;
  int64_t L, R;
  at::Tensor q, k, v, cs, gamma, scale, decay, F, into, out, weight, QK, before, last;

  Core(const Before& b, const Packing& packing, const Mamba3State& initial, int64_t chunk) : chunks(packing, chunk, b.x.device()), L(chunk), R(b.k.size(2)) {
    q = rows(b.q), k = rows(b.k), v = rows(b.v);
    gamma = heads(b.gamma), scale = heads(b.gamma + b.ahead), cs = at::cumsum(heads(b.a), 2);
    const at::Tensor earlier = at::ones({L, L}, cs.options().dtype(at::kBool)).tril(-1);
    decay = (cs.unsqueeze(3) - cs.unsqueeze(2)).masked_fill(earlier.logical_not(), -std::numeric_limits<double>::infinity()).exp();
    F = decay * scale.unsqueeze(2) + at::diag_embed(gamma);
    into = cs.exp(), out = (end().unsqueeze(2) - cs).exp(), weight = scale * out;
    QK = at::matmul(q, k.transpose(2, 3));
    scan(b, packing, initial);
  }
  at::Tensor end() const { return cs.select(2, L - 1); }
  at::Tensor heads(const at::Tensor& x_TH) const { return chunks.cut(x_TH).transpose(1, 2); }
  at::Tensor rows(const at::Tensor& x_THRX) const {  // [c, H, L R, X]
    return chunks.cut(x_THRX).transpose(1, 2).reshape({chunks.count(), x_THRX.size(1), L * R, x_THRX.size(3)});
  }
  at::Tensor unrows(const at::Tensor& x_cHmX) const {  // [T, H, R, X]
    return chunks.join(x_cHmX.view({x_cHmX.size(0), x_cHmX.size(1), L, R, x_cHmX.size(3)}).transpose(1, 2).contiguous());
  }
  at::Tensor unheads(const at::Tensor& x_cHL) const { return chunks.join(x_cHL.transpose(1, 2).contiguous()); }
  at::Tensor each_rank(const at::Tensor& x_cHL) const { return x_cHL.repeat_interleave(R, 2).unsqueeze(3); }       // [c, H, m, 1]
  at::Tensor sum_ranks(const at::Tensor& x_cHm) const { return x_cHm.view({x_cHm.size(0), x_cHm.size(1), L, R}).sum(3); }
  at::Tensor each_pair(const at::Tensor& x_cHij) const { return x_cHij.repeat_interleave(R, 2).repeat_interleave(R, 3); }
  at::Tensor sum_pairs(const at::Tensor& x_cHmm) const { return x_cHmm.view({x_cHmm.size(0), x_cHmm.size(1), L, R, L, R}).sum(IntArrayRef{3, 5}); }

  void scan(const Before& b, const Packing& packing, const Mamba3State& initial) {
    const int64_t H = q.size(1), N = q.size(3), P = v.size(3);
    const at::Tensor added = at::matmul((k * each_rank(weight)).transpose(2, 3), v), keep = end().exp();
    before = at::empty({chunks.count(), H, N, P}, v.options()), last = at::empty({chunks.documents(), H, N, P}, v.options());
    for (int64_t d = 0; d < chunks.documents(); ++d) {
      at::Tensor S = at::zeros({H, N, P}, v.options());
      const int64_t first = packing.host_cu_q[d];
      if (initial.h_nHPN.defined()) S = initial.h_nHPN[d].to(v.scalar_type()).transpose(1, 2).contiguous();
      if (initial.k_nHRN.defined() && packing.host_cu_q[d + 1] > first) {  // the last token of the piece before is half written
        const at::Tensor v_HRP = initial.x_nHP[d].to(v.scalar_type()).unsqueeze(1) * b.mimo_x;
        const at::Tensor half = ((1 - b.lambda[first]) * b.dt[first]).view({H, 1, 1});
        S = S + half * at::matmul(initial.k_nHRN[d].to(v.scalar_type()).transpose(1, 2), v_HRP);
      }
      for (int64_t c = chunks.first(d); c < chunks.first(d + 1); ++c) {
        before[c].copy_(S);
        S = keep[c].view({H, 1, 1}) * S + added[c];
      }
      last[d].copy_(S);
    }
  }
  at::Tensor y() const { return unrows(at::matmul(QK * each_pair(F), v) + at::matmul(q * each_rank(into), before)); }
};

}  // namespace

Mamba3ScanOut mamba3_scan(const Mamba3Scan& in, const Packing& packing, const Mamba3State& initial, bool want_last, int64_t chunk) {
  const Before b(in, packing, initial);
  const Core core(b, packing, initial, chunk);
  at::Tensor y = core.y();
  if (b.D.defined()) y = y + b.D * b.v;
  Mamba3ScanOut out;
  out.o_THP = (b.mimo_o * y * at::silu(b.z.unsqueeze(2) * b.mimo_z)).sum(2).to(in.x_THP.scalar_type());
  if (!want_last) return out;
  const int64_t n = packing.documents(), H = b.x.size(1);
  out.last = {core.last.transpose(2, 3).contiguous(), at::zeros({n, H, b.omega.size(1)}, b.x.options()), at::zeros({n, H, b.k.size(2), b.k.size(3)}, b.x.options()), at::zeros({n, H, b.x.size(2)}, b.x.options())};
  for (int64_t d = 0; d < n; ++d) {
    const int64_t end = packing.host_cu_q[d + 1];
    if (end > packing.host_cu_q[d]) {
      out.last.theta_nHA[d].copy_(at::remainder(b.theta[end - 1], 2 * std::numbers::pi));
      out.last.k_nHRN[d].copy_(b.k[end - 1]), out.last.x_nHP[d].copy_(b.x[end - 1]);
    } else if (initial.h_nHPN.defined()) {
      out.last.theta_nHA[d].copy_(initial.theta_nHA[d]), out.last.k_nHRN[d].copy_(initial.k_nHRN[d]), out.last.x_nHP[d].copy_(initial.x_nHP[d]);
    }
  }
  return out;
}

Mamba3ScanGrads mamba3_scan_bwd(const at::Tensor& d_o_any, const Mamba3Scan& in, const Packing& packing, int64_t chunk) {
  const Before b(in, packing, {});
  const Core c(b, packing, {}, chunk);
  const at::Tensor d_o = d_o_any.to(b.x.scalar_type()).unsqueeze(2);  // [T, H, 1, P]
  at::Tensor y = c.y();
  if (b.D.defined()) y = y + b.D * b.v;
  Mamba3ScanGrads g;
  // Gate and the sum over ranks.
  const at::Tensor u = b.z.unsqueeze(2) * b.mimo_z, sig = at::sigmoid(u), gate = u * sig;
  const at::Tensor dy = d_o * b.mimo_o * gate, du = d_o * b.mimo_o * y * sig * (1 + u * (1 - sig));
  g.d_mimo_o = (d_o * y * gate).sum(0), g.d_mimo_z = (du * b.z.unsqueeze(2)).sum(0), g.dz = (du * b.mimo_z).sum(2);
  at::Tensor dv = at::zeros_like(b.v);
  if (b.D.defined()) g.dD = (dy * b.v).sum(IntArrayRef{0, 2, 3}), dv = b.D * dy;
  // Pairs of one chunk.
  const at::Tensor dy_m = c.rows(dy), F_m = c.each_pair(c.F), dM = at::matmul(dy_m, c.v.transpose(2, 3)), dQK = dM * F_m;
  at::Tensor dq = at::matmul(dQK, c.k), dk = at::matmul(dQK.transpose(2, 3), c.q), dv_m = at::matmul((c.QK * F_m).transpose(2, 3), dy_m);
  const at::Tensor dF = c.sum_pairs(dM * c.QK), W = dF * c.decay * c.scale.unsqueeze(2);
  at::Tensor dcs = W.sum(3) - W.sum(2), d_scale = (dF * c.decay).sum(2);
  const at::Tensor d_gamma_diag = dF.diagonal(0, 2, 3);
  // The state that came in, and the one that goes out.
  const at::Tensor read = dy_m * c.each_rank(c.into), dq_in = at::matmul(read, c.before.transpose(2, 3));
  dq = dq + dq_in;
  dcs = dcs + c.sum_ranks((dq_in * c.q).sum(3));
  const at::Tensor dS_read = at::matmul(c.q.transpose(2, 3), read), keep = c.end().exp();
  at::Tensor dS_out = at::empty_like(c.before);
  for (int64_t d = 0; d < c.chunks.documents(); ++d) {
    at::Tensor dS = at::zeros({c.q.size(1), c.q.size(3), c.v.size(3)}, c.v.options());
    for (int64_t i = c.chunks.first(d + 1) - 1; i >= c.chunks.first(d); --i) {
      dS_out[i].copy_(dS);
      dS = keep[i].view({-1, 1, 1}) * dS + dS_read[i];
    }
  }
  const at::Tensor kdS = at::matmul(c.k, dS_out), w_m = c.each_rank(c.weight), dw = c.sum_ranks((kdS * c.v).sum(3));
  dv_m = dv_m + w_m * kdS;
  dk = dk + w_m * at::matmul(c.v, dS_out.transpose(2, 3));
  d_scale = d_scale + dw * c.out;
  dcs = dcs - dw * c.weight;
  dcs.select(2, c.L - 1).add_((dw * c.weight).sum(2) + keep * (dS_out * c.before).sum(IntArrayRef{2, 3}));
  g.d_a = c.unheads(at::cumsum(dcs.flip({2}), 2).flip({2}));
  dv = dv + c.unrows(dv_m);
  g.dx = (dv * b.mimo_x).sum(2), g.d_mimo_x = (dv * b.x.unsqueeze(2)).sum(0);
  // Weights of the trapezoid: scale = lambda dt + the next token's (1 - lambda) dt.
  const at::Tensor d_scale_T = c.unheads(d_scale), d_gamma = d_scale_T + c.unheads(d_gamma_diag.contiguous()), d_ahead = shifted(d_scale_T, packing, true);
  g.d_dt = d_gamma * b.lambda + d_ahead * (1 - b.lambda);
  g.d_lambda = (d_gamma - d_ahead) * b.dt;
  // Rotation: the angle's gradient from the turned pairs, then back through the running sum.
  const at::Tensor dk_T = c.unrows(dk), dq_T = c.unrows(dq);
  const auto of_angle = [&](const at::Tensor& x, const at::Tensor& dx) { return (b.pairs.u(x) * b.pairs.w(dx) - b.pairs.w(x) * b.pairs.u(dx)).sum(2); };
  const at::Tensor phi = running_sum(of_angle(b.k, dk_T) + of_angle(b.q, dq_T), packing, true);
  g.d_omega = (phi * b.dt.unsqueeze(2)).sum(1);
  g.d_dt = g.d_dt + (phi * b.omega.unsqueeze(1)).sum(2);
  const at::Tensor dB = b.pairs.turned(dk_T, b.theta, -1), dC = b.pairs.turned(dq_T, b.theta, -1);
  g.dB_bias = dB.sum(0), g.dC_bias = dC.sum(0);
  const auto type = in.x_THP.scalar_type();
  g.dB = to_groups(dB, in.B_TRGN.size(2)).to(type), g.dC = to_groups(dC, in.C_TRGN.size(2)).to(type);
  g.dx = g.dx.to(type), g.dz = g.dz.to(type);
  return g;
}

}  // namespace weft::ops::reference
