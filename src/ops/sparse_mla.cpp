// T tokens, H heads, D query width, V value width, K indices; b tokens of a block.
#include "ops/aten.h"

#include "ops/sparse_mla.h"

#include "kernels/sparse_mla/sparse_mla.h"
#include "ops/address.h"
#include "ops/aten_candidate.h"
#include "ops/composed.h"
#include "ops/node.h"
#include "ops/quantize.h"

namespace weft::ops {
namespace reference {
namespace {

constexpr int64_t kBlock = 128;
constexpr double kLn2 = 0.69314718055994530942;

struct Block {
  at::Tensor rows_bK, hidden_bK, kv_bKD, q_bHD;
  Block(const at::Tensor& q, const AbsorbedKv& kv, const at::Tensor& indices, const at::Tensor& start_T, int64_t first, int64_t n) {
    const at::Tensor idx = indices.narrow(0, first, n).to(at::kLong), t = at::arange(first, first + n, idx.options()).unsqueeze(1);
    hidden_bK = (idx < start_T.narrow(0, first, n).unsqueeze(1)).logical_or(idx > t);  // -1 is before any start
    rows_bK = idx.masked_fill(hidden_bK, 0);
    kv_bKD = kv.kv_TD.index_select(0, rows_bK.flatten()).view({n, idx.size(1), kv.kv_TD.size(1)}).to(wide(q));
    kv_bKD = kv_bKD.masked_fill(hidden_bK.unsqueeze(2), 0);  // NaN in a row that is not read changes nothing
    q_bHD = q.narrow(0, first, n).to(wide(q));
  }
  at::Tensor logits(double scale) const {
    return (at::matmul(q_bHD, kv_bKD.transpose(1, 2)) * scale).masked_fill(hidden_bK.unsqueeze(1), -std::numeric_limits<double>::infinity());
  }
  at::Tensor probabilities(const at::Tensor& s, const at::Tensor& lse_bH1) const { return (s - lse_bH1).exp().masked_fill(hidden_bK.unsqueeze(1), 0); }
};

at::Tensor starts(const Packing& p, at::Device device) {  // [T] first token of each token's document
  std::vector<int64_t> s;
  for (int64_t d = 0; d < p.documents(); ++d)
    for (int32_t t = p.host_cu_q[d]; t < p.host_cu_q[d + 1]; ++t) s.push_back(p.host_cu_q[d]);
  return at::tensor(s, at::kLong).to(device);
}

}  // namespace

SparseMlaOut sparse_mla(const at::Tensor& q, const AbsorbedKv& kv, const at::Tensor& indices, const Packing& packing, double scale) {
  const auto options = q.options().dtype(wide(q)).requires_grad(false);
  const int64_t T = q.size(0), H = q.size(1);
  SparseMlaOut out{at::zeros({T, H, kv.dim_v}, options), at::full({T, H}, -std::numeric_limits<double>::infinity(), options)};
  if (indices.size(1) == 0) return {out.o_THV.to(q.scalar_type()), out.lse_TH};
  const at::Tensor start = starts(packing, q.device());
  for (int64_t t = 0; t < T; t += kBlock) {
    const int64_t n = std::min(kBlock, T - t);
    const Block b(q, kv, indices, start, t, n);
    const at::Tensor s = b.logits(scale), lse = at::logsumexp(s, {2}, true);
    out.o_THV.narrow(0, t, n).copy_(at::matmul(b.probabilities(s, lse), b.kv_bKD.narrow(2, 0, kv.dim_v)));
    out.lse_TH.narrow(0, t, n).copy_(lse.squeeze(2) / kLn2);
  }
  out.o_THV = out.o_THV.to(q.scalar_type());
  return out;
}

std::pair<at::Tensor, at::Tensor> sparse_mla_bwd(const at::Tensor& d_o, const at::Tensor& q, const AbsorbedKv& kv, const at::Tensor& indices, const at::Tensor& o,
                                                 const at::Tensor& lse, const Packing& packing, double scale) {
  const auto options = q.options().dtype(wide(q)).requires_grad(false);
  at::Tensor dq = at::zeros(q.sizes(), options), dkv = at::zeros(kv.kv_TD.sizes(), options);
  const int64_t T = q.size(0);
  if (indices.size(1) == 0) return {dq.to(q.scalar_type()), dkv.to(q.scalar_type())};
  const at::Tensor start = starts(packing, q.device());
  for (int64_t t = 0; t < T; t += kBlock) {
    const int64_t n = std::min(kBlock, T - t);
    const Block b(q, kv, indices, start, t, n);
    const at::Tensor p = b.probabilities(b.logits(scale), (lse.narrow(0, t, n).to(wide(q)) * kLn2).unsqueeze(2));
    const at::Tensor g = d_o.narrow(0, t, n).to(wide(q)), delta = (g * o.narrow(0, t, n).to(wide(q))).sum(2, true);
    const at::Tensor ds = p * (at::matmul(g, b.kv_bKD.narrow(2, 0, kv.dim_v).transpose(1, 2)) - delta) * scale;
    dq.narrow(0, t, n).copy_(at::matmul(ds, b.kv_bKD));
    at::Tensor d_rows = at::matmul(ds.transpose(1, 2), b.q_bHD);
    d_rows.narrow(2, 0, kv.dim_v).add_(at::matmul(p.transpose(1, 2), g));
    dkv.index_add_(0, b.rows_bK.flatten(), d_rows.flatten(0, 1));
  }
  return {dq.to(q.scalar_type()), dkv.to(q.scalar_type())};
}

}  // namespace reference

namespace {

// q and kv as the kernels read them: tensors of `type`, or codes and their scales.
struct Operands {
  at::Tensor q;
  AbsorbedKv kv;
  at::Tensor q_scale, kv_scale;  // undefined where nothing is coded
  bool rows = false;
  at::ScalarType type{};  // of outputs and gradients
  bool coded() const { return q_scale.defined(); }
  const at::Tensor& like() const { return coded() ? q_scale : q; }  // codes have no dtype that arithmetic knows
  at::Tensor value(const at::Tensor& codes, const at::Tensor& scale) const {
    const at::Tensor flat = codes.view({codes.size(0), codes.numel() / std::max<int64_t>(codes.size(0), 1)});
    return reference::dequantize(flat, scale, rows ? QuantBlock::kRow : QuantBlock::kTensor).view(codes.sizes()).to(type);
  }
  at::Tensor q_value() const { return coded() ? value(q, q_scale) : q; }
  AbsorbedKv kv_value() const { return coded() ? AbsorbedKv{value(kv.kv_TD, kv_scale), kv.dim_v} : kv; }
};
Operands operands(const at::Tensor& q, const AbsorbedKv& kv, SparseMlaStorage storage, const Policy& policy) {
  Operands out{q, kv, {}, {}, storage == SparseMlaStorage::kF8Row, q.scalar_type()};
  if (storage == SparseMlaStorage::kSame || q.size(0) == 0) return out;
  const Policy p = of_parts(policy);
  const auto code = [&](const at::Tensor& x, at::Tensor& codes, at::Tensor& scale) {
    const at::Tensor flat = x.reshape({x.size(0), x.numel() / x.size(0)}).to(x.scalar_type() == at::kDouble ? at::kFloat : x.scalar_type()).contiguous();
    const Quantized made = quantize(flat, out.rows ? at::Tensor() : amax(flat, p), {out.rows ? QuantBlock::kRow : QuantBlock::kTensor}, p);
    codes = made.q.view(x.sizes()), scale = made.scale;
  };
  code(q, out.q, out.q_scale);
  code(kv.kv_TD, out.kv.kv_TD, out.kv_scale);
  return out;
}

struct Fwd {
  const Operands& in;
  const at::Tensor& indices;
  const Packing& packing;
  double scale;
  SparseMlaOut* out;
  const at::Tensor& like() const { return in.like(); }
};
struct Bwd {
  const at::Tensor& d_o;
  const Operands& in;
  const at::Tensor &indices, &o, &lse;
  const Packing& packing;
  double scale;
  bool deterministic;
  std::pair<at::Tensor, at::Tensor>* out;
  const at::Tensor& like() const { return in.like(); }
};
void run_reference(const Fwd& a) { *a.out = reference::sparse_mla(a.in.q_value(), a.in.kv_value(), a.indices, a.packing, a.scale); }
void run_reference(const Bwd& a) { *a.out = reference::sparse_mla_bwd(a.d_o, a.in.q_value(), a.in.kv_value(), a.indices, a.o, a.lse, a.packing, a.scale); }

#ifdef WEFT_CUDA
int32_t i32(int64_t n) { return static_cast<int32_t>(n); }
kernels::SparseMlaScales scales(const Operands& in) {
  if (!in.coded()) return {};
  return {address_of<float>(in.q_scale), address_of<float>(in.kv_scale), in.rows};
}
kernels::SparseMlaFwd args(const Fwd& a) {
  const at::Tensor& q = a.in.q;
  return {q.data_ptr(), a.in.kv.kv_TD.data_ptr(), address_of<int32_t>(a.indices), address_of<int32_t>(a.packing.cu_q), nullptr, nullptr, q.size(0), a.packing.documents(),
          i32(q.size(1)), i32(q.size(2)), i32(a.in.kv.dim_v), i32(a.indices.size(1)), static_cast<float>(a.scale), dtype_of(a.in.type), dtype_of(q), scales(a.in)};
}
kernels::SparseMlaBwd args(const Bwd& a, bool deterministic) {
  const at::Tensor& q = a.in.q;
  return {q.data_ptr(), a.in.kv.kv_TD.data_ptr(), address_of<int32_t>(a.indices), address_of<int32_t>(a.packing.cu_q), a.o.data_ptr(), a.d_o.data_ptr(),
          floats(a.lse), nullptr, nullptr, q.size(0), a.packing.documents(), i32(q.size(1)), i32(q.size(2)), i32(a.in.kv.dim_v),
          i32(a.indices.size(1)), static_cast<float>(a.scale), dtype_of(a.in.type), deterministic, dtype_of(q), scales(a.in)};
}
kernels::Support contiguous(bool yes) { return yes ? kernels::Support{} : kernels::Support{"q, kv or indices are not contiguous"}; }

kernels::Support supports_sm90(const Fwd& a, const Policy& p) {
  const kernels::Support plain = contiguous(a.in.q.is_contiguous() && a.in.kv.kv_TD.is_contiguous() && a.indices.is_contiguous());
  return plain ? kernels::supports_sparse_mla_fwd_sm90(args(a), p.device) : plain;
}
kernels::Support supports_sm90(const Bwd& a, const Policy& p) {
  const kernels::Support plain = contiguous(a.in.q.is_contiguous() && a.in.kv.kv_TD.is_contiguous() && a.indices.is_contiguous());
  return plain ? kernels::supports_sparse_mla_bwd_sm90(args(a, a.deterministic), p.device) : plain;
}
void run_sm90(const Fwd& a, const kernels::Launch& launch) {
  const auto options = a.in.q.options().dtype(a.in.type).requires_grad(false);
  kernels::SparseMlaFwd k = args(a);
  *a.out = {at::empty({a.in.q.size(0), a.in.q.size(1), a.in.kv.dim_v}, options), at::empty({a.in.q.size(0), a.in.q.size(1)}, options.dtype(at::kFloat))};
  k.o = a.out->o_THV.data_ptr(), k.lse = address_of<float>(a.out->lse_TH);
  kernels::sparse_mla_fwd_sm90(k, launch);
}
void run_sm90(const Bwd& a, const kernels::Launch& launch) {
  const auto options = a.in.q.options().dtype(a.in.type).requires_grad(false);
  kernels::SparseMlaBwd k = args(a, a.deterministic);
  *a.out = {at::empty(a.in.q.sizes(), options), at::empty(a.in.kv.kv_TD.sizes(), options)};
  k.dq = a.out->first.data_ptr(), k.dkv = a.out->second.data_ptr();
  kernels::sparse_mla_bwd_sm90(k, launch);
}
#endif

constexpr Candidate<Fwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", [](const Fwd& a, const Policy& p) { return supports_sm90(a, p); }, nullptr, [](const Fwd& a, const kernels::Launch& l) { run_sm90(a, l); }},
#endif
    kAten<Fwd>};
constexpr Candidate<Bwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", [](const Bwd& a, const Policy& p) { return supports_sm90(a, p); }, [](const Bwd& a) { return kernels::workspace_sparse_mla_bwd_sm90(args(a, a.deterministic)); },
     [](const Bwd& a, const kernels::Launch& l) { run_sm90(a, l); }},
