// H heads, K key dim, V value dim; one token's state is [H, K, V].
#include "ops/aten.h"

#include "ops/m2rnn.h"

#include "kernels/m2rnn/m2rnn.h"
#include "ops/aten_candidate.h"
#include "ops/conv1d.h"
#include "ops/node.h"

namespace weft::ops {
namespace reference {
namespace {

struct Scan {
  at::Tensor q, k, v, f, W, D;
  Scan(const M2rnnInputs& in) {
    const auto type = wide(in.v_THV);
    q = in.q_TK.to(type), k = in.k_TK.to(type), v = in.v_THV.to(type), f = in.f_TH.to(type), W = in.W_HVV.to(type);
    if (in.D_HV.defined()) D = in.D_HV.to(type);
  }
  at::Tensor first(const M2rnnInputs& in, int64_t d) const {
    return in.initial_nHKV.defined() ? in.initial_nHKV[d].to(v.scalar_type()) : at::zeros({v.size(1), k.size(1), v.size(2)}, v.options());
  }
  at::Tensor candidate(const at::Tensor& h, int64_t t) const { return at::tanh(at::matmul(h, W) + k[t].view({1, -1, 1}) * v[t].unsqueeze(1)); }
  at::Tensor gate(int64_t t) const { return f[t].view({-1, 1, 1}); }
  at::Tensor next(const at::Tensor& h, int64_t t) const { return gate(t) * h + (1 - gate(t)) * candidate(h, t); }
};

// One past the document's last token; no step is taken where tensors have no data.
int64_t last_of(const Packing& p, int64_t document, const at::Tensor& like) { return p.host_cu_q[like.is_meta() ? document : document + 1]; }

}  // namespace

M2rnnOut m2rnn(const M2rnnInputs& in, const Packing& packing, bool want_final_state) {
  const Scan s(in);
  at::Tensor y = at::empty(s.v.sizes(), s.v.options());
  std::vector<at::Tensor> last;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    at::Tensor h = s.first(in, d);
    for (int64_t t = packing.host_cu_q[d]; t < last_of(packing, d, s.v); ++t) {
      h = s.next(h, t);
      y[t].copy_(at::matmul(h.transpose(1, 2), s.q[t]));
    }
    last.push_back(h);
  }
  if (s.D.defined()) y = y + s.D * s.v;
  return {y.to(in.v_THV.scalar_type()), want_final_state ? at::stack(last) : at::Tensor()};
}

M2rnnGrads m2rnn_bwd(const at::Tensor& dy_any, const M2rnnInputs& in, const at::Tensor& d_final, const Packing& packing, int64_t chunk) {
  const Scan s(in);
  const at::Tensor dy = dy_any.to(s.v.scalar_type());
  const auto like = [](const at::Tensor& t) { return at::zeros(t.sizes(), t.options()); };
  M2rnnGrads g{like(s.q), like(s.k), like(s.v), like(s.f), like(s.W), {}, {}};
  std::vector<at::Tensor> first;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t begin = packing.host_cu_q[d], end = last_of(packing, d, s.v);
    std::vector<at::Tensor> kept;  // state before each chunk
    at::Tensor h = s.first(in, d);
    for (int64_t t = begin; t < end; ++t) {
      if ((t - begin) % chunk == 0) kept.push_back(h);
      h = s.next(h, t);
    }
    at::Tensor G = d_final.defined() ? d_final[d].to(s.v.scalar_type()) : like(h);
    for (int64_t c = static_cast<int64_t>(kept.size()) - 1; c >= 0; --c) {
      const int64_t from = begin + c * chunk, to = std::min(end, from + chunk);
      std::vector<at::Tensor> before{kept[static_cast<size_t>(c)]};
      for (int64_t t = from; t < to; ++t) before.push_back(s.next(before.back(), t));
      for (int64_t t = to - 1; t >= from; --t) {
        const at::Tensor &prev = before[static_cast<size_t>(t - from)], &now = before[static_cast<size_t>(t - from) + 1];
        const at::Tensor cand = s.candidate(prev, t);
        g.dq[t].copy_(at::matmul(now, dy[t].unsqueeze(2)).sum(0).squeeze(1));
        G = G + s.q[t].view({1, -1, 1}) * dy[t].unsqueeze(1);
        const at::Tensor Z = (1 - s.gate(t)) * G * (1 - cand * cand);
        g.dW.add_(at::matmul(prev.transpose(1, 2), Z));
        g.dk[t].copy_(at::matmul(Z, s.v[t].unsqueeze(2)).sum(0).squeeze(1));
        g.dv[t].copy_(at::matmul(Z.transpose(1, 2), s.k[t]));
        g.df[t].copy_((G * (prev - cand)).sum(at::IntArrayRef{1, 2}));
        G = s.gate(t) * G + at::matmul(Z, s.W.transpose(1, 2));
      }
    }
    first.push_back(G);
  }
  if (s.D.defined()) g.dD = (dy * s.v).sum(0), g.dv = g.dv + s.D * dy;
  g.dq = g.dq.to(in.q_TK.scalar_type()), g.dk = g.dk.to(in.k_TK.scalar_type()), g.dv = g.dv.to(in.v_THV.scalar_type());
  if (in.initial_nHKV.defined()) g.d_initial = at::stack(first);
  return g;
}

}  // namespace reference

