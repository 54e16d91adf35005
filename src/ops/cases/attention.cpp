#include "ops/aten.h"

#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "ops/cases/modes.h"
#include "ops/cases/rows.h"
#include "ops/tensors.h"

namespace weft::ops::cases {
namespace {

struct Row {
  std::string name;
  std::vector<int32_t> queries, prefix;  // prefix: cached keys before each document's queries; empty: none
  int64_t heads, groups, dim, dim_v;
  AttentionOptions options;
  bool sinks, large;
  bool backward_never = false;  // decoding
};

// p v, where the backward takes delta = sum_j p_j dp_j as o . do from the stored, rounded output (Dao 2023, eq. 4): p holds the
// log-sum-exp fixed, and what flows through it enters as a term of value zero. `logits` may end with a column of the sinks.
at::Tensor from_stored_output(const at::Tensor& logits, const at::Tensor& v_HmV) {
  const at::Tensor z = logits.to(wide(logits)), lse = at::logsumexp(z, {2}, true);
  const at::Tensor p = at::exp(z.narrow(2, 0, v_HmV.size(1)) - lse.detach()).to(logits.scalar_type());
  const at::Tensor o = at::matmul(p, v_HmV).to(z.scalar_type());
  return (o + o.detach() * (lse.detach() - lse)).to(logits.scalar_type());
}

// As written with matmul and softmax, document by document.
std::vector<at::Tensor> plain_attention(const Row& r, const std::vector<int32_t>& lens, const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w,
                                        bool stored_output) {
  const double scale = r.options.scale != 0 ? r.options.scale : 1 / std::sqrt(static_cast<double>(r.dim));
  std::vector<at::Tensor> out;
  at::Tensor top;
  int64_t q0 = 0, k0 = 0;
  for (size_t d = 0; d < lens.size(); q0 += r.queries[d], k0 += lens[d], ++d) {
    const int64_t n = r.queries[d], m = lens[d];
    const auto heads = [&](const at::Tensor& t) { return t.narrow(0, k0, m).repeat_interleave(r.heads / r.groups, 1).transpose(0, 1); };
    at::Tensor s = at::matmul(x[0].narrow(0, q0, n).transpose(0, 1), heads(x[1]).transpose(1, 2)) * scale;
    const at::Tensor i = at::arange(n, s.device()).unsqueeze(1) + (m - n), j = at::arange(m, s.device()).unsqueeze(0);
    at::Tensor hidden = at::zeros({n, m}, s.options().dtype(at::kBool).requires_grad(false));
    const int32_t right = r.options.causal ? 0 : r.options.window_right;
    if (right >= 0) hidden = hidden.logical_or(j > i + right);
    if (r.options.window_left >= 0) hidden = hidden.logical_or(j < i - r.options.window_left);
    s = s.masked_fill(hidden, -std::numeric_limits<double>::infinity());
    if (r.options.max_logit) top = top.defined() ? at::maximum(top, s.detach().amax({1, 2})) : s.detach().amax({1, 2});
    if (r.sinks) s = at::cat({s, w[0].view({r.heads, 1, 1}).expand({r.heads, n, 1})}, 2);
    out.push_back((stored_output ? from_stored_output(s, heads(x[2])) : at::matmul(at::softmax(s, -1).narrow(2, 0, m), heads(x[2]))).transpose(0, 1));
  }
  std::vector<at::Tensor> all{at::cat(out, 0)};
  if (r.options.max_logit) all.push_back(top.to(at::kFloat));
  return all;
}

double visible_pairs(const Row& r, const std::vector<int32_t>& lens) {
  double pairs = 0;
  for (size_t d = 0; d < lens.size(); ++d)
    for (int32_t q = 0; q < r.queries[d]; ++q) {
      const int32_t at = q + lens[d] - r.queries[d], right = r.options.causal ? 0 : r.options.window_right;
      pairs += std::max(0, (right < 0 ? lens[d] : std::min(lens[d], at + right + 1)) - (r.options.window_left < 0 ? 0 : std::max(0, at - r.options.window_left)));
    }
  return pairs;
}

// The library's own op where it has one: documents of one length, no window, no sinks.
void add_peer(const Row& r, const std::vector<int32_t>& lens, Instance& i) {
  const int64_t n = r.queries[0], m = lens[0], documents = static_cast<int64_t>(lens.size());
  for (size_t d = 0; d < lens.size(); ++d)
    if (r.queries[d] != n || lens[d] != m) return;
  if (r.options.window_left >= 0 || r.options.window_right >= 0 || r.sinks || (r.options.causal && n != m && n != 1)) return;
  const auto batch = [documents](const at::Tensor& t, int64_t rows) { return t.view({documents, rows, t.size(1), t.size(2)}).transpose(1, 2); };
  const bool causal = r.options.causal && n == m, grouped = r.heads != r.groups;
  i.peer = "scaled_dot_product_attention";
  i.peer_op = [=](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>&) {
    return std::vector<at::Tensor>{at::scaled_dot_product_attention(batch(x[0], n), batch(x[1], m), batch(x[2], m), {}, 0, causal, std::nullopt, grouped)};
  };
}

Case attention_row(const Row& r) {
  Case c{"attention", r.name, {at::kFloat, at::kBFloat16}, [=](const Build& b) {
           at::manual_seed(b.seed);
           Packing packing = Packing::of(r.queries, b.device);
           std::vector<int32_t> lens = r.queries;
           for (size_t d = 0; d < r.prefix.size(); ++d) lens[d] += r.prefix[d], packing.max_kv = std::max(packing.max_kv, lens[d]);
           packing.kv_lens = at::tensor(lens, at::kInt).to(packing.cu_q.device()), packing.host_kv_lens = lens;
           const int64_t T = packing.tokens(), S = std::accumulate(lens.begin(), lens.end(), int64_t{0});
           const auto options = at::TensorOptions().dtype(b.dtype).device(b.device);
           Instance i;
           i.inputs = {at::randn({T, r.heads, r.dim}, options), at::randn({S, r.groups, r.dim}, options), at::randn({S, r.groups, r.dim_v}, options)};
           if (r.sinks) i.weights.push_back({"sinks", at::randn({r.heads}, options), {}});
           i.op = [=](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             AttentionOptions o = r.options;
             if (r.sinks) o.sinks = &w[0];
             const AttentionOut out = attention(x[0], x[1], x[2], packing, o, p);
             std::vector<at::Tensor> all{out.o_THV};
             if (o.max_logit) all.push_back(out.max_logit_H);
             return all;
           };
           const auto plain = [=](bool stored_output) -> Instance::Plain {
             return [=](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) { return plain_attention(r, lens, x, w, stored_output); };
           };
           if (r.options.dropout == 0) i.plain = plain(false), i.libraries = {"cudnn", "wgmma"}, i.plain_of_library = plain(true);
           const double pairs = visible_pairs(r, lens);
           const double work = pairs * static_cast<double>(r.heads * (r.dim + r.dim_v)), bytes = static_cast<double>(i.inputs[0].element_size());
           const double moved = bytes * static_cast<double>(T * r.heads * (r.dim + r.dim_v) + S * r.groups * (r.dim + r.dim_v));
           i.cost = {2 * work, moved, 5 * work, 2 * moved};
           if (r.backward_never) i.cost.bwd_flops = i.cost.bwd_bytes = 0;
           if (r.large) add_peer(r, lens, i);
           if (r.large && !i.peer_op && !r.sinks && !r.backward_never && b.device.is_cuda()) {  // no op of the tensor library to compare with: the candidate behind the first one
             i.peer = "cudnn";
             i.peer_op = [=](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>&) {
               Policy library = policy_on(b.device);
               library.only = "cudnn";
               return std::vector<at::Tensor>{attention(x[0], x[1], x[2], packing, r.options, library).o_THV};
             };
           }
           return i;
         }};
  c.grad = !r.large, c.perf = r.large, c.check = !r.large;
  c.atol = 2e-5;
  if (r.large && r.queries.size() >= 4) c.dtypes = {at::kBFloat16};  // of training and serving at full size
  if (r.options.dropout > 0) c.dtypes = {at::kFloat};  // the mask is ours: no plain expression to measure bf16 against
  if (r.options.max_logit) c.grad = false, c.grad_why_not = "the maximum logit is a statistic: no gradient flows through it";
  return c;
}

}  // namespace

std::vector<Case> attention_cases() {
  AttentionOptions causal, full, window, scaled, dropped;
  full.causal = false;
  window.window_left = 3;
  scaled.scale = 0.3, scaled.max_logit = true;
  dropped.dropout = 0.25, dropped.seed = 17;
  AttentionOptions band = full;
  band.window_left = 2, band.window_right = 1;
  AttentionOptions window_20, logit, window_512;
  window_20.window_left = 20, logit.max_logit = true, window_512.window_left = 511;
  std::vector<int32_t> mixed;  // eight rows of 4096
  for (int i = 0; i < 8; ++i) mixed.insert(mixed.end(), {1500, 300, 900, 700, 600, 96});
  AttentionOptions wide_window;
  wide_window.window_left = 100;
  const std::vector<Case> rows = {attention_row({"packed 1+9+5", {1, 9, 5}, {}, 4, 2, 6, 6, causal, false, false}),
          attention_row({"one token", {1}, {}, 1, 1, 1, 1, causal, false, false}),
          attention_row({"no token", {0}, {}, 2, 1, 4, 4, causal, false, false}),
          attention_row({"empty document", {3, 0, 2}, {}, 2, 2, 4, 3, causal, false, false}),
          attention_row({"full 5+3", {5, 3}, {}, 3, 1, 5, 7, full, false, false}),
          attention_row({"band 9", {9}, {}, 2, 1, 4, 4, band, false, false}),
          attention_row({"window 3 sinks", {11, 4}, {}, 4, 2, 6, 6, window, true, false}),
          attention_row({"prefix", {1, 4}, {6, 3}, 2, 1, 6, 6, causal, false, false}),
          attention_row({"prefix window sinks", {2, 10}, {12, 3}, 4, 2, 6, 6, window, true, false}),
          attention_row({"scale max logit", {7, 2}, {}, 2, 2, 6, 6, scaled, false, false}),
          attention_row({"dropout", {12, 9}, {}, 2, 1, 6, 6, dropped, false, false}),
          attention_row({"64+65+130 d64", {64, 65, 130}, {}, 4, 2, 64, 64, causal, false, false}),
          attention_row({"300 d40/24 window 100", {300}, {}, 2, 1, 40, 24, wide_window, true, false}),
          attention_row({"mla 192/128", {70, 33}, {}, 2, 2, 192, 128, causal, false, false}),
          attention_row({"nam56r 128/64", {97}, {}, 2, 2, 128, 64, causal, false, false}),
          attention_row({"130+70+3 d128 1 key head", {130, 70, 3}, {}, 4, 1, 128, 128, causal, false, false}),
          attention_row({"2x96 d64", {96, 96}, {}, 2, 2, 64, 64, causal, false, false}),
          attention_row({"d256", {70, 33}, {}, 2, 1, 256, 256, causal, false, false}),
          attention_row({"prefix d64 window 20", {50, 7}, {33, 90}, 2, 1, 64, 64, window_20, false, false}),
          attention_row({"full d64", {70, 33}, {}, 2, 2, 64, 64, full, false, false}),
          attention_row({"d64 max logit", {70, 33}, {}, 2, 2, 64, 64, logit, false, false}),
          attention_row({"d64 sinks", {70, 33}, {}, 4, 2, 64, 64, causal, true, false}),
          attention_row({"decode d128", {1, 1, 1, 1}, {300, 0, 129, 64}, 8, 2, 128, 128, causal, false, false}),
          attention_row({"decode 128/64 window sinks", {1, 3}, {90, 70}, 4, 4, 128, 64, window_20, true, false}),
          attention_row({"4096 h32/8 d128", {4096}, {}, 32, 8, 128, 128, causal, false, true}),
          attention_row({"1024 h12 d64", {1024}, {}, 12, 12, 64, 64, causal, false, true}),
          attention_row({"4x256 h12 d64", {256, 256, 256, 256}, {}, 12, 12, 64, 64, causal, false, true}),
          attention_row({"8x4096 h32 d128", std::vector<int32_t>(8, 4096), {}, 32, 32, 128, 128, causal, false, true}),
          attention_row({"4x8192 h32/8 d128", std::vector<int32_t>(4, 8192), {}, 32, 8, 128, 128, causal, false, true}),
          attention_row({"8x4096 h32 d128 window 512", std::vector<int32_t>(8, 4096), {}, 32, 32, 128, 128, window_512, false, true}),
          attention_row({"48 documents of 96-1500 h32 d128", mixed, {}, 32, 32, 128, 128, causal, false, true}),
          attention_row({"48 documents of 96-1500 h32 128/64", mixed, {}, 32, 32, 128, 64, causal, false, true}),
          attention_row({"4x4096 h16/4 d256", std::vector<int32_t>(4, 4096), {}, 16, 4, 256, 256, causal, false, true}),
          attention_row({"decode 64x4096 h32/8 d128", std::vector<int32_t>(64, 1), std::vector<int32_t>(64, 4095), 32, 8, 128, 128, causal, false, true, true}),
          attention_row({"decode 1x32768 h32/8 d128", {1}, {32767}, 32, 8, 128, 128, causal, false, true, true}),
          attention_row({"8x4096 h32 192/128", std::vector<int32_t>(8, 4096), {}, 32, 32, 192, 128, causal, false, true}),
          attention_row({"8x4096 h32 128/64", std::vector<int32_t>(8, 4096), {}, 32, 32, 128, 64, causal, false, true})};
  std::vector<Case> all;
  for (const Case& c : rows) {
    if (!c.check || c.dtypes.size() < 2) all.push_back(c);
    else for (const Case& each : by_dtype({c}, kHalfUnitBf16)) all.push_back(each);
  }
  return all;
}

}  // namespace weft::ops::cases