#endif
    kAten<Bwd>};

struct SparseMlaNode final : Node {
  SavedTensor q, kv, o;  // q and kv: of the op's inputs; undefined when codes are kept
  Operands codes;
  at::Tensor indices, lse;
  int64_t dim_v = 0;
  double scale = 0;
  Packing packing;
  variable_list apply(variable_list&& grads) override {
    const at::Tensor d_o = grads[0].contiguous(), o = unpack(this->o);
    const Operands in = codes.coded() ? codes : Operands{unpack(this->q), {unpack(this->kv), dim_v}, {}, {}, false, o.scalar_type()};
    std::pair<at::Tensor, at::Tensor> g;
    run_chosen<Bwd>("sparse_mla_bwd", kBwd, {d_o, in, indices, o, lse, packing, scale, policy.deterministic, &g}, policy);
    return {g.first, g.second};
  }
};

// [H, count, C] of a tensor laid out [H * rows, C].
at::Tensor head_rows(const at::Tensor& w, const HeadRows& r) {
  return w.view({r.heads, w.numel() / w.size(-1) / r.heads, w.size(-1)}).narrow(1, r.first, r.count);
}

struct HeadLinear {
  const at::Tensor &x_HTI, &w_HIO;
  at::Tensor* out_THO;
  const at::Tensor& like() const { return x_HTI; }
};
void run_reference(const HeadLinear& a) {
  at::Tensor y_HTO = a.out_THO->transpose(0, 1);
  at::bmm_out(y_HTO, a.x_HTI, a.w_HIO);
}
// A batched GEMM of the tensor library on any device.
constexpr Candidate<HeadLinear> kHeadLinear[] = {
    {"aten", [](const HeadLinear& a, const Policy&) { return a.x_HTI.scalar_type() == at::kDouble ? kernels::Support{"dtype is not f32 or bf16"} : kernels::Support{}; }, nullptr,
     [](const HeadLinear& a, const kernels::Launch&) { run_reference(a); }}};