namespace {

struct Fwd {
  const M2rnnInputs& in;
  const Packing& packing;
  bool want_final_state;
  M2rnnSaved* saved;
  M2rnnOut* out;
  const at::Tensor& like() const { return in.v_THV; }
};
struct Bwd {
  const at::Tensor& dy;
  const M2rnnInputs& in;
  const M2rnnSaved& saved;
  const at::Tensor& d_final;
  const Packing& packing;
  M2rnnGrads* out;
  const at::Tensor& like() const { return in.v_THV; }
};
void run_reference(const Fwd& a) { *a.out = reference::m2rnn(a.in, a.packing, a.want_final_state); }
void run_reference(const Bwd& a) { *a.out = reference::m2rnn_bwd(a.dy, a.in, a.d_final, a.packing); }

#ifdef WEFT_CUDA
bool rows_contiguous(const M2rnnInputs& in) {
  return in.q_TK.stride(1) == 1 && in.k_TK.stride(1) == 1 && in.v_THV.stride(2) == 1 && (in.v_THV.size(1) <= 1 || in.v_THV.stride(1) == in.v_THV.size(2)) && in.f_TH.is_contiguous() &&
         in.W_HVV.is_contiguous();
}
kernels::M2rnnFwd args(const Fwd& a) {
  const auto i32 = [](int64_t n) { return static_cast<int32_t>(n); };
  const M2rnnInputs& in = a.in;
  return {in.q_TK.data_ptr(), in.k_TK.data_ptr(), in.v_THV.data_ptr(), floats(in.f_TH), floats(in.W_HVV), floats(in.D_HV), a.packing.cu_q.data_ptr<int32_t>(), floats(in.initial_nHKV),
          nullptr, nullptr, nullptr, in.v_THV.size(0), a.packing.documents(), in.q_TK.stride(0), in.k_TK.stride(0), in.v_THV.stride(0),
          i32(in.v_THV.size(1)), i32(in.k_TK.size(1)), i32(in.v_THV.size(2)), dtype_of(in.v_THV)};
}
kernels::M2rnnBwd args(const Bwd& a) {
  const auto i32 = [](int64_t n) { return static_cast<int32_t>(n); };
  const M2rnnInputs& in = a.in;
  kernels::M2rnnBwd k{};
  k.dy = a.dy.data_ptr(), k.q = in.q_TK.data_ptr(), k.k = in.k_TK.data_ptr(), k.v = in.v_THV.data_ptr(), k.f = floats(in.f_TH), k.W = floats(in.W_HVV), k.D = floats(in.D_HV);
  k.cu_seqlens = a.packing.cu_q.data_ptr<int32_t>(), k.states = floats(a.saved.states), k.d_final_state = floats(a.d_final);
  k.tokens = in.v_THV.size(0), k.documents = a.packing.documents(), k.q_stride = in.q_TK.stride(0), k.k_stride = in.k_TK.stride(0), k.v_stride = in.v_THV.stride(0);
  k.heads = i32(in.v_THV.size(1)), k.key_dim = i32(in.k_TK.size(1)), k.value_dim = i32(in.v_THV.size(2)), k.dtype = dtype_of(in.v_THV);
  return k;
}
template <class Call>
kernels::Support rows_ok(const Call& a) { return rows_contiguous(a.in) ? kernels::Support{} : kernels::Support{"heads or dims are not contiguous"}; }
kernels::Support supports_sm90(const Bwd& a, const Policy& p) {
  if (const kernels::Support ok = rows_ok(a); !ok) return ok;
  kernels::M2rnnBwd k = args(a);
  if (asks_only(p)) k.states = static_cast<float*>(any_address());
  return kernels::supports_m2rnn_bwd_sm90(k, p.device);
}
void run_sm90(const Fwd& a, const kernels::Launch& launch) {
  const M2rnnInputs& in = a.in;
  const auto options = in.v_THV.options().requires_grad(false), f32 = options.dtype(at::kFloat);
  const int64_t T = in.v_THV.size(0), n = a.packing.documents(), H = in.v_THV.size(1), K = in.k_TK.size(1), V = in.v_THV.size(2);
  kernels::M2rnnFwd k = args(a);
  a.out->y_THV = at::empty({T, H, V}, options), k.y = a.out->y_THV.data_ptr();
  if (a.saved != nullptr) a.saved->states = at::empty({kernels::m2rnn_state_slots(T, n), H, K, V}, f32), k.states = floats(a.saved->states);
  if (a.want_final_state) a.out->final_nHKV = at::empty({n, H, K, V}, f32), k.final_state = floats(a.out->final_nHKV);
  kernels::m2rnn_fwd_sm90(k, launch);
}
void run_sm90(const Bwd& a, const kernels::Launch& launch) {
  const M2rnnInputs& in = a.in;
  const auto options = in.v_THV.options().requires_grad(false), f32 = options.dtype(at::kFloat);
  M2rnnGrads& g = *a.out;
  g = {at::empty(in.q_TK.sizes(), options), at::empty(in.k_TK.sizes(), options), at::empty(in.v_THV.sizes(), options), at::empty(in.f_TH.sizes(), f32), at::zeros(in.W_HVV.sizes(), f32), {}, {}};
  if (in.D_HV.defined()) g.dD = at::zeros(in.D_HV.sizes(), f32);
  if (in.initial_nHKV.defined()) g.d_initial = at::empty(in.initial_nHKV.sizes(), f32);
  kernels::M2rnnBwd k = args(a);
  k.dq = g.dq.data_ptr(), k.dk = g.dk.data_ptr(), k.dv = g.dv.data_ptr(), k.df = floats(g.df), k.dW = floats(g.dW), k.dD = floats(g.dD), k.d_initial_state = floats(g.d_initial);
  kernels::m2rnn_bwd_sm90(k, launch);
}
#endif

constexpr Candidate<Fwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", [](const Fwd& a, const Policy& p) { const auto ok = rows_ok(a); return ok ? kernels::supports_m2rnn_fwd_sm90(args(a), p.device) : ok; }, nullptr,
     [](const Fwd& a, const kernels::Launch& l) { run_sm90(a, l); }},
