// c chunks, L tokens of a chunk (i reads, j writes), H heads, G groups, P head dim, N state dim, n documents. Everything [c, H, ...].
#include "ops/aten.h"

#include "ops/chunks.h"
#include "ops/ssd.h"
#include "ops/tensors.h"

namespace weft::ops::reference {
namespace {

struct Cut {
  at::Tensor x_cHLP, dt_cHL, B_cHLN, C_cHLN, cs_cHL, decay_cHij;
  Cut(const SsdInputs& in, const Chunks& chunks) {
    const auto type = wide(in.x_THP);
    const int64_t H = in.x_THP.size(1), share = H / in.B_TGN.size(1), L = chunks.length();
    const auto heads = [&](const at::Tensor& t) { return chunks.cut(t.to(type)).transpose(1, 2).repeat_interleave(share, 1); };
    x_cHLP = chunks.cut(in.x_THP.to(type)).transpose(1, 2);
    dt_cHL = chunks.cut(in.dt_TH.to(type)).transpose(1, 2);
    B_cHLN = heads(in.B_TGN), C_cHLN = heads(in.C_TGN);
    cs_cHL = at::cumsum(dt_cHL * in.A_H.to(type).unsqueeze(1), 2);
    const at::Tensor seen = at::ones({L, L}, x_cHLP.options().dtype(at::kBool)).tril();
    // The mask goes in before exp: e^{cs_i - cs_j} of a later j may overflow.
    decay_cHij = (cs_cHL.unsqueeze(3) - cs_cHL.unsqueeze(2)).masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity()).exp();
  }
  at::Tensor end_cH() const { return cs_cHL.select(2, cs_cHL.size(2) - 1); }
  at::Tensor weight_cHL() const { return dt_cHL * to_end_cHL(); }
  at::Tensor to_end_cHL() const { return (end_cH().unsqueeze(2) - cs_cHL).exp(); }
};

// States before each chunk [c, H, P, N], and after the last of each document [n, H, P, N].
std::pair<at::Tensor, at::Tensor> states(const Cut& k, const SsdInputs& in, const Chunks& chunks) {
  const int64_t H = in.x_THP.size(1), P = in.x_THP.size(2), N = in.B_TGN.size(2);
  const at::Tensor added = at::matmul((k.x_cHLP * k.weight_cHL().unsqueeze(3)).transpose(2, 3), k.B_cHLN), keep = k.end_cH().exp();
  at::Tensor before = at::empty({chunks.count(), H, P, N}, k.x_cHLP.options()), last = at::empty({chunks.documents(), H, P, N}, k.x_cHLP.options());
  for (int64_t d = 0; d < chunks.documents(); ++d) {
    at::Tensor S = in.initial_state_nHPN.defined() ? in.initial_state_nHPN[d].to(k.x_cHLP.scalar_type()) : at::zeros({H, P, N}, k.x_cHLP.options());
    for (int64_t c = chunks.first(d); c < chunks.first(d + 1); ++c) {
      before[c].copy_(S);
      S = keep[c].view({H, 1, 1}) * S + added[c];
    }
    last[d].copy_(S);
  }
  return {before, last};
}

at::Tensor join_heads(const Chunks& chunks, const at::Tensor& x_cHLX) { return chunks.join(x_cHLX.transpose(1, 2).contiguous()); }
at::Tensor sum_groups(const at::Tensor& x_THN, int64_t groups) {
  return x_THN.view({x_THN.size(0), groups, x_THN.size(1) / groups, x_THN.size(2)}).sum(2);
}

}  // namespace

SsdOut ssd_fwd(const SsdInputs& in, const Packing& packing, bool want_final_state, int64_t chunk) {
  const Chunks chunks(packing, chunk, in.x_THP.device());
  const Cut k(in, chunks);
  const auto [before, last] = states(k, in, chunks);
  const at::Tensor M_cHij = at::matmul(k.C_cHLN, k.B_cHLN.transpose(2, 3)) * k.decay_cHij * k.dt_cHL.unsqueeze(2);
  at::Tensor y_cHLP = at::matmul(M_cHij, k.x_cHLP) + at::matmul(k.C_cHLN, before.transpose(2, 3)) * k.cs_cHL.exp().unsqueeze(3);
  if (in.D_H.defined()) y_cHLP = y_cHLP + k.x_cHLP * in.D_H.to(k.x_cHLP.scalar_type()).view({-1, 1, 1});
  SsdOut out{join_heads(chunks, y_cHLP).to(in.x_THP.scalar_type()), {}};
  if (want_final_state) out.final_state_nHPN = last;
  return out;
}