at::Tensor head_gemm(const at::Tensor& x_THI, const at::Tensor& w_HIO, const Policy& policy) {
  const at::Tensor x = x_THI.transpose(0, 1);
  at::Tensor y = at::empty({x_THI.size(0), x_THI.size(1), w_HIO.size(2)}, x.options().requires_grad(false));
  run_chosen<HeadLinear>("head_linear", kHeadLinear, {x, w_HIO, &y}, policy);
  return y;
}
// [H, n, C] in the accumulation dtype; the GPU's library sums bf16 products in fp32 by itself.
at::Tensor head_dw(const at::Tensor& a_THn, const at::Tensor& b_THC) {
  const auto product = [](const at::Tensor& a, const at::Tensor& b, auto... dtype) { return at::bmm(a.permute({1, 2, 0}), b.transpose(0, 1), dtype...); };
  if (a_THn.is_cuda() && a_THn.scalar_type() == at::kBFloat16) return product(a_THn, b_THC, at::kFloat);
  return product(a_THn.to(wide(a_THn)), b_THC.to(wide(b_THC)));
}

struct HeadLinearNode final : Node {
  SavedTensor x;
  Weight* w = nullptr;
  HeadRows r{};
  bool expanding = false;
  variable_list apply(variable_list&& grads) override {
    const at::Tensor x = unpack(this->x), dy = grads[0], W = head_rows(w->value, r);  // [H, n, C]
    const at::Tensor dx = head_gemm(dy, expanding ? W : W.transpose(1, 2), policy);
    if (w->wants_grad()) head_rows(w->main_grad, r).add_(expanding ? head_dw(dy, x) : head_dw(x, dy));
    if (w->trainable) w->done();
    return {dx};
  }
};