#endif
    kAten<Fwd>};
constexpr Candidate<Bwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", supports_sm90,
     [](const Bwd& a) { return kernels::workspace_m2rnn_bwd_sm90(args(a)); }, [](const Bwd& a, const kernels::Launch& l) { run_sm90(a, l); }},
#endif
    kAten<Bwd>};

struct M2rnnNode final : Node {
  SavedTensor q, k, v, f, W, D, initial;
  M2rnnSaved saved;
  Packing packing;
  variable_list apply(variable_list&& grads) override {
    const M2rnnInputs in{unpack(q), unpack(k), unpack(v), unpack(f), unpack(W), unpack(D), unpack(initial)};
    const at::Tensor dy = grads[0].defined() ? grads[0] : at::zeros(in.v_THV.sizes(), in.v_THV.options());
    const M2rnnGrads g = m2rnn_bwd(dy, in, saved, grads.size() > 1 ? grads[1] : at::Tensor(), packing, policy);
    return {g.dq, g.dk, g.dv, g.df, g.dW, g.dD, g.d_initial};
  }
};

void check(const char* op, const M2rnnInputs& in, const Packing& packing) {
  const int64_t T = packing.tokens();
  check_shape(in.v_THV.dim() == 3 && in.v_THV.size(0) == T, op, "v", describe(in.v_THV), "[" + std::to_string(T) + ", heads, dim]");
  const int64_t H = in.v_THV.size(1), V = in.v_THV.size(2);
  const auto f32 = wide(in.v_THV);
  check_shape(in.q_TK.dim() == 2 && in.q_TK.size(0) == T && in.k_TK.sizes() == in.q_TK.sizes(), op, "q, k", describe(in.q_TK) + ", " + describe(in.k_TK), "[" + std::to_string(T) + ", key dim] both");
  check_shape(in.f_TH.sizes() == std::vector<int64_t>({T, H}) && in.f_TH.scalar_type() == f32, op, "f", describe(in.f_TH), "[tokens, heads] f32");
  check_shape(in.W_HVV.sizes() == std::vector<int64_t>({H, V, V}) && in.W_HVV.scalar_type() == f32, op, "W", describe(in.W_HVV), "[heads, dim, dim] f32");
  if (in.D_HV.defined()) check_shape(in.D_HV.sizes() == std::vector<int64_t>({H, V}), op, "D", describe(in.D_HV), "[heads, dim] f32");
  if (in.initial_nHKV.defined()) check_shape(in.initial_nHKV.sizes() == std::vector<int64_t>({packing.documents(), H, in.k_TK.size(1), V}), op, "initial state", describe(in.initial_nHKV), "[documents, heads, key dim, dim] f32");
}

