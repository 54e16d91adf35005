// T tokens, J indexer heads, b queries of a block, s keys of their document up to the block's last query.
#include "ops/aten.h"

#include "ops/indexer.h"

#include "kernels/indexer/indexer.h"
#include "kernels/indexer/loss.h"
#include "ops/address.h"
#include "ops/aten_candidate.h"
#include "ops/node.h"

namespace weft::ops {
namespace reference {
namespace {

constexpr int64_t kBlock = 128;
constexpr double kNegInf = -std::numeric_limits<double>::infinity();

struct Block {
  int64_t first, n, start, keys;  // queries [first, first + n), keys [start, start + keys)
};
template <class Body>
void each_block(const Packing& p, const Body& body) {
  for (int64_t d = 0; d < p.documents(); ++d)
    for (int64_t t = p.host_cu_q[d]; t < p.host_cu_q[d + 1]; t += kBlock) {
      const int64_t n = std::min<int64_t>(kBlock, p.host_cu_q[d + 1] - t);
      body(Block{t, n, p.host_cu_q[d], t + n - p.host_cu_q[d]});
    }
}

at::Tensor later(const Block& b, const at::Tensor& like) {  // [b, s]: keys after the query
  const auto options = like.options().dtype(at::kLong).requires_grad(false);
  return at::arange(b.start, b.start + b.keys, options).unsqueeze(0) > at::arange(b.first, b.first + b.n, options).unsqueeze(1);
}

// One head's products [b, s], and the scores summed over heads.
at::Tensor product(const IndexerInputs& in, const Block& b, int64_t j) {
  const auto type = wide(in.q_TJD);
  return at::matmul(in.q_TJD.narrow(0, b.first, b.n).select(1, j).to(type), in.k_TD.narrow(0, b.start, b.keys).to(type).t());
}
at::Tensor scores(const IndexerInputs& in, const Block& b) {
  at::Tensor I = at::zeros({b.n, b.keys}, in.q_TJD.options().dtype(wide(in.q_TJD)));
  for (int64_t j = 0; j < in.q_TJD.size(1); ++j) {
    const at::Tensor x = product(in, b, j);
    I = I + in.gate_TJ.narrow(0, b.first, b.n).select(1, j).to(I.scalar_type()).unsqueeze(1) * (in.relu ? at::relu(x) : x);
  }
  return I;
}

}  // namespace

at::Tensor indexer_topk(const IndexerInputs& in, const Packing& packing, int64_t top_k) {
  at::Tensor out = at::full({in.q_TJD.size(0), top_k}, -1, in.q_TJD.options().dtype(at::kInt).requires_grad(false));
  each_block(packing, [&](const Block& b) {
    const at::Tensor hidden = later(b, in.q_TJD);
    at::Tensor I = scores(in, b);
    I = at::where(I.isnan(), at::full_like(I, -kNegInf), I).masked_fill(hidden, kNegInf);
    const int64_t k = std::min(top_k, b.keys);
    const at::Tensor best = std::get<1>(at::sort(I, /*stable=*/true, 1, /*descending=*/true)).narrow(1, 0, k);
    const at::Tensor none = hidden.gather(1, best);
    // Ascending with the missing ones last.
    const int64_t far = in.q_TJD.size(0);
    at::Tensor chosen = std::get<0>(at::sort((best + b.start).masked_fill(none, far), 1));
    out.narrow(0, b.first, b.n).narrow(1, 0, k).copy_(chosen.masked_fill(chosen == far, -1));
  });
  return out;
}

IndexerLoss indexer_loss(const IndexerInputs& in, const IndexerTarget& target, const at::Tensor& indices, const at::Tensor& weights, double coeff, const Packing& packing,
                         bool with_gradient) {
  const auto type = wide(in.q_TJD);
  const auto options = in.q_TJD.options().dtype(type).requires_grad(false);
  const int64_t T = in.q_TJD.size(0), J = in.q_TJD.size(1), share = target.q_THD.size(1) / target.k_TGD.size(1);
  const at::Tensor w = weights.defined() ? weights.to(type) : at::ones({T}, options), total = w.sum().clamp_min(1e-20);
  IndexerLoss out{at::zeros({}, options), {}, {}, {}};
  if (with_gradient) out.dq = at::zeros(in.q_TJD.sizes(), options), out.dk = at::zeros(in.k_TD.sizes(), options), out.d_gate = at::zeros({T, J}, options);
  each_block(packing, [&](const Block& b) {
    at::Tensor hidden = later(b, in.q_TJD);
    if (indices.defined()) {
      const at::Tensor idx = indices.narrow(0, b.first, b.n).to(at::kLong) - b.start;
      const at::Tensor outside = (idx < 0).logical_or(idx >= b.keys);
      at::Tensor chosen = at::zeros({b.n, b.keys + 1}, hidden.options());  // the last column takes what is outside
      chosen.scatter_(1, idx.masked_fill(outside, b.keys), true);
      hidden = hidden.logical_or(chosen.narrow(1, 0, b.keys).logical_not());
    }
    const at::Tensor empty = hidden.all(1, true);  // [b, 1]
    at::Tensor p = at::zeros({b.n, b.keys}, options);
    for (int64_t h = 0; h < target.q_THD.size(1); ++h) {
      const at::Tensor q = target.q_THD.narrow(0, b.first, b.n).select(1, h).to(type), k = target.k_TGD.narrow(0, b.start, b.keys).select(1, h / share).to(type);
      p = p + at::softmax((at::matmul(q, k.t()) * target.scale).masked_fill(hidden, kNegInf), 1).masked_fill(hidden, 0);
    }
    p = p / p.sum(1, true).clamp_min(1e-20);
    const at::Tensor log_q = at::log_softmax(scores(in, b).masked_fill(hidden, kNegInf), 1);
    const at::Tensor row_weight = (w.narrow(0, b.first, b.n) * (coeff / total)).unsqueeze(1).masked_fill(empty, 0);
    const at::Tensor terms = at::where(p > 0, p * (p.clamp_min(1e-300).log() - log_q), at::zeros_like(p));
    out.loss = out.loss + (terms.sum(1, true).masked_fill(empty, 0) * row_weight).sum();
    if (!with_gradient) return;
    const at::Tensor dI = ((log_q.exp() - p).masked_fill(hidden, 0) * row_weight).masked_fill(empty, 0);
    const at::Tensor k = in.k_TD.narrow(0, b.start, b.keys).to(type);
    for (int64_t j = 0; j < J; ++j) {
      const at::Tensor x = product(in, b, j), gate = in.gate_TJ.narrow(0, b.first, b.n).select(1, j).to(type).unsqueeze(1);
      out.d_gate.narrow(0, b.first, b.n).select(1, j).copy_((dI * (in.relu ? at::relu(x) : x)).sum(1));
      at::Tensor dx = dI * gate;
      if (in.relu) dx = dx * (x > 0).to(type);
      out.dq.narrow(0, b.first, b.n).select(1, j).copy_(at::matmul(dx, k));
      out.dk.narrow(0, b.start, b.keys).add_(at::matmul(dx.t(), in.q_TJD.narrow(0, b.first, b.n).select(1, j).to(type)));
    }
  });
  return out;
}

}  // namespace reference

namespace {

struct TopK {
  const IndexerInputs& in;
  const Packing& packing;
  int64_t top_k;
  at::Tensor* out;
  const at::Tensor& like() const { return in.q_TJD; }
};
struct Loss {
  const IndexerInputs& in;
  const IndexerTarget& target;
  const at::Tensor &indices, &weights;
  double coeff;
  const Packing& packing;
  bool with_gradient;
  reference::IndexerLoss* out;
  const at::Tensor& like() const { return in.q_TJD; }
};
void run_reference(const TopK& a) { *a.out = reference::indexer_topk(a.in, a.packing, a.top_k); }
void run_reference(const Loss& a) { *a.out = reference::indexer_loss(a.in, a.target, a.indices, a.weights, a.coeff, a.packing, a.with_gradient); }

#ifdef WEFT_CUDA
kernels::IndexerTopK args(const TopK& a) {
  const auto i32 = [](int64_t n) { return static_cast<int32_t>(n); };
  return {a.in.q_TJD.data_ptr(), a.in.k_TD.data_ptr(), floats(a.in.gate_TJ), address_of<int32_t>(a.packing.cu_q), nullptr,
          a.in.q_TJD.size(0), a.packing.documents(), i32(a.in.q_TJD.size(1)), i32(a.in.q_TJD.size(2)), i32(a.top_k), dtype_of(a.in.q_TJD)};
}
kernels::Support supports_sm90(const TopK& a, const Policy& p) {
  if (!a.in.relu) return {"scores without relu"};
  if (!a.in.q_TJD.is_contiguous() || !a.in.k_TD.is_contiguous() || !a.in.gate_TJ.is_contiguous()) return {"q, k or gate is not contiguous"};
  return kernels::supports_indexer_topk_sm90(args(a), p.device);
}
void run_sm90(const TopK& a, const kernels::Launch& launch) {
  *a.out = at::empty({a.in.q_TJD.size(0), a.top_k}, a.in.q_TJD.options().dtype(at::kInt).requires_grad(false));
  kernels::IndexerTopK k = args(a);
  k.indices = a.out->data_ptr<int32_t>();
  kernels::indexer_topk_sm90(k, launch);
}

kernels::IndexerLoss args(const Loss& a) {
  const auto i32 = [](int64_t n) { return static_cast<int32_t>(n); };
  kernels::IndexerLoss k{};
  k.q = a.in.q_TJD.data_ptr(), k.k = a.in.k_TD.data_ptr(), k.gate = floats(a.in.gate_TJ), k.target_q = a.target.q_THD.data_ptr(), k.target_k = a.target.k_TGD.data_ptr();
  k.indices = static_cast<int32_t*>(address(a.indices)), k.weights = floats(a.weights), k.cu_seqlens = address_of<int32_t>(a.packing.cu_q);
  k.tokens = a.in.q_TJD.size(0), k.documents = a.packing.documents(), k.heads = i32(a.in.q_TJD.size(1)), k.dim = i32(a.in.q_TJD.size(2));
  k.target_heads = i32(a.target.q_THD.size(1)), k.target_groups = i32(a.target.k_TGD.size(1)), k.target_dim = i32(a.target.q_THD.size(2));
  k.top_k = a.indices.defined() ? i32(a.indices.size(1)) : 0, k.longest = a.packing.max_q, k.scale = static_cast<float>(a.target.scale), k.coeff = static_cast<float>(a.coeff);
  k.relu = a.in.relu, k.dtype = dtype_of(a.in.q_TJD), k.target_dtype = dtype_of(a.target.q_THD);
  return k;
}
kernels::Support supports_sm90(const Loss& a, const Policy& p) {
  if (p.deterministic && a.with_gradient) return {"the gradient of k is summed by atomics"};
  if (a.target.k_TGD.scalar_type() != a.target.q_THD.scalar_type()) return {"target queries and keys differ in dtype"};
  if (a.weights.defined() && a.weights.scalar_type() != at::kFloat) return {"weights are not f32"};
  return kernels::supports_indexer_loss_sm90(args(a), p.device);
}
void run_sm90(const Loss& a, const kernels::Launch& launch) {
  const auto whole = [](const at::Tensor& t) { return t.defined() ? t.contiguous() : t; };
  const IndexerInputs in{whole(a.in.q_TJD), whole(a.in.k_TD), whole(a.in.gate_TJ), a.in.relu};
  const IndexerTarget target{whole(a.target.q_THD), whole(a.target.k_TGD), a.target.scale};
  const at::Tensor indices = whole(a.indices), weights = whole(a.weights);
  const auto f32 = in.q_TJD.options().dtype(at::kFloat).requires_grad(false);
  const int64_t T = in.q_TJD.size(0);
  const at::Tensor total = weights.defined() ? weights.sum() : at::full({}, static_cast<double>(T), f32), rows = at::empty({T}, f32);
  kernels::IndexerLoss k = args(Loss{in, target, indices, weights, a.coeff, a.packing, a.with_gradient, a.out});
  k.total_weight = address_of<float>(total), k.loss = address_of<float>(rows);
  if (a.with_gradient) {
    a.out->dq = at::empty(in.q_TJD.sizes(), f32), a.out->dk = at::zeros(in.k_TD.sizes(), f32), a.out->d_gate = at::empty(in.gate_TJ.sizes(), f32);
    k.dq = address_of<float>(a.out->dq), k.dk = address_of<float>(a.out->dk), k.d_gate = address_of<float>(a.out->d_gate);
  }
  kernels::indexer_loss_sm90(k, launch);
  a.out->loss = rows.sum();
}
#endif

constexpr Candidate<TopK> kTopK[] = {
#ifdef WEFT_CUDA
    {"sm90", [](const TopK& a, const Policy& p) { return supports_sm90(a, p); }, [](const TopK& a) { return kernels::workspace_indexer_topk_sm90(args(a)); },
     [](const TopK& a, const kernels::Launch& l) { run_sm90(a, l); }},
#endif
    kAten<TopK>};
constexpr Candidate<Loss> kLoss[] = {
#ifdef WEFT_CUDA
    {"sm90", [](const Loss& a, const Policy& p) { return supports_sm90(a, p); }, nullptr, [](const Loss& a, const kernels::Launch& l) { run_sm90(a, l); }},
#endif
    kAten<Loss>};

void check(const char* op, const IndexerInputs& in, const Packing& packing) {
  const int64_t T = packing.tokens();
  check_shape(in.q_TJD.dim() == 3 && in.q_TJD.size(0) == T, op, "q", describe(in.q_TJD), "[" + std::to_string(T) + ", heads, dim]");
  check_shape(in.k_TD.sizes() == std::vector<int64_t>({T, in.q_TJD.size(2)}) && in.k_TD.scalar_type() == in.q_TJD.scalar_type(), op, "k", describe(in.k_TD), "[tokens, dim] of q");
  check_shape(in.gate_TJ.sizes() == std::vector<int64_t>({T, in.q_TJD.size(1)}) && in.gate_TJ.scalar_type() == wide(in.q_TJD), op, "gate", describe(in.gate_TJ), "[tokens, heads] f32");
}

struct LossNode final : Node {  // the forward made the gradients: they cost less to keep than to make again
  at::Tensor dq, dk, d_gate;
  at::ScalarType type{};
  variable_list apply(variable_list&& grads) override { return {(dq * grads[0]).to(type), (dk * grads[0]).to(type), d_gate * grads[0]}; }
};

}  // namespace

at::Tensor indexer_topk(const IndexerInputs& in, const Packing& packing, int64_t top_k, const Policy& policy) {
  check("indexer_topk", in, packing);
  check_shape(top_k >= 0, "indexer_topk", "top_k", std::to_string(top_k), "0 or more");
  const at::NoGradGuard no_grad;
  at::Tensor out;
  run_chosen<TopK>("indexer_topk", kTopK, {in, packing, top_k, &out}, policy);
  return out;
}

at::Tensor indexer_loss(const IndexerInputs& in, const IndexerTarget& target, const at::Tensor& indices, const at::Tensor& weights, double coeff, const Packing& packing,
                        const Policy& policy) {
  const char* op = "indexer_loss";
  check(op, in, packing);
  const int64_t T = packing.tokens();
  check_shape(target.q_THD.dim() == 3 && target.k_TGD.dim() == 3 && target.q_THD.size(0) == T && target.k_TGD.size(0) == T && target.k_TGD.size(2) == target.q_THD.size(2) &&
                  target.k_TGD.size(1) > 0 && target.q_THD.size(1) % target.k_TGD.size(1) == 0,
              op, "target", describe(target.q_THD) + ", " + describe(target.k_TGD), "queries and keys of " + std::to_string(T) + " tokens");
  if (indices.defined()) check_shape(indices.dim() == 2 && indices.size(0) == T && indices.scalar_type() == at::kInt, op, "indices", describe(indices), "[" + std::to_string(T) + ", K] i32");
  if (weights.defined()) check_shape(weights.dim() == 1 && weights.size(0) == T, op, "weights", describe(weights), "[" + std::to_string(T) + "]");
  auto node = make_node<LossNode>(policy, {in.q_TJD, in.k_TD, in.gate_TJ}, false);
  reference::IndexerLoss out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    run_chosen<Loss>(op, kLoss, {in, target, indices, weights, coeff, packing, node != nullptr, &out}, policy);
  }
  if (node) node->dq = out.dq, node->dk = out.dk, node->d_gate = out.d_gate, node->type = in.q_TJD.scalar_type();
  return attach(node, out.loss);
}

}  // namespace weft::ops
