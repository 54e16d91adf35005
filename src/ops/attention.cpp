#include "ops/aten.h"

#include "ops/attention.h"

#include <cmath>

#include "kernels/attention/attention.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::AttentionBwd;
using kernels::AttentionFwd;

#ifdef WEFT_CUDA
using kernels::AttentionShape;

// Documents of one length: cuDNN takes them as a plain batch, which it is fastest at.
bool of_one_length(const AttentionShape& s) {
  if (s.host_kv_lens == nullptr) return false;
  for (int32_t d = 0; d < s.documents; ++d)
    if (s.host_cu_q[d + 1] - s.host_cu_q[d] != s.max_q || s.host_kv_lens[d] != s.max_kv) return false;
  return true;
}
bool narrow_window(const AttentionShape& s) { return s.left >= 0 && s.right >= 0 && int64_t{s.left} + s.right < s.max_kv / 4; }

// Whether the own wgmma kernels were measured ahead of cuDNN at such a row (decision 93).
kernels::Support ahead_of_cudnn(const AttentionFwd& a) {
  if (narrow_window(a.s) || !of_one_length(a.s) || a.s.dim == 192) return {};
  return {"behind cudnn where all documents have one length and no window is narrow"};
}
kernels::Support ahead_of_cudnn(const AttentionBwd& a) {
  const bool dense = of_one_length(a.s);
  if (narrow_window(a.s) || (!dense && a.s.tokens <= int64_t{1024} * a.s.documents) || (a.deterministic && (!dense || a.s.max_q <= 4096))) return {};
  return {"behind cudnn where documents are long and no window is narrow"};
}
// The same kernels stand before cuDNN and after it: first for the rows where they are ahead, then for all that they take.
template <class Args>
kernels::Support takes_first(const Args& a, const Policy& p, kernels::Support (*supports)(const Args&, const kernels::Device&)) {
  const kernels::Support s = supports(a, p.device);
  return s ? ahead_of_cudnn(a) : s;
}
#endif

constexpr Candidate<AttentionFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"decode_mma", on_device<kernels::supports_attention_decode_mma>,
     kernels::workspace_attention_decode_mma, kernels::attention_decode_mma},
    {"decode", on_device<kernels::supports_attention_decode_sm90>,
     kernels::workspace_attention_decode_sm90, kernels::attention_decode_sm90},
    {"wgmma", [](const AttentionFwd& a, const Policy& p) { return takes_first(a, p, kernels::supports_attention_fwd_wgmma); }, kernels::workspace_attention_fwd_wgmma,
     kernels::attention_fwd_wgmma},
    {"cudnn", [](const AttentionFwd& a, const Policy& p) { return (asks_only(p) ? kernels::limits_attention_fwd_cudnn : kernels::supports_attention_fwd_cudnn)(a, p.device); },
     kernels::workspace_attention_fwd_cudnn, kernels::attention_fwd_cudnn},
    {"wgmma", on_device<kernels::supports_attention_fwd_wgmma>,
     kernels::workspace_attention_fwd_wgmma, kernels::attention_fwd_wgmma},
    {"sm90", on_device<kernels::supports_attention_fwd_sm90>,
     kernels::workspace_attention_fwd_sm90, kernels::attention_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_attention_fwd_cpu>,
     kernels::workspace_attention_fwd_cpu, kernels::attention_fwd_cpu},
};
constexpr Candidate<AttentionBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"wgmma", [](const AttentionBwd& a, const Policy& p) { return takes_first(a, p, kernels::supports_attention_bwd_wgmma); }, kernels::workspace_attention_bwd_wgmma,
     kernels::attention_bwd_wgmma},
    {"cudnn", [](const AttentionBwd& a, const Policy& p) { return (asks_only(p) ? kernels::limits_attention_bwd_cudnn : kernels::supports_attention_bwd_cudnn)(a, p.device); },
     kernels::workspace_attention_bwd_cudnn, kernels::attention_bwd_cudnn},
    {"wgmma", on_device<kernels::supports_attention_bwd_wgmma>,
     kernels::workspace_attention_bwd_wgmma, kernels::attention_bwd_wgmma},
    {"sm90", on_device<kernels::supports_attention_bwd_sm90>,
     kernels::workspace_attention_bwd_sm90, kernels::attention_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_attention_bwd_cpu>,
     kernels::workspace_attention_bwd_cpu, kernels::attention_bwd_cpu},
};