SsdGrads ssd_bwd(const at::Tensor& dy_THP, const SsdInputs& in, const at::Tensor& d_final_state, const Packing& packing, int64_t chunk) {
  const Chunks chunks(packing, chunk, in.x_THP.device());
  const Cut k(in, chunks);
  const auto type = k.x_cHLP.scalar_type();
  const int64_t H = in.x_THP.size(1), P = in.x_THP.size(2), G = in.B_TGN.size(1), N = in.B_TGN.size(2), L = chunks.length();
  const auto [before, last] = states(k, in, chunks);
  const at::Tensor dy_cHLP = chunks.cut(dy_THP.to(type)).transpose(1, 2);
  // What each token reads of the state that came in.
  const at::Tensor into_cHL1 = k.cs_cHL.exp().unsqueeze(3);
  at::Tensor dC_cHLN = at::matmul(dy_cHLP * into_cHL1, before);
  at::Tensor dcs_cHL = (dC_cHLN * k.C_cHLN).sum(3);
  const at::Tensor dS_read_cHPN = at::matmul((dy_cHLP * into_cHL1).transpose(2, 3), k.C_cHLN);
  // Backward over chunks: gradient of the state that each one hands on.
  const at::Tensor keep_cH = k.end_cH().exp();
  at::Tensor dS_out = at::empty_like(before), dS_first = at::empty({chunks.documents(), H, P, N}, before.options());
  for (int64_t d = 0; d < chunks.documents(); ++d) {
    at::Tensor dS = d_final_state.defined() ? d_final_state[d].to(type) : at::zeros({H, P, N}, before.options());
    for (int64_t c = chunks.first(d + 1) - 1; c >= chunks.first(d); --c) {
      dS_out[c].copy_(dS);
      dS = keep_cH[c].view({H, 1, 1}) * dS + dS_read_cHPN[c];
    }
    dS_first[d].copy_(dS);
  }
  at::Tensor d_end_cH = keep_cH * (dS_out * before).sum(at::IntArrayRef{2, 3});
  // What each token wrote into the state.
  const at::Tensor w_cHL = k.weight_cHL(), v_cHLP = at::matmul(k.B_cHLN, dS_out.transpose(2, 3)), dw_cHL = (k.x_cHLP * v_cHLP).sum(3);
  at::Tensor dx_cHLP = v_cHLP * w_cHL.unsqueeze(3), dB_cHLN = at::matmul(k.x_cHLP * w_cHL.unsqueeze(3), dS_out);
  at::Tensor d_dt_cHL = dw_cHL * k.to_end_cHL();
  dcs_cHL = dcs_cHL - dw_cHL * w_cHL;
  d_end_cH = d_end_cH + (dw_cHL * w_cHL).sum(2);
  // Pairs inside a chunk.
  const at::Tensor cb_cHij = at::matmul(k.C_cHLN, k.B_cHLN.transpose(2, 3)) * k.decay_cHij, dM_cHij = at::matmul(dy_cHLP, k.x_cHLP.transpose(2, 3));
  const at::Tensor dt_cH1j = k.dt_cHL.unsqueeze(2), G_cHij = dM_cHij * k.decay_cHij * dt_cH1j, W_cHij = dM_cHij * cb_cHij;
  dx_cHLP = dx_cHLP + at::matmul((cb_cHij * dt_cH1j).transpose(2, 3), dy_cHLP);
  dC_cHLN = dC_cHLN + at::matmul(G_cHij, k.B_cHLN);
  dB_cHLN = dB_cHLN + at::matmul(G_cHij.transpose(2, 3), k.C_cHLN);
  d_dt_cHL = d_dt_cHL + W_cHij.sum(2);
  dcs_cHL = dcs_cHL + (W_cHij * dt_cH1j).sum(3) - (W_cHij * dt_cH1j).sum(2);
  dcs_cHL.select(2, L - 1).add_(d_end_cH);
  const at::Tensor da_cHL = at::cumsum(dcs_cHL.flip({2}), 2).flip({2});
  d_dt_cHL = d_dt_cHL + da_cHL * in.A_H.to(type).unsqueeze(1);
  SsdGrads g;
  g.dA = (da_cHL * k.dt_cHL).sum(at::IntArrayRef{0, 2});
  if (in.D_H.defined()) {
    g.dD = (k.x_cHLP * dy_cHLP).sum(at::IntArrayRef{0, 2, 3});
    dx_cHLP = dx_cHLP + dy_cHLP * in.D_H.to(type).view({-1, 1, 1});
  }
  g.dx = join_heads(chunks, dx_cHLP).to(in.x_THP.scalar_type());
  g.d_dt = join_heads(chunks, d_dt_cHL);
  g.dB = sum_groups(join_heads(chunks, dB_cHLN), G).to(in.x_THP.scalar_type());
  g.dC = sum_groups(join_heads(chunks, dC_cHLN), G).to(in.x_THP.scalar_type());
  if (in.initial_state_nHPN.defined()) g.d_initial_state = dS_first;
  return g;
}

}  // namespace weft::ops::reference