at::Tensor head_linear(const char* op, const at::Tensor& x, Weight& w, const HeadRows& r, bool expanding, const Policy& policy) {
  check_shape(w.value.dim() >= 2 && r.heads > 0 && (w.value.numel() / w.value.size(-1)) % r.heads == 0 && w.value.is_contiguous(), op, "weight", describe(w.value), std::to_string(r.heads) + " heads of rows, contiguous");
  const int64_t per_head = w.value.numel() / w.value.size(-1) / r.heads, C = w.value.size(-1);
  check_shape(r.first >= 0 && r.count >= 0 && r.first + r.count <= per_head, op, "rows", std::to_string(r.first) + " + " + std::to_string(r.count), "within " + std::to_string(per_head));
  check_shape(x.dim() == 3 && x.size(1) == r.heads && x.size(2) == (expanding ? C : r.count) && x.scalar_type() == w.value.scalar_type(), op, "x", describe(x),
              "[tokens, " + std::to_string(r.heads) + ", " + std::to_string(expanding ? C : r.count) + "] " + name(dtype_of(w.value)));
  auto node = make_node<HeadLinearNode>(policy, {x}, w.wants_grad());
  at::Tensor y;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor W = head_rows(w.value, r);
    y = head_gemm(x, expanding ? W.transpose(1, 2) : W, policy);
  }
  if (node) node->x = save(x), node->w = &w, node->r = r, node->expanding = expanding;
  return attach(node, y);
}

}  // namespace