// Lengths on the device and the host, alive while a kernel's arguments point to them.
struct Lengths {
  std::vector<int32_t> kv_lens, k_starts;  // host; on CUDA empty where only the device knows them: no sync
  at::Tensor device_starts;
  Lengths(const Packing& p, const AttentionOptions& o, bool on_cuda) {
    device_starts = o.key_starts;
    const bool known = !on_cuda || static_cast<int64_t>(p.host_kv_lens.size()) == p.documents();
    if (known) kv_lens = host_kv_lens(p);
    if (known && (!on_cuda || !device_starts.defined())) k_starts = host_key_starts(p, o);
    if (device_starts.defined()) return;
    device_starts = on_cuda ? at::cumsum(p.kv_lens, 0, at::kInt) - p.kv_lens : at::tensor(k_starts, at::kInt);
  }
  static const int32_t* pointer(const std::vector<int32_t>& v) { return v.empty() ? nullptr : v.data(); }
};

kernels::AttentionShape shape_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Packing& p, const AttentionOptions& o, const Lengths& l) {
  const auto i32 = [](int64_t n) { return static_cast<int32_t>(n); };
  return {p.cu_q.data_ptr<int32_t>(), p.kv_lens.data_ptr<int32_t>(), l.device_starts.data_ptr<int32_t>(),
          p.host_cu_q.data(), Lengths::pointer(l.kv_lens), Lengths::pointer(l.k_starts),
          q.size(0), k.size(0), q.stride(0), k.stride(0), v.stride(0),
          i32(p.documents()), i32(q.size(1)), i32(k.size(1)), i32(q.size(2)), i32(v.size(2)), p.max_q, p.max_kv,
          o.window_left, o.causal ? 0 : o.window_right,
          static_cast<float>(o.scale != 0 ? o.scale : 1 / std::sqrt(static_cast<double>(q.size(2)))), static_cast<float>(o.dropout), o.seed, dtype_of(q)};
}

at::Tensor heads_contiguous(const at::Tensor& x) {
  const bool ok = (x.size(2) <= 1 || x.stride(2) == 1) && (x.size(1) <= 1 || x.stride(1) == x.size(2));
  return ok ? x : x.contiguous();
}

struct AttentionNode final : Node {
  SavedTensor q, k, v;
  SavedTensor o;  // an output of this node
  at::Tensor lse;
  Packing packing;
  AttentionOptions options;

  variable_list apply(variable_list&& grads) override {
    const AttentionGrads g = attention_bwd(grads[0].contiguous(), unpack(q), unpack(k), unpack(v), unpack(o), lse, packing, options, policy);
    if (options.sinks != nullptr) options.sinks->accumulate(g.d_sinks);
    return {g.dq, g.dk, g.dv};
  }
};

void check(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Packing& p, const AttentionOptions& o) {
  const char* op = "attention";
  check_shape(q.dim() == 3 && k.dim() == 3 && v.dim() == 3, op, "q, k, v", describe(q) + ", " + describe(k) + ", " + describe(v), "three dims each");
  check_shape(k.size(2) == q.size(2), op, "dim of k", describe(k), std::to_string(q.size(2)));
  check_shape(k.size(1) > 0 && q.size(1) % k.size(1) == 0, op, "heads of q over heads of k", std::to_string(q.size(1)) + " over " + std::to_string(k.size(1)), "a whole number");
  check_shape(v.size(0) == k.size(0) && v.size(1) == k.size(1), op, "v", describe(v), "rows and heads of k " + describe(k));
  check_shape(k.scalar_type() == q.scalar_type() && v.scalar_type() == q.scalar_type(), op, "dtypes of k, v", describe(k) + ", " + describe(v), name(dtype_of(q)));
  check_shape(p.tokens() == q.size(0), op, "tokens of the packing", std::to_string(p.tokens()), std::to_string(q.size(0)));
  check_shape(p.kv_lens.defined() && p.kv_lens.dim() == 1 && p.kv_lens.size(0) == p.documents(), op, "kv_lens", describe(p.kv_lens), "[" + std::to_string(p.documents()) + "]");
  check_shape(o.dropout >= 0 && o.dropout < 1, op, "dropout", std::to_string(o.dropout), "in [0, 1)");
  if (o.sinks != nullptr) check_shape(o.sinks->value.dim() == 1 && o.sinks->value.size(0) == q.size(1), op, "sinks", describe(o.sinks->value), "[" + std::to_string(q.size(1)) + "]");
  if (!q.is_cpu() && (static_cast<int64_t>(p.host_kv_lens.size()) != p.documents() || o.key_starts.defined())) return;  // only the device knows them
  const std::vector<int32_t> lens = host_kv_lens(p), starts = host_key_starts(p, o);
  check_shape(static_cast<int64_t>(starts.size()) == p.documents(), op, "key_starts", std::to_string(starts.size()), std::to_string(p.documents()));
  for (size_t d = 0; d < lens.size(); ++d)
    check_shape(starts[d] >= 0 && lens[d] >= 0 && int64_t{starts[d]} + lens[d] <= k.size(0), op, "keys of a document",
                std::to_string(starts[d]) + " + " + std::to_string(lens[d]), "within " + std::to_string(k.size(0)) + " rows of k");
}

}  // namespace