M2rnnInputs scan_inputs(const at::Tensor& conv_TC, const at::Tensor& forget, const M2rnnShape& s, const M2rnnWeights& w) {
  const auto type = wide(conv_TC);
  const int64_t T = conv_TC.size(0), K = s.key_dim;
  return {conv_TC.narrow(1, 0, K), conv_TC.narrow(1, K, K), conv_TC.narrow(1, 2 * K, s.inner()).reshape({T, s.heads, s.value_dim}),
          (-w.A_log.value.to(type).exp() * at::softplus(forget.to(type) + w.dt_bias.value.to(type))).exp(), w.W.value.to(type),
          w.D == nullptr ? at::Tensor() : w.D->value.to(type), {}};
}

struct Parts {  // of the projection's output: views
  at::Tensor conv_in, forget, gate;
  Parts(const at::Tensor& in, const M2rnnShape& s)
      : conv_in(in.narrow(1, 0, s.channels())), forget(in.narrow(1, s.channels(), s.heads)), gate(in.narrow(1, s.channels() + s.heads, s.inner())) {}
};

struct MixerNode final : Node {
  SavedTensor in;
  M2rnnSaved saved;
  M2rnnShape s{};
  Weight *conv_w = nullptr, *conv_b = nullptr, *A_log = nullptr, *dt_bias = nullptr, *W = nullptr, *D = nullptr;
  Packing packing;
  variable_list apply(variable_list&& grads) override {
    const at::Tensor in = unpack(this->in);
    const Parts parts(in, s);
    const M2rnnWeights w{*conv_w, conv_b, *A_log, *dt_bias, *W, D};
    const ConvInputs conv{parts.conv_in, conv_w->value, conv_b == nullptr ? at::Tensor() : conv_b->value, {}, true};
    const M2rnnInputs scan = scan_inputs(conv1d_fwd(conv, packing, false, policy).y_TC, parts.forget, s, w);
    at::Tensor d_in = at::zeros(in.sizes(), in.options());
    const Parts d(d_in, s);
    if (grads[1].defined()) d.gate.copy_(grads[1]);
    const at::Tensor dy = (grads[0].defined() ? grads[0] : at::zeros({in.size(0), s.inner()}, in.options())).reshape({in.size(0), s.heads, s.value_dim});
    const M2rnnGrads g = m2rnn_bwd(dy, scan, saved, {}, packing, policy);
    const ConvGrads c = conv1d_bwd(at::cat({g.dq, g.dk, g.dv.flatten(1)}, 1), conv, {}, packing, d.conv_in, policy);
    // f = exp(-a s), a = exp(A_log), s = softplus(u)
    const auto type = wide(in);
    const at::Tensor a = A_log->value.to(type).exp(), u = parts.forget.to(type) + dt_bias->value.to(type), d_exponent = -g.df * scan.f_TH;
    const at::Tensor du = d_exponent * a * at::sigmoid(u);
    d.forget.copy_(du);
    conv_w->accumulate(c.dw);
    if (conv_b != nullptr) conv_b->accumulate(c.dbias);
    A_log->accumulate((d_exponent * at::softplus(u)).sum(0) * a);
    dt_bias->accumulate(du.sum(0));
    W->accumulate(g.dW);
    if (D != nullptr) D->accumulate(g.dD);
    return {d_in};
  }
};

}  // namespace

