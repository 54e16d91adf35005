// cuBLASLt through its plan cache, against fp64 on sampled outputs: layouts, dtypes, epilogues, FP8 scalings; repeated bits; graph capture.
// perf: the first guess of the library's heuristic against the best of its list, in interleaved rounds.
#include <cuda_fp8.h>

#include "gemm_shapes.h"
#include "harness.h"
#include "kernels/gemm/scaled_gemm.h"

namespace weft::check {
namespace {

using kernels::Gemm;
using kernels::GemmEpilogue;
using kernels::QuantBlock;
using kernels::ScaledGemm;

struct Workspace {
  Buffer<uint8_t> bytes;
  explicit Workspace(size_t n = kernels::kGemmWorkspace) : bytes(n) {}
  kernels::Launch launch(cudaStream_t stream = nullptr) const { return {stream, bytes.data, nullptr}; }
};

double gelu(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
double gelu_slope(double x) { return (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5; }

template <class T, class Out>
void check_one(const std::string& name, int m, int n, int k, bool at, bool bt, bool accumulate, GemmEpilogue epilogue, bool tf32, double relative, bool padded = false) {
  Random random(static_cast<uint64_t>(m + n + k));
  const auto a = random.normal<T>(static_cast<size_t>(m) * k), b = random.normal<T>(static_cast<size_t>(n) * k);
  const auto c0 = random.normal<Out>(static_cast<size_t>(m) * n), bias = random.normal<Out>(n), aux0 = random.normal<Out>(static_cast<size_t>(m) * n);
  Buffer<T> ga(a), gb(b);
  Buffer<Out> c(c0), gbias(bias), aux(aux0), bias_grad(m), again(static_cast<size_t>(m) * n);
  if (!accumulate) c.poison();
  if (epilogue == GemmEpilogue::kGeluBias) aux.poison();
  const DType t = sizeof(T) == 4 ? DType::kF32 : DType::kBf16, o = sizeof(Out) == 4 ? DType::kF32 : DType::kBf16;
  const bool has_bias = epilogue == GemmEpilogue::kBias || epilogue == GemmEpilogue::kGeluBias;
  const bool has_aux = epilogue == GemmEpilogue::kGeluBias || epilogue == GemmEpilogue::kDgelu;
  const Gemm g{ga.data, gb.data, c.data, m, n, k, at ? m : k, bt ? k : n, n, at, bt, accumulate, t, o, tf32, true, epilogue, has_bias ? gbias.data : nullptr,
               has_aux ? aux.data : nullptr, epilogue == GemmEpilogue::kBiasGrad ? bias_grad.data : nullptr};
  const auto s = padded ? kernels::supports_gemm_padded(g, device()) : kernels::supports_gemm_cublaslt(g, device());
  if (!s) return expect("gemm " + name, false, s.refusal);
  const Workspace w(padded ? kernels::workspace_gemm_padded(g) : kernels::workspace_gemm_cublaslt(g));
  const auto run = padded ? kernels::gemm_padded : kernels::gemm_cublaslt;
  run(g, w.launch());
  device_wait("gemm");
  const auto got = c.host(), got_aux = aux.host();
  const size_t step = std::max<size_t>(1, got.size() / 20011);
  std::vector<float> values, values_aux;
  std::vector<double> want, want_aux;
  for (size_t i = 0; i < got.size(); i += step) {
    const size_t r = i / n, col = i % n;
    double sum = 0;
    for (int x = 0; x < k; ++x) sum += static_cast<double>(value(at ? a[static_cast<size_t>(x) * m + r] : a[r * k + x])) * value(bt ? b[col * k + x] : b[static_cast<size_t>(x) * n + col]);
    if (has_bias) sum += value(bias[col]);
    if (epilogue == GemmEpilogue::kGeluBias) values_aux.push_back(value(got_aux[i])), want_aux.push_back(sum), sum = gelu(sum);
    if (epilogue == GemmEpilogue::kDgelu) sum *= gelu_slope(value(aux0[i]));
    if (accumulate) sum += value(c0[i]);
    values.push_back(value(got[i])), want.push_back(sum);
  }
  compare("gemm " + name, values, want, relative, 10 * relative);
  if (!want_aux.empty()) compare("gemm " + name + " aux", values_aux, want_aux, relative, 10 * relative);
  if (epilogue == GemmEpilogue::kBiasGrad) {
    std::vector<double> sums(m);
    for (int r = 0; r < m; ++r)
      for (int x = 0; x < k; ++x) sums[r] += value(at ? a[static_cast<size_t>(x) * m + r] : a[static_cast<size_t>(r) * k + x]);
    compare("gemm " + name + " bias gradient", bias_grad.host(), sums, relative, 10 * relative);
  }
  if (accumulate) return;
  Gemm second = g;
  second.c = again.data;
  run(second, w.launch());
  device_wait("gemm");
  expect("gemm " + name + " same bits twice", std::memcmp(again.host().data(), got.data(), got.size() * sizeof(Out)) == 0);
}

void check_graph() {
  const int m = 256, n = 512, k = 128;
  Random random(3);
  Buffer<bf16> a(random.normal<bf16>(m * k)), b(random.normal<bf16>(n * k)), eager(m * n), replayed(m * n);
  Workspace w;
  Gemm g{a.data, b.data, eager.data, m, n, k, k, k, n, false, true, false, DType::kBf16, DType::kBf16};
  kernels::gemm_cublaslt(g, w.launch());
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  device_wait("eager");
  g.c = replayed.data;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin capture");
  kernels::gemm_cublaslt(g, w.launch(stream));
  must(cudaStreamEndCapture(stream, &graph), "end capture");
  must(cudaGraphInstantiate(&exec, graph, 0), "instantiate"), must(cudaGraphLaunch(exec, stream), "launch");
  device_wait("graph");
  expect("gemm captured in a graph, same bits", std::memcmp(eager.host().data(), replayed.host().data(), m * n * sizeof(bf16)) == 0);
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

// -- FP8 ----------------------------------------------------------------------
struct Factor {  // codes, scales as the product reads them, and what they stand for
  std::vector<uint8_t> codes;
  std::vector<float> scale;
  std::vector<double> value;
};

Factor draw_factor(Random& random, int rows, int k, QuantBlock block, DType type, bool bulk = false) {
  Factor f;
  const size_t n = static_cast<size_t>(rows) * k;
  f.codes.resize(n);
  const int blocks = (k + 127) / 128, blocks4 = (blocks + 3) / 4 * 4;
  const size_t scales[4] = {1, static_cast<size_t>(rows), static_cast<size_t>(rows) * blocks, static_cast<size_t>((rows + 127) / 128) * blocks4};
  f.scale = random.fill<float>(scales[static_cast<int>(block)], [](Random& r) { return r.uniform(0.5f, 2.0f); });
  const auto x = bulk ? random.bulk<float>(n) : random.normal<float>(n);
  if (!bulk) f.value.resize(n);
  for (size_t i = 0; i < n; ++i) {
    f.codes[i] = __nv_cvt_float_to_fp8(x[i], __NV_SATFINITE, type == DType::kF8E4M3 ? __NV_E4M3 : __NV_E5M2);
    if (bulk) continue;
    const size_t r = i / k, c = i % k;
    size_t s = 0;
    if (block == QuantBlock::kRow) s = r;
    if (block == QuantBlock::k1x128) s = c / 128 * rows + r;
    if (block == QuantBlock::k128x128) s = r / 128 * blocks4 + c / 128;
    float v;
    if (type == DType::kF8E4M3) { __nv_fp8_e4m3 q; q.__x = f.codes[i]; v = static_cast<float>(q); }
    else { __nv_fp8_e5m2 q; q.__x = f.codes[i]; v = static_cast<float>(q); }
    f.value[i] = static_cast<double>(v) * f.scale[s];
  }
  return f;
}

template <class Out>
void check_scaled(const std::string& name, int m, int n, int k, QuantBlock ab, QuantBlock bb, DType at, bool accumulate, bool fast, double relative) {
  Random random(static_cast<uint64_t>(m + n + k));
  const Factor a = draw_factor(random, m, k, ab, at), b = draw_factor(random, n, k, bb, DType::kF8E4M3);
  const auto c0 = random.normal<Out>(static_cast<size_t>(m) * n);
  Buffer<uint8_t> ga(a.codes), gb(b.codes);
  Buffer<float> sa(a.scale), sb(b.scale);
  Buffer<Out> c(c0), again(static_cast<size_t>(m) * n);
  if (!accumulate) c.poison();
  ScaledGemm g{ga.data, gb.data, c.data, sa.data, sb.data, m, n, k, n, ab, bb, at, DType::kF8E4M3, sizeof(Out) == 4 ? DType::kF32 : DType::kBf16, accumulate, fast, true};
  const auto s = kernels::supports_scaled_gemm_cublaslt(g, device());
  if (!s) return expect("scaled_gemm " + name, false, s.refusal);
  Workspace w;
  kernels::scaled_gemm_cublaslt(g, w.launch());
  device_wait("scaled_gemm");
  const auto got = c.host();
  std::vector<float> values;
  std::vector<double> want;
  const size_t step = std::max<size_t>(1, got.size() / 20011);
  for (size_t i = 0; i < got.size(); i += step) {
    double sum = accumulate ? value(c0[i]) : 0;
    for (int x = 0; x < k; ++x) sum += a.value[i / n * k + x] * b.value[i % n * k + x];
    values.push_back(value(got[i])), want.push_back(sum);
  }
  compare("scaled_gemm " + name, values, want, relative, 10 * relative);
  if (accumulate) return;
  g.c = again.data;
  kernels::scaled_gemm_cublaslt(g, w.launch());
  device_wait("scaled_gemm");
  expect("scaled_gemm " + name + " same bits twice", std::memcmp(again.host().data(), got.data(), got.size() * sizeof(Out)) == 0);
}

// -- timing -------------------------------------------------------------------
// Median over rounds of (time of the best algorithm) / (time of the first guess): each round times all of them once.
struct Choice {
  double first_ms, best_ms, ratio;
  int algorithms, best;
};
template <class G, class Count, class Run>
Choice first_against_best(const G& g, Count&& count, Run&& run, const Workspace& w) {
  const int all = std::min(count(g, 12), 12);
  constexpr int kRounds = 5;
  std::vector<std::vector<double>> ms(static_cast<size_t>(std::max(all, 1)));
  for (int round = 0; round < kRounds; ++round)
    for (int i = 0; i < all; ++i) ms[i].push_back(time_ms([&] { run(g, i, w.launch()); }, 2));
  std::vector<double> ratios, firsts;
  Choice c{0, 1e30, 0, all, 0};
  if (all == 0) return c;
  const auto median = [](std::vector<double> v) { std::sort(v.begin(), v.end()); return v[v.size() / 2]; };
  for (int i = 0; i < all; ++i)
    if (median(ms[i]) < c.best_ms) c.best_ms = median(ms[i]), c.best = i;
  for (int r = 0; r < kRounds; ++r) ratios.push_back(ms[c.best][r] / ms[0][r]);
  c.first_ms = median(ms[0]), c.ratio = median(ratios);
  return c;
}

// Random numbers for a large timing input: 2^24 of them, again and again.
template <class T>
void fill_large(Buffer<T>& to, const std::vector<T>& some) {
  for (size_t at = 0; at < to.size; at += some.size()) device_copy(to.data + at, some.data(), std::min(some.size(), to.size - at) * sizeof(T));
}

void line(const std::string& name, const Choice& c, double flops) {
  std::printf("perf %-60s %8.3f ms  %7.1f TFLOP/s  best of %2d %7.1f (number %d)  ratio %.3f\n", name.c_str(), c.first_ms, flops / c.first_ms * 1e-9, c.algorithms,
              flops / c.best_ms * 1e-9, c.best, c.ratio);
  std::fflush(stdout);
}

}  // namespace

void check_gemm(bool small) {
  using E = GemmEpilogue;
  for (const bool at : {false, true})
    for (const bool bt : {false, true}) {
      const std::string l = std::string(at ? "T" : "N") + (bt ? "T" : "N");
      check_one<bf16, bf16>("bf16 96x80x64 " + l, 96, 80, 64, at, bt, false, E::kNone, false, 5e-3);
      check_one<bf16, bf16>("bf16 37x65x24 " + l, 37, 65, 24, at, bt, false, E::kNone, false, 5e-3);
      check_one<bf16, float>("bf16 to f32, added 96x80x64 " + l, 96, 80, 64, at, bt, true, E::kNone, false, 1e-5);
      check_one<bf16, float>("bf16 to f32, added 33x7x129 " + l, 33, 7, 129, at, bt, true, E::kNone, false, 1e-5);
      check_one<float, float>("f32 37x65x24 " + l, 37, 65, 24, at, bt, false, E::kNone, false, 2e-6);
      check_one<float, float>("tf32 128x96x256 " + l, 128, 96, 256, at, bt, false, E::kNone, true, 1e-3);
    }
  check_one<bf16, bf16>("bf16 1x1x1", 1, 1, 1, false, true, false, E::kNone, false, 5e-3);
  for (const int m : {128, 200}) {
    const std::string s = " " + std::to_string(m) + "x136x72";
    check_one<bf16, bf16>("bf16 bias" + s, m, 136, 72, false, true, false, E::kBias, false, 5e-3);
    check_one<bf16, bf16>("bf16 bias gelu" + s, m, 136, 72, false, true, false, E::kGeluBias, false, 5e-3);
    check_one<bf16, bf16>("bf16 dgelu" + s, m, 136, 72, false, false, false, E::kDgelu, false, 5e-3);
    check_one<bf16, float>("bf16 to f32, added, bias gradient" + s, m, 136, 72, true, false, true, E::kBiasGrad, false, 1e-3);
    check_one<float, float>("f32 bias" + s, m, 136, 72, false, true, false, E::kBias, false, 1e-5);
    check_one<float, float>("f32 bias gelu" + s, m, 136, 72, false, true, false, E::kGeluBias, false, 1e-3);
    check_one<float, float>("f32 dgelu" + s, m, 136, 72, false, false, false, E::kDgelu, false, 1e-3);
    check_one<float, float>("f32, added, bias gradient" + s, m, 136, 72, true, false, true, E::kBiasGrad, false, 1e-5);
  }
  if (!small) {
    check_one<bf16, bf16>("bf16 1024x768x3072 NT", 1024, 768, 3072, false, true, false, E::kNone, false, 5e-3);
    check_one<bf16, float>("bf16 to f32, added 768x3072x1024 TN", 768, 3072, 1024, true, false, true, E::kNone, false, 1e-5);
    check_one<bf16, float>("bf16 to f32, added 64x4096x8192 TN", 64, 4096, 8192, true, false, true, E::kNone, false, 1e-5);
  }
  for (const bool at : {false, true})
    for (const bool bt : {false, true}) {
      const std::string l = std::string(" 1001x1011x1003 ") + (at ? "T" : "N") + (bt ? "T" : "N");
      check_one<bf16, bf16>("padded bf16" + l, 1001, 1011, 1003, at, bt, false, E::kNone, false, 5e-3, true);
      check_one<bf16, float>("padded bf16 to f32, added" + l, 1001, 1011, 1003, at, bt, true, E::kNone, false, 1e-5, true);
    }
  check_one<bf16, bf16>("padded bf16 bias 1001x1016x1021", 1001, 1016, 1021, false, true, false, E::kBias, false, 5e-3, true);
  check_one<bf16, float>("padded bf16 to f32, added, bias gradient 1016x1021x1001", 1016, 1021, 1001, true, false, true, E::kBiasGrad, false, 1e-3, true);
  check_graph();
  struct Pair { const char* name; QuantBlock a, b; };
  const Pair pairs[] = {{"tensor", QuantBlock::kTensor, QuantBlock::kTensor},     {"row", QuantBlock::kRow, QuantBlock::kRow},
                        {"1x128, square", QuantBlock::k1x128, QuantBlock::k128x128}, {"square, 1x128", QuantBlock::k128x128, QuantBlock::k1x128},
                        {"1x128, 1x128", QuantBlock::k1x128, QuantBlock::k1x128}};
  for (const Pair& p : pairs)
    for (const DType at : {DType::kF8E4M3, DType::kF8E5M2})
      for (const int k : {256, 272, 1024}) {
        if (small && k == 1024) continue;
        const bool blocks = p.a != QuantBlock::kTensor && p.a != QuantBlock::kRow;
        const std::string n = std::string(p.name) + (at == DType::kF8E5M2 ? " e5m2" : "") + " 208x144x" + std::to_string(k);
        check_scaled<bf16>(n, 208, 144, k, p.a, p.b, at, false, false, 5e-3);
        check_scaled<float>(n + " to f32, added", 208, 144, k, p.a, p.b, at, true, false, 1e-3);
        if (!blocks) check_scaled<bf16>(n + " fast", 208, 144, k, p.a, p.b, at, false, true, 5e-3);
      }
  for (const Pair& p : pairs)  // sums that are promoted do not lose more the longer they are
    for (const int k : {128, 2048, 16384, 65536}) {
      if (small && k > 2048) continue;
      check_scaled<float>(std::string(p.name) + " 64x64x" + std::to_string(k), 64, 64, k, p.a, p.b, DType::kF8E4M3, false, false, 1e-3);
    }
}

void perf_gemm() {
  Workspace w;
  const size_t most = gemm_shapes_most();
  Random random(1);
  Buffer<bf16> a(most), b(most);
  Buffer<float> c(most);
  fill_large(a, random.bulk<bf16>(1 << 24)), fill_large(b, random.bulk<bf16>(1 << 24)), c.zero();
  std::vector<double> ratios[3];
  for (const GemmShape& s : gemm_shapes()) {
    const double flops = 2.0 * s.tokens * s.out * s.in;
    const Gemm all[3] = {{a.data, b.data, c.data, s.tokens, s.out, s.in, s.in, s.in, s.out, false, true, false, DType::kBf16, DType::kBf16},
                         {a.data, b.data, c.data, s.tokens, s.in, s.out, s.out, s.in, s.in, false, false, false, DType::kBf16, DType::kBf16},
                         {a.data, b.data, c.data, s.out, s.in, s.tokens, s.out, s.in, s.in, true, false, true, DType::kBf16, DType::kF32}};
    const char* names[3] = {"forward", "dgrad", "wgrad f32 +="};
    for (int i = 0; i < 3; ++i) {
      const Choice t = first_against_best(all[i], kernels::count_gemm_algorithms, kernels::gemm_algorithm, w);
      line(std::string("gemm ") + s.name + " " + names[i], t, flops);
      ratios[i].push_back(t.ratio);
      if (!kernels::supports_gemm_padded(all[i], device())) continue;
      const Workspace own(kernels::workspace_gemm_padded(all[i]));
      report(std::string("gemm padded ") + s.name + " " + names[i], time_ms([&] { kernels::gemm_padded(all[i], own.launch()); }), t.best_ms, 0, flops);
    }
  }
  for (auto& r : ratios) {
    std::sort(r.begin(), r.end());
    std::printf("perf gemm: best / first over %zu shapes: median %.3f, worst %.3f\n", r.size(), r[r.size() / 2], r[0]);
  }
}

void perf_scaled_gemm() {
  Workspace w;
  const size_t most = gemm_shapes_most();
  Random random(1);
  const Factor table = draw_factor(random, 1, 1 << 22, QuantBlock::kTensor, DType::kF8E4M3, true);
  Buffer<uint8_t> a(most), b(most);
  fill_large(a, table.codes), fill_large(b, table.codes);
  Buffer<float> c(most), scales(random.fill<float>(size_t{1} << 24, [](Random& r) { return r.uniform(0.5f, 2.0f); }));
  for (const GemmShape& s : gemm_shapes()) {
    if (s.in % 128 != 0 || s.out % 16 != 0 || s.in < 2048) continue;
    const double flops = 2.0 * s.tokens * s.out * s.in;
    struct { const char* name; QuantBlock a, b; bool fast; } kinds[] = {{"tensor", QuantBlock::kTensor, QuantBlock::kTensor, true}, {"row", QuantBlock::kRow, QuantBlock::kRow, true},
                                                                       {"1x128, square", QuantBlock::k1x128, QuantBlock::k128x128, false}};
    for (const auto& kind : kinds) {
      const ScaledGemm g{a.data, b.data, c.data, scales.data, scales.data, s.tokens, s.out, s.in, s.out, kind.a, kind.b, DType::kF8E4M3, DType::kF8E4M3, DType::kBf16, false, kind.fast};
      line(std::string("scaled_gemm ") + kind.name + " " + s.name + " forward", first_against_best(g, kernels::count_scaled_gemm_algorithms, kernels::scaled_gemm_algorithm, w), flops);
    }
    for (const auto& kind : kinds) {
      const bool blocks = kind.a == QuantBlock::k1x128;
      const ScaledGemm g{a.data, b.data, c.data, scales.data, scales.data, s.out, s.in, s.tokens, s.in, kind.a, blocks ? QuantBlock::k1x128 : kind.b, blocks ? DType::kF8E4M3 : DType::kF8E5M2, DType::kF8E4M3,
                         DType::kF32, true, false};
      line(std::string("scaled_gemm ") + (blocks ? "1x128, 1x128" : kind.name) + " " + s.name + " wgrad f32 +=", first_against_best(g, kernels::count_scaled_gemm_algorithms, kernels::scaled_gemm_algorithm, w), flops);
    }
  }
}

}  // namespace weft::check