AttentionGrads attention_bwd(const at::Tensor& d_o, const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in, const at::Tensor& o,
                             const at::Tensor& lse, const Packing& packing, const AttentionOptions& options, const Policy& policy) {
  const at::Tensor q = heads_contiguous(q_in), k = heads_contiguous(k_in), v = heads_contiguous(v_in);
  const Lengths lengths(packing, options, q.is_cuda());
  AttentionBwd a{shape_of(q, k, v, packing, options, lengths), q.data_ptr(), k.data_ptr(), v.data_ptr(), o.data_ptr(), d_o.data_ptr(),
                 nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, policy.deterministic};
  at::Tensor sinks;
  AttentionGrads g;
  if (options.sinks != nullptr) {
    sinks = options.sinks->value.to(at::kFloat).contiguous();
    g.d_sinks = at::zeros({q.size(1)}, sinks.options());
    a.sinks = sinks.data_ptr<float>(), a.d_sinks = g.d_sinks.data_ptr<float>();
  }
  const auto* c = select<AttentionBwd>("attention_bwd", kBwd, a, policy);
  if (c == nullptr) return reference::attention_bwd(d_o, q, k, v, o, lse, packing, options);
  const auto plain = [](const at::Tensor& t) { return at::empty(t.sizes(), t.options().requires_grad(false)); };
  g.dq = plain(q), g.dk = plain(k), g.dv = plain(v);
  a.lse = lse.data_ptr<float>(), a.dq = g.dq.data_ptr(), a.dk = g.dk.data_ptr(), a.dv = g.dv.data_ptr();
  run(*c, a, q);
  return g;
}

AttentionOut attention(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in, const Packing& packing, const AttentionOptions& options, const Policy& policy) {
  check(q_in, k_in, v_in, packing, options);
  auto node = make_node<AttentionNode>(policy, {q_in, k_in, v_in}, options.sinks != nullptr && options.sinks->wants_grad());
  AttentionOut out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor q = heads_contiguous(q_in), k = heads_contiguous(k_in), v = heads_contiguous(v_in);
    const Lengths lengths(packing, options, q.is_cuda());
    AttentionFwd a{shape_of(q, k, v, packing, options, lengths), q.data_ptr(), k.data_ptr(), v.data_ptr(), nullptr, nullptr, nullptr, nullptr};
    const auto f32 = q.options().dtype(at::kFloat).requires_grad(false);
    at::Tensor sinks;  // what a candidate may refuse is set before it is asked
    if (options.sinks != nullptr) sinks = options.sinks->value.to(at::kFloat).contiguous(), a.sinks = sinks.data_ptr<float>();
    if (options.max_logit) out.max_logit_H = at::empty({q.size(1)}, f32), a.max_logit = out.max_logit_H.data_ptr<float>();
    const auto* c = select<AttentionFwd>("attention", kFwd, a, policy);
    if (c == nullptr) {
      out = reference::attention(q, k, v, packing, options);
      if (!options.max_logit) out.max_logit_H = at::Tensor();
    } else {
      out.o_THV = at::empty({q.size(0), q.size(1), v.size(2)}, q.options().requires_grad(false));
      out.lse_TH = at::empty({q.size(0), q.size(1)}, f32);
      a.o = out.o_THV.data_ptr(), a.lse = out.lse_TH.data_ptr<float>();
      run(*c, a, q);
    }
  }
  if (node) {
    node->q = save(q_in), node->k = save(k_in), node->v = save(v_in);
    node->lse = out.lse_TH, node->packing = packing, node->options = options;
    out.o_THV = attach(node, out.o_THV);
    node->o = SavedTensor(out.o_THV, /*is_output=*/true);
  }
  return out;
}

}  // namespace weft::ops