M2rnnOut m2rnn_fwd(const M2rnnInputs& in, const Packing& packing, bool want_final_state, M2rnnSaved* saved, const Policy& policy) {
  M2rnnOut out;
  run_chosen<Fwd>("m2rnn", kFwd, {in, packing, want_final_state, saved, &out}, policy);
  return out;
}

M2rnnGrads m2rnn_bwd(const at::Tensor& dy_any, const M2rnnInputs& in, const M2rnnSaved& saved, const at::Tensor& d_final, const Packing& packing, const Policy& policy) {
  M2rnnGrads out;
  const at::Tensor dy = dy_any.contiguous();
  run_chosen<Bwd>("m2rnn_bwd", kBwd, {dy, in, saved, d_final, packing, &out}, policy);
  return out;
}

M2rnnOut m2rnn(const M2rnnInputs& in, const Packing& packing, bool want_final_state, const Policy& policy) {
  check("m2rnn", in, packing);
  auto node = make_node<M2rnnNode>(policy, {in.q_TK, in.k_TK, in.v_THV, in.f_TH, in.W_HVV, in.D_HV, in.initial_nHKV}, false);
  M2rnnOut out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    out = m2rnn_fwd(in, packing, want_final_state, node ? &node->saved : nullptr, policy);
  }
  if (node) {
    node->q = save(in.q_TK), node->k = save(in.k_TK), node->v = save(in.v_THV), node->f = save(in.f_TH), node->W = save(in.W_HVV);
    node->D = save(in.D_HV), node->initial = save(in.initial_nHKV), node->packing = packing;
    out.y_THV = attach(node, out.y_THV);
    if (want_final_state) out.final_nHKV = attach(node, out.final_nHKV);
  }
  return out;
}

M2rnnMixed m2rnn_mixer(const at::Tensor& in, const M2rnnShape& s, const M2rnnWeights& w, const Packing& packing, M2rnnState* state, const Policy& policy) {
  check_shape(in.dim() == 2 && in.size(1) == s.projected() && in.size(0) == packing.tokens() && in.is_contiguous(), "m2rnn_mixer", "input", describe(in),
              "[" + std::to_string(packing.tokens()) + ", " + std::to_string(s.projected()) + "] contiguous");
  bool weights = w.conv_w.wants_grad() || w.A_log.wants_grad() || w.dt_bias.wants_grad() || w.W.wants_grad();
  weights = weights || (w.conv_b != nullptr && w.conv_b->wants_grad()) || (w.D != nullptr && w.D->wants_grad());
  auto node = state == nullptr ? make_node<MixerNode>(policy, {in}, weights) : nullptr;
  M2rnnMixed out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    const Parts parts(in.detach(), s);
    const ConvOut conv = conv1d_fwd({parts.conv_in, w.conv_w.value, w.conv_b == nullptr ? at::Tensor() : w.conv_b->value, state == nullptr ? at::Tensor() : state->conv_nCW, true},
                                    packing, state != nullptr, policy);
    M2rnnInputs scan = scan_inputs(conv.y_TC, parts.forget, s, w);
    if (state != nullptr) scan.initial_nHKV = state->h_nHKV;
    check("m2rnn_mixer", scan, packing);
    const M2rnnOut y = m2rnn_fwd(scan, packing, state != nullptr, node ? &node->saved : nullptr, policy);
    if (state != nullptr) state->conv_nCW = conv.final_state_nCW, state->h_nHKV = y.final_nHKV;
    out = {y.y_THV.reshape({in.size(0), s.inner()}), parts.gate};
  }
  if (node) {
    node->in = save(in), node->s = s, node->packing = packing, node->conv_w = &w.conv_w, node->conv_b = w.conv_b, node->A_log = &w.A_log;
    node->dt_bias = &w.dt_bias, node->W = &w.W, node->D = w.D;
    out.y_TI = attach(node, out.y_TI), out.gate_TI = attach(node, out.gate_TI);
  }
  return out;
}

}  // namespace weft::ops