at::Tensor absorb(const at::Tensor& x, Weight& w, const HeadRows& r, const Policy& policy) { return head_linear("absorb", x, w, r, false, policy); }
at::Tensor expand(const at::Tensor& x, Weight& w, const HeadRows& r, const Policy& policy) { return head_linear("expand", x, w, r, true, policy); }

SparseMlaOut sparse_mla(const at::Tensor& q, const AbsorbedKv& kv, const at::Tensor& indices, const Packing& packing, double scale, const Policy& policy,
                        SparseMlaStorage storage) {
  const char* op = "sparse_mla";
  const std::string T = std::to_string(packing.tokens());
  check_shape(q.dim() == 3 && q.size(0) == packing.tokens(), op, "q", describe(q), "[" + T + ", heads, dim]");
  check_shape(kv.kv_TD.dim() == 2 && kv.kv_TD.size(0) == q.size(0) && kv.kv_TD.size(1) == q.size(2) && kv.kv_TD.scalar_type() == q.scalar_type(), op, "kv", describe(kv.kv_TD), "[" + T + ", " + std::to_string(q.size(2)) + "] " + name(dtype_of(q)));
  check_shape(kv.dim_v >= 1 && kv.dim_v <= q.size(2), op, "dim_v", std::to_string(kv.dim_v), "1.." + std::to_string(q.size(2)));
  check_shape(indices.dim() == 2 && indices.size(0) == q.size(0) && indices.scalar_type() == at::kInt, op, "indices", describe(indices), "[" + T + ", K] i32");
  auto node = make_node<SparseMlaNode>(policy, {q, kv.kv_TD}, false);
  SparseMlaOut out;
  Operands in;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    in = operands(q, kv, storage, policy);
    run_chosen<Fwd>(op, kFwd, {in, indices, packing, scale, &out}, policy);
  }
  if (node) {
    if (in.coded()) node->codes = in;
    else node->q = save(q), node->kv = save(kv.kv_TD);
    node->indices = indices, node->lse = out.lse_TH, node->dim_v = kv.dim_v, node->scale = scale, node->packing = packing;
    out.o_THV = attach(node, out.o_THV);
    node->o = SavedTensor(out.o_THV, /*is_output=*/true);
  }
  return out;
}

}  // namespace weft::ops
