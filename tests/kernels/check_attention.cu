// Attention, forward and backward of every CUDA candidate against plain fp64 loops.
#include <limits>

#include "harness.h"
#include "kernels/attention/attention.h"

namespace weft::check {
namespace {

using kernels::AttentionBwd;
using kernels::AttentionFwd;

struct Candidate {
  const char* name;
  kernels::Support (*supports_fwd)(const AttentionFwd&, const kernels::Device&);
  size_t (*workspace_fwd)(const AttentionFwd&);
  void (*fwd)(const AttentionFwd&, const kernels::Launch&);
  kernels::Support (*supports_bwd)(const AttentionBwd&, const kernels::Device&);
  size_t (*workspace_bwd)(const AttentionBwd&);
  void (*bwd)(const AttentionBwd&, const kernels::Launch&);
};
const Candidate kAll[] = {
    {"sm90", kernels::supports_attention_fwd_sm90, kernels::workspace_attention_fwd_sm90, kernels::attention_fwd_sm90, kernels::supports_attention_bwd_sm90,
     kernels::workspace_attention_bwd_sm90, kernels::attention_bwd_sm90},
    {"wgmma", kernels::supports_attention_fwd_wgmma, kernels::workspace_attention_fwd_wgmma, kernels::attention_fwd_wgmma, kernels::supports_attention_bwd_wgmma,
     kernels::workspace_attention_bwd_wgmma, kernels::attention_bwd_wgmma},
#if !defined(WEFT_EMULATE)
    {"cudnn", kernels::supports_attention_fwd_cudnn, kernels::workspace_attention_fwd_cudnn, kernels::attention_fwd_cudnn,
     kernels::supports_attention_bwd_cudnn, kernels::workspace_attention_bwd_cudnn, kernels::attention_bwd_cudnn},
#endif
};
const Candidate kDecode{"decode", kernels::supports_attention_decode_sm90, kernels::workspace_attention_decode_sm90, kernels::attention_decode_sm90, nullptr, nullptr, nullptr};
const Candidate kDecodeMma{"decode_mma", kernels::supports_attention_decode_mma, kernels::workspace_attention_decode_mma, kernels::attention_decode_mma, nullptr, nullptr, nullptr};
bool of_decode_mma(int dim, int dim_v) { return (dim == dim_v && (dim == 64 || dim == 128 || dim == 256)) || (dim == 128 && dim_v == 64) || (dim == 192 && dim_v == 128); }

struct Case {
  const char* name;
  std::vector<int> queries, keys;  // keys empty: as queries
  int H, G, D, V, left = -1, right = 0;
  bool sinks = false, max_logit = false;
  float dropout = 0;
  int room = 0;  // rows of keys between documents that belong to none
  bool deterministic = false;
  float sharp = 1;  // times the logits of normal q and k: maxima that grow along the keys
};

struct Problem {
  Case c;
  std::vector<int32_t> cu, lens, starts;
  int64_t T, S;
  double scale;
  uint64_t seed = 77;
  explicit Problem(const Case& cc) : c(cc), cu(packed(cc.queries)) {
    if (c.keys.empty()) c.keys = c.queries;
    int32_t next = 0;
    for (int n : c.keys) lens.push_back(n), starts.push_back(next), next += n + c.room;
    T = cu.back(), S = next, scale = 1 / std::sqrt(static_cast<double>(c.D));
  }
};

template <class T>
T not_a_number() {
  if constexpr (std::is_same_v<T, bf16>) return __float2bfloat16(NAN); else return NAN;
}

constexpr float kSinksBefore = 0.75f;  // in d_sinks, which every candidate adds to

struct Reference {
  std::vector<double> o, lse, max_logit, dq, dk, dv, d_sinks;
};

Reference reference(const Problem& p, const std::vector<double>& q, const std::vector<double>& k, const std::vector<double>& v, const std::vector<double>& d_o,
                    const std::vector<double>& sinks) {
  const Case& c = p.c;
  const int H = c.H, G = c.G, D = c.D, V = c.V;
  const double ninf = -std::numeric_limits<double>::infinity();
  Reference r;
  r.o.resize(p.T * H * V), r.lse.assign(p.T * H, ninf), r.max_logit.assign(H, ninf), r.d_sinks.resize(H);
  r.dq.resize(p.T * H * D), r.dk.resize(p.S * G * D), r.dv.resize(p.S * G * V);
  const auto threshold = static_cast<uint32_t>(static_cast<double>(c.dropout) * 4294967296.0);
  for (size_t d = 0; d < p.lens.size(); ++d)
    for (int h = 0; h < H; ++h)
      for (int i = 0; i < c.queries[d]; ++i) {
        const int64_t t = p.cu[d] + i, n = p.lens[d], g = h / (H / G);
        const int at = i + static_cast<int>(n) - c.queries[d];
        std::vector<double> s(n, ninf), keep(n, 1);
        double top = c.sinks ? sinks[h] : ninf;
        for (int j = 0; j < n; ++j) {
          if ((c.right >= 0 && j > at + c.right) || (c.left >= 0 && j < at - c.left)) continue;
          double sum = 0;
          for (int x = 0; x < D; ++x) sum += q[(t * H + h) * D + x] * k[((p.starts[d] + j) * G + g) * D + x];
          s[j] = sum * p.scale, top = std::max(top, s[j]), r.max_logit[h] = std::max(r.max_logit[h], s[j]);
          if (c.dropout > 0)
            keep[j] = kernels::attention_hash(kernels::attention_head_seed(p.seed, h), static_cast<uint32_t>(t), static_cast<uint32_t>(p.starts[d] + j)) < threshold ? 0 : 1 / (1 - c.dropout);
        }
        if (top == ninf) continue;
        double total = c.sinks ? std::exp(sinks[h] - top) : 0;
        for (double x : s) total += std::exp(x - top);
        const double lse = top + std::log(total);
        r.lse[t * H + h] = lse;
        double delta = 0;
        for (int x = 0; x < V; ++x) {
          double sum = 0;
          for (int j = 0; j < n; ++j) sum += std::exp(s[j] - lse) * keep[j] * v[((p.starts[d] + j) * G + g) * V + x];
          r.o[(t * H + h) * V + x] = sum, delta += sum * d_o[(t * H + h) * V + x];
        }
        if (c.sinks) r.d_sinks[h] -= std::exp(sinks[h] - lse) * delta;
        for (int j = 0; j < n; ++j) {
          const double pr = std::exp(s[j] - lse);
          if (pr == 0) continue;
          double dp = 0;
          for (int x = 0; x < V; ++x) {
            dp += d_o[(t * H + h) * V + x] * v[((p.starts[d] + j) * G + g) * V + x];
            r.dv[((p.starts[d] + j) * G + g) * V + x] += pr * keep[j] * d_o[(t * H + h) * V + x];
          }
          const double ds = pr * (dp * keep[j] - delta) * p.scale;
          for (int x = 0; x < D; ++x) {
            r.dq[(t * H + h) * D + x] += ds * k[((p.starts[d] + j) * G + g) * D + x];
            r.dk[((p.starts[d] + j) * G + g) * D + x] += ds * q[(t * H + h) * D + x];
          }
        }
      }
  return r;
}

// Where the true gradient is zero a relative error says nothing: what is left must be rounding.
template <class T>
void compare_gradient(const std::string& row, const std::vector<T>& got, const std::vector<double>& want, double relative, double worst) {
  double largest = 0, most = 0;
  for (size_t i = 0; i < want.size(); ++i) largest = std::max(largest, std::abs(want[i])), most = std::max(most, std::abs(static_cast<double>(value(got[i]))));
  if (largest < 1e-9) expect(row, most < 1e-5 || (!std::is_same_v<T, float> && most < 2e-2), "zero, got " + std::to_string(most));
  else compare(row, got, want, relative, worst);
}

// Runs `body` out of a CUDA graph; on the host emulation just so.
template <class Body>
void replay(const Body& body) {
#if defined(WEFT_EMULATE)
  body(nullptr);
#else
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  body(stream);
  must(cudaStreamEndCapture(stream, &graph), "end of capture");
  must(cudaGraphInstantiate(&exec, graph, 0), "graph");
  must(cudaGraphLaunch(exec, stream), "launch of the graph");
  must(cudaStreamSynchronize(stream), "graph");
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
#endif
}

template <class T>
void check(const Candidate& candidate, const Case& c, bool must_take) {
  constexpr bool kWide = std::is_same_v<T, float>;
  const Problem p(c);
  Random random(c.H * 131 + p.T + c.D);
  const int64_t H = c.H, G = c.G, D = c.D, V = c.V, T_ = p.T, S = p.S;
  const auto q = random.normal<T>(T_ * H * D, c.sharp), d_o = random.normal<T>(T_ * H * V);
  auto k = random.normal<T>(S * G * D), v = random.normal<T>(S * G * V);
  const auto sinks = random.normal<float>(H);
  const Reference want = reference(p, wide(q), wide(k), wide(v), wide(d_o), wide(sinks));
  if (std::string(candidate.name) != "cudnn") {  // NaN in keys of no document changes nothing
    for (size_t d = 0; d < p.lens.size(); ++d)
      for (int64_t row = p.starts[d] + p.lens[d], end = d + 1 < p.lens.size() ? p.starts[d + 1] : S; row < end; ++row) {
        std::fill_n(k.begin() + row * G * D, G * D, not_a_number<T>());
        std::fill_n(v.begin() + row * G * V, G * V, not_a_number<T>());
      }
  }
  Buffer<T> gq(q), gk(k), gv(v), gdo(d_o), o(T_ * H * V), dq(T_ * H * D), dk(S * G * D), dv(S * G * V);
  Buffer<float> gs(sinks), lse(T_ * H), top(H), d_sinks(std::vector<float>(static_cast<size_t>(H), kSinksBefore));
  Buffer<int32_t> cu(p.cu), lens(p.lens), starts(p.starts);
  const int max_q = *std::max_element(p.c.queries.begin(), p.c.queries.end()), max_kv = *std::max_element(p.c.keys.begin(), p.c.keys.end());
  const kernels::AttentionShape shape{cu.data, lens.data, starts.data, p.cu.data(), p.lens.data(), p.starts.data(), T_, S, H * D, G * D, G * V,
                                      static_cast<int32_t>(p.lens.size()), c.H, c.G, c.D, c.V, max_q, max_kv, c.left, c.right, static_cast<float>(p.scale), c.dropout, p.seed,
                                      kWide ? DType::kF32 : DType::kBf16};
  const std::string name = std::string("attention ") + candidate.name + (kWide ? " f32 " : " bf16 ") + c.name + " ";
  const double rel = kWide ? 2e-6 : 1e-2, worst = kWide ? 2e-5 : 5e-2;
  const AttentionFwd f{shape, gq.data, gk.data, gv.data, c.sinks ? gs.data : nullptr, o.data, lse.data, c.max_logit ? top.data : nullptr};
  if (const auto s = candidate.supports_fwd(f, device()); !s) {
    must_take ? expect(name, false, s.refusal) : (void)std::printf("refused %s: %s\n", name.c_str(), s.refusal);
    return;
  }
  Buffer<uint8_t> workspace(candidate.workspace_fwd == nullptr ? 0 : candidate.workspace_fwd(f));
  candidate.fwd(f, {nullptr, workspace.data});
  device_wait("attention");
  compare(name + "o", o.host(), want.o, rel, worst);
  std::vector<double> finite = want.lse;
  auto got = lse.host();
  for (size_t i = 0; i < finite.size(); ++i)
    if (std::isinf(finite[i]) && std::isinf(got[i])) finite[i] = got[i] = 0;
  compare(name + "lse", got, finite, kWide ? 2e-6 : 1e-4, kWide ? 1e-5 : 1e-3);
  if (c.max_logit) compare(name + "max_logit", top.host(), want.max_logit, kWide ? 2e-6 : 1e-4, 1e-3);
  const auto direct = o.host();
  o.poison();
  replay([&](cudaStream_t stream) { candidate.fwd(f, {stream, workspace.data}); });
  const auto replayed = o.host();
  expect(name + "o out of a graph", std::memcmp(direct.data(), replayed.data(), direct.size() * sizeof(T)) == 0);
  if (candidate.supports_bwd == nullptr) return;
  const AttentionBwd b{shape, gq.data, gk.data, gv.data, o.data, gdo.data, lse.data, f.sinks, dq.data, dk.data, dv.data, c.sinks ? d_sinks.data : nullptr, c.deterministic};
  if (const auto s = candidate.supports_bwd(b, device()); !s) {
    must_take && !(c.D == 192 && std::string(candidate.name) == "wgmma") ? expect(name + "bwd", false, s.refusal) : (void)std::printf("refused %sbwd: %s\n", name.c_str(), s.refusal);
    return;
  }
  // Own kernels round a gradient once, at its end: 2^-8 of it at most. The library reads the output, which was rounded before.
  const bool once = !kWide && std::string(candidate.name) == "sm90";
  const double rel_bwd = once ? 2e-3 : 2 * rel, worst_bwd = once ? 4e-3 : 2 * worst;
  Buffer<uint8_t> workspace_bwd(candidate.workspace_bwd == nullptr ? 0 : candidate.workspace_bwd(b));
  candidate.bwd(b, {nullptr, workspace_bwd.data});
  device_wait("attention_bwd");
  compare_gradient(name + "dq", dq.host(), want.dq, rel_bwd, worst_bwd);
  compare_gradient(name + "dk", dk.host(), want.dk, rel_bwd, worst_bwd);
  compare_gradient(name + "dv", dv.host(), want.dv, rel_bwd, worst_bwd);
  std::vector<double> sums = want.d_sinks;  // added to what was there
  for (double& x : sums) x += kSinksBefore;
  if (c.sinks) compare(name + "d_sinks", d_sinks.host(), sums, once ? 1e-4 : 2 * rel, once ? 1e-4 : 2 * worst);
  dk.poison(), dv.poison(), dq.poison();
  replay([&](cudaStream_t stream) { candidate.bwd(b, {stream, workspace_bwd.data}); });
  compare_gradient(name + "dk out of a graph", dk.host(), want.dk, rel_bwd, worst_bwd);
  compare_gradient(name + "dq out of a graph", dq.host(), want.dq, rel_bwd, worst_bwd);
  if (!c.deterministic) return;
  const auto first = dq.host();
  bool same = true;
  for (int run = 0; run < 3; ++run) {
    candidate.bwd(b, {nullptr, workspace_bwd.data});
    device_wait("attention_bwd");
    const auto again = dq.host();
    same = same && std::memcmp(first.data(), again.data(), first.size() * sizeof(T)) == 0;
  }
  expect(name + "the same bits again", same);
}

}  // namespace

namespace {
// A document of NaN between two others: their results are the same to the bit.
void check_neighbours(const Candidate& candidate, int H, int G, int D, int V) {
  const Case c{"neighbours", {70, 45, 130}, {90, 45, 130}, H, G, D, V, 100, 0};
  const Problem p(c);
  Random random(D + V);
  const int64_t T = p.T, S = p.S;
  const std::vector<bf16> inputs[4] = {random.normal<bf16>(T * H * D), random.normal<bf16>(S * G * D), random.normal<bf16>(S * G * V), random.normal<bf16>(T * H * V)};
  const int64_t width[4] = {int64_t{H} * D, int64_t{G} * D, int64_t{G} * V, int64_t{H} * V};
  Buffer<int32_t> cu(p.cu), lens(p.lens), starts(p.starts);
  const kernels::AttentionShape shape{cu.data, lens.data, starts.data, p.cu.data(), p.lens.data(), p.starts.data(), T, S, width[0], width[1], width[2], 3, H, G, D, V, 130, 130,
                                      c.left, c.right, static_cast<float>(p.scale), 0, 0, DType::kBf16};
  std::vector<std::vector<uint8_t>> first;
  bool same = true;
  for (const bool nan : {false, true}) {
    std::vector<bf16> in[4] = {inputs[0], inputs[1], inputs[2], inputs[3]};
    for (int i = 0; i < 4 && nan; ++i) {
      const int64_t begin = i == 0 || i == 3 ? p.cu[1] : p.starts[1];
      std::fill_n(in[i].begin() + begin * width[i], 45 * width[i], not_a_number<bf16>());
    }
    Buffer<bf16> q(in[0]), k(in[1]), v(in[2]), d_o(in[3]), o(T * width[3]), dq(T * width[0]), dk(S * width[1]), dv(S * width[2]);
    Buffer<float> lse(T * H);
    const AttentionFwd f{shape, q.data, k.data, v.data, nullptr, o.data, lse.data, nullptr};
    Buffer<uint8_t> wf(candidate.workspace_fwd(f));
    candidate.fwd(f, {nullptr, wf.data});
    const AttentionBwd b{shape, q.data, k.data, v.data, o.data, d_o.data, lse.data, nullptr, dq.data, dk.data, dv.data, nullptr, true};
    const bool backward = static_cast<bool>(candidate.supports_bwd(b, device()));
    Buffer<uint8_t> wb(backward ? candidate.workspace_bwd(b) : 0);
    if (backward) candidate.bwd(b, {nullptr, wb.data});
    device_wait("attention");
    std::vector<std::vector<uint8_t>> got;
    const auto others = [&](const auto& buffer, int64_t row_bytes, int64_t begin, int64_t end, int64_t rows) {  // rows of the first and last document
      const auto host = buffer.host();
      const auto* bytes = reinterpret_cast<const uint8_t*>(host.data());
      got.emplace_back(bytes, bytes + begin * row_bytes);
      got.emplace_back(bytes + end * row_bytes, bytes + rows * row_bytes);
    };
    others(o, width[3] * 2, p.cu[1], p.cu[2], T), others(lse, H * 4, p.cu[1], p.cu[2], T);
    if (backward) others(dq, width[0] * 2, p.cu[1], p.cu[2], T), others(dk, width[1] * 2, p.starts[1], p.starts[2], S), others(dv, width[2] * 2, p.starts[1], p.starts[2], S);
    if (nan) same = got == first; else first = got;
  }
  expect(std::string("attention ") + candidate.name + " NaN in a neighbour " + std::to_string(D) + "/" + std::to_string(V), same);
}

bool of_wgmma(const Case& c) {
  const bool dims = (c.D == 64 && c.V == 64) || (c.D == 128 && (c.V == 128 || c.V == 64)) || (c.D == 192 && c.V == 128);
  return dims && c.dropout == 0;
}
}  // namespace

void check_attention(bool small) {
  const std::vector<Case> all{
      {"packed 1 9 5", {1, 9, 5}, {}, 4, 2, 64, 64},
      {"dense 2x128", {128, 128}, {}, 4, 2, 64, 64},
      {"dense 2x128 deterministic", {128, 128}, {}, 4, 2, 64, 64, -1, 0, false, false, 0, 0, true},
      {"dense max logit", {96, 96}, {}, 2, 2, 64, 64, -1, 0, false, true},
      {"packed 130 70 3 d128", {130, 70, 3}, {}, 4, 1, 128, 128},
      {"packed deterministic", {130, 70, 3}, {}, 4, 1, 128, 128, -1, 0, false, false, 0, 0, true},
      {"packed max logit", {70, 33}, {}, 2, 2, 64, 64, -1, 0, false, true},
      {"empty document", {3, 0, 66}, {}, 2, 2, 64, 64},
      {"full 70 33", {70, 33}, {}, 3, 1, 64, 64, -1, -1},
      {"prefix 1 40 after 60 30", {1, 40}, {61, 70}, 2, 1, 64, 64},
      {"room between documents", {17, 40}, {61, 70}, 2, 1, 64, 64, -1, 0, false, false, 0, 5},
      {"window 20", {150, 64}, {}, 4, 2, 64, 64, 20, 0},
      {"dense window 20", {150, 150}, {}, 4, 2, 64, 64, 20, 0},
      {"prefix window 20", {50, 64}, {80, 70}, 4, 2, 64, 64, 20, 0},
      {"band 10 3", {150, 64}, {}, 2, 2, 64, 64, 10, 3},
      {"left only 10", {90}, {}, 2, 2, 64, 64, 10, -1},
      {"window 0", {40, 9}, {}, 2, 2, 64, 64, 0, 0},
      {"sinks", {70, 33}, {}, 4, 2, 64, 64, -1, 0, true},
      {"sinks window", {70, 133}, {}, 4, 2, 64, 64, 30, 0, true},
      {"dense sinks", {128, 128}, {}, 4, 2, 64, 64, -1, 0, true},
      {"mla 192/128", {70, 133}, {}, 2, 2, 192, 128},
      {"mla 192/128 deterministic", {70, 133}, {}, 2, 2, 192, 128, -1, 0, false, false, 0, 0, true},
      {"dense mla 192/128", {128}, {}, 2, 2, 192, 128},
      {"nam56r 128/64", {97, 40}, {}, 2, 2, 128, 64},
      {"dense nam56r 128/64", {128}, {}, 2, 2, 128, 64},
      {"d256", {97, 40}, {}, 2, 1, 256, 256},
      {"dense d256", {128}, {}, 2, 1, 256, 256},
      {"d40/24 window", {150}, {}, 2, 1, 40, 24, 100, 0},
      {"d6", {30, 9}, {}, 2, 1, 6, 6},
      {"dropout", {40, 70}, {}, 2, 1, 64, 64, -1, 0, false, false, 0.25f},
      {"one token", {1}, {}, 1, 1, 8, 8},
      {"ends at tiles 64 63 65 0 1 128 129", {64, 63, 65, 0, 1, 128, 129}, {}, 2, 1, 64, 64},
      {"ends at tiles 128/64", {127, 1, 192}, {}, 1, 1, 128, 64, -1, 0, true, true},
      {"window 100, many tiles", {301}, {}, 1, 1, 128, 128, 99, 0, false, true},
      {"window 64, full tiles", {260}, {}, 2, 1, 64, 64, 63, 0},
      {"band 70 130", {300}, {}, 1, 1, 128, 128, 70, 130, true},
      {"right only", {140, 20}, {}, 2, 2, 64, 64, -1, 5},
      {"fewer keys than queries", {150, 70}, {90, 70}, 2, 1, 64, 64, 40, 0, false, true},
      {"no keys at all", {70, 40}, {0, 40}, 2, 1, 128, 128, -1, 0, true},
      {"steep", {300}, {}, 1, 1, 128, 128, -1, 0, false, true, 0, 0, false, 6},
      {"steep window", {300, 70}, {}, 2, 2, 64, 64, 130, 0, false, true, 0, 0, false, 6},
      {"keys far ahead, window", {33, 10}, {300, 210}, 4, 2, 128, 128, 70, 0},
      {"mla 192/128 window, room", {100, 20}, {150, 90}, 2, 1, 192, 128, 80, 0, false, false, 0, 3},
  };
  for (const Candidate& candidate : kAll) {
    if (std::string(candidate.name) == "wgmma") check_neighbours(candidate, 2, 1, 64, 64), check_neighbours(candidate, 2, 2, 128, 128), check_neighbours(candidate, 1, 1, 192, 128);
    for (const Case& c : all) {
      if (small && static_cast<double>(c.H) * c.D * (c.queries[0] + 1) > 4e4) continue;
      const std::string name = candidate.name;
      const bool must = name == "sm90" || (name == "wgmma" && of_wgmma(c));
      check<bf16>(candidate, c, must);
      if (name == "sm90") check<float>(candidate, c, must);
    }
  }
}

// Few queries a document.
void check_decode(bool) {
  const std::vector<Case> decode{
      {"one query", {1, 1, 1}, {1, 7, 130}, 2, 2, 64, 64},
      {"grouped 4", {1, 1}, {300, 33}, 8, 2, 128, 128},
      {"grouped 12, three queries", {3, 1, 0}, {70, 260, 9}, 24, 2, 64, 64},
      {"mla 192/128", {2}, {500}, 2, 2, 192, 128},
      {"128/64 window sinks", {1, 8}, {300, 40}, 4, 2, 128, 64, 50, 0, true},
      {"room, d40/24", {1, 4}, {90, 41}, 2, 1, 40, 24, -1, 0, true, false, 0, 3},
      {"d256", {1}, {140}, 8, 1, 256, 256},
      {"grouped 16, splits, room", {1, 2, 0, 1}, {1100, 770, 5, 16}, 16, 1, 128, 128, -1, 0, false, false, 0, 3},
      {"splits, sinks, window", {3, 1}, {900, 20}, 4, 2, 64, 64, 600, 0, true},
      {"splits 128/64", {1, 2}, {515, 0}, 6, 2, 128, 64, -1, 0, true},
      {"splits 192/128, steep", {2}, {600}, 2, 2, 192, 128, -1, 0, false, false, 0, 0, false, 6},
      {"splits d256", {1, 1}, {601, 257}, 4, 2, 256, 256},
      {"right 2, left only", {4}, {300}, 2, 2, 128, 128, 100, 2},
      {"12 splits", {1, 1}, {3000, 70}, 4, 1, 64, 64, -1, 0, true},
      {"more queries than keys", {8, 5}, {3, 0}, 4, 2, 64, 64},
  };
  for (const Case& c : decode) check<bf16>(kDecode, c, true), check<float>(kDecode, c, true), check<bf16>(kDecodeMma, c, of_decode_mma(c.D, c.V));
}

// One query a document. TB/s: keys and values once.
void perf_decode() {
  struct Shape {
    const char* name;
    int documents, keys, H, G, D, V;
  };
  const std::vector<Shape> shapes{{"64x4096 h32/8 d128", 64, 4096, 32, 8, 128, 128}, {"1x32768 h32/8 d128", 1, 32768, 32, 8, 128, 128}, {"8x8192 h32/8 d128", 8, 8192, 32, 8, 128, 128},
                                  {"64x4096 h16 d64", 64, 4096, 16, 16, 64, 64},     {"32x4096 h32 192/128", 32, 4096, 32, 32, 192, 128}, {"32x4096 h16/4 d256", 32, 4096, 16, 4, 256, 256},
                                  {"64x4096 h32/8 128/64", 64, 4096, 32, 8, 128, 64}, {"256x512 h32/8 d128", 256, 512, 32, 8, 128, 128}};
  Random random(6);
  size_t most_k = 0, most_v = 0;
  for (const Shape& x : shapes) most_k = std::max(most_k, size_t(x.documents) * x.keys * x.G * x.D), most_v = std::max(most_v, size_t(x.documents) * x.keys * x.G * x.V);
  Buffer<bf16> k(most_k), v(most_v);
  const auto some = random.bulk<bf16>(8191 * 2048);
  for (Buffer<bf16>* b : {&k, &v})
    for (size_t at = 0; at < b->size; at += some.size()) device_copy(b->data + at, some.data(), std::min(some.size(), b->size - at) * sizeof(bf16));
  for (const Shape& x : shapes) {
    const int64_t T = x.documents, S = T * x.keys, H = x.H, G = x.G, D = x.D, V = x.V;
    const std::vector<int32_t> host_cu = packed(std::vector<int>(x.documents, 1)), host_lens(x.documents, x.keys);
    std::vector<int32_t> host_starts;
    for (int i = 0; i < x.documents; ++i) host_starts.push_back(i * x.keys);
    Buffer<bf16> q(random.bulk<bf16>(T * H * D)), o(T * H * V);
    Buffer<float> lse(T * H);
    Buffer<int32_t> cu(host_cu), lens(host_lens), starts(host_starts);
    const kernels::AttentionShape s{cu.data, lens.data, starts.data, host_cu.data(), host_lens.data(), host_starts.data(), T, S, H * D, G * D, G * V, x.documents, x.H, x.G, x.D, x.V,
                                    1, x.keys, -1, 0, static_cast<float>(1 / std::sqrt(double(D))), 0, 0, DType::kBf16};
    const double bytes = 2.0 * S * G * (D + V);
    for (const Candidate& c : {kDecode, kDecodeMma}) {
      const AttentionFwd f{s, q.data, k.data, v.data, nullptr, o.data, lse.data, nullptr};
      Buffer<uint8_t> w(c.workspace_fwd(f));
      report(std::string("attention ") + c.name + " " + x.name, time_ms([&] { c.fwd(f, {nullptr, w.data}); }, 20), bytes * 1e-9 / 4.2, bytes, 2.0 * S * H * (D + V));
    }
  }
}

void perf_attention() {
  struct Shape {
    const char* name;
    std::vector<int> lengths;
    int H, G, D, V, left;
  };
  std::vector<int> mixed;
  for (int i = 0; i < 8; ++i)
    for (int n : {1500, 300, 900, 700, 600, 96}) mixed.push_back(n);  // 4096 a row
  const std::vector<Shape> shapes{{"8x4096 h32 d128", std::vector<int>(8, 4096), 32, 32, 128, 128, -1},
                                  {"4x8192 h32/8 d128", std::vector<int>(4, 8192), 32, 8, 128, 128, -1},
                                  {"4096+4095.. h32 d128", {4096, 4095, 4097, 4096, 4096, 4096, 4096, 4096}, 32, 32, 128, 128, -1},
                                  {"8x4096 h32 192/128", std::vector<int>(8, 4096), 32, 32, 192, 128, -1},
                                  {"8x4096 h32 128/64", std::vector<int>(8, 4096), 32, 32, 128, 64, -1},
                                  {"8x4096 h32 d64", std::vector<int>(8, 4096), 32, 32, 64, 64, -1},
                                  {"4x4096 h16/4 d256", std::vector<int>(4, 4096), 16, 4, 256, 256, -1},
                                  {"8x4096 h32 d128 window 512", std::vector<int>(8, 4096), 32, 32, 128, 128, 511},
                                  {"48 documents of 96-1500 h32 d128", mixed, 32, 32, 128, 128, -1},
                                  {"48 documents of 96-1500 h32 128/64", mixed, 32, 32, 128, 64, -1},
                                  {"32x1024 h12 d64", std::vector<int>(32, 1024), 12, 12, 64, 64, -1}};
  Random random(5);
  for (const Shape& x : shapes) {
    const auto host_cu = packed(x.lengths);
    const int64_t T = host_cu.back(), H = x.H, G = x.G, D = x.D, V = x.V;
    std::vector<int32_t> host_lens(x.lengths.begin(), x.lengths.end()), host_starts(host_cu.begin(), host_cu.end() - 1);
    Buffer<bf16> q(random.bulk<bf16>(T * H * D)), k(random.bulk<bf16>(T * G * D)), v(random.bulk<bf16>(T * G * V)), d_o(random.bulk<bf16>(T * H * V));
    Buffer<bf16> o(T * H * V), dq(T * H * D), dk(T * G * D), dv(T * G * V);
    Buffer<float> lse(T * H);
    Buffer<int32_t> cu(host_cu), lens(host_lens), starts(host_starts);
    const int longest = *std::max_element(x.lengths.begin(), x.lengths.end());
    const kernels::AttentionShape s{cu.data, lens.data, starts.data, host_cu.data(), host_lens.data(), host_starts.data(), T, T, H * D, G * D, G * V,
                                    static_cast<int32_t>(x.lengths.size()), x.H, x.G, x.D, x.V, longest, longest, x.left, 0, static_cast<float>(1 / std::sqrt(double(D))), 0, 0, DType::kBf16};
    double pairs = 0;
    for (double n : x.lengths) pairs += x.left < 0 || x.left + 1 >= n ? n * (n + 1) / 2 : (x.left + 1.0) * n - x.left * (x.left + 1.0) / 2;
    const double work = 2 * pairs * H * (D + V), bytes = 2.0 * T * (H + G) * (D + V);
    for (const Candidate& c : kAll) {
      if (std::string(c.name) == "sm90" && D > 64) continue;  // seconds a call
      const AttentionFwd f{s, q.data, k.data, v.data, nullptr, o.data, lse.data, nullptr};
      const std::string row = std::string("attention ") + c.name + " " + x.name;
      if (const auto why = c.supports_fwd(f, device()); !why) {
        std::printf("refused %s: %s\n", row.c_str(), why.refusal);
        continue;
      }
      Buffer<uint8_t> w(c.workspace_fwd == nullptr ? 0 : c.workspace_fwd(f));
      report(row + " fwd", time_ms([&] { c.fwd(f, {nullptr, w.data}); }, 10), 0, bytes, work);
      std::vector<bf16> other;  // dk of the run before: slices of heads must give the same
      for (const bool deterministic : {false, true}) {
        const AttentionBwd b{s, q.data, k.data, v.data, o.data, d_o.data, lse.data, nullptr, dq.data, dk.data, dv.data, nullptr, deterministic};
        if (const auto why = c.supports_bwd(b, device()); !why) {
          std::printf("refused %s bwd: %s\n", row.c_str(), why.refusal);
          continue;
        }
        Buffer<uint8_t> wb(c.workspace_bwd == nullptr ? 0 : c.workspace_bwd(b));
        report(row + (deterministic ? " bwd deterministic" : " bwd"), time_ms([&] { c.bwd(b, {nullptr, wb.data}); }, 10), 0, 2 * bytes, 2.5 * work);
        const auto now = dk.host();
        double off = 0, largest = 0;
        for (size_t i = 0; i < other.size(); ++i) off = std::max(off, std::abs(static_cast<double>(value(now[i])) - value(other[i]))), largest = std::max(largest, std::abs(static_cast<double>(value(now[i]))));
        std::printf("     workspace %.1f MB, dk differs by %.2e of %.2e\n", static_cast<double>(wb.size) * 1e-6, off, largest);
        if (!other.empty()) expect(row + " the same either way", off <= 0.05 * largest);
        other = now;
      }
    }
  }
}

}  // namespace weft::check
