// Products of real models, forward and both gradients, against the tensor library's own: y[tokens, out] = x[tokens, in] w^T.
#include "ops/aten.h"

#include "ops/linear.h"

#include "ops/cases/draw.h"
#include "ops/cases/rows.h"

namespace weft::ops::cases {
namespace {

struct Shape {
  const char* name;
  int64_t tokens, in, out;
};

constexpr Shape kShapes[] = {
    {"gpt2 qkv", 32768, 768, 2304},          {"gpt2 out", 32768, 768, 768},           {"gpt2 fc1", 32768, 768, 3072},
    {"gpt2 fc2", 32768, 3072, 768},          {"gpt2 head", 8192, 768, 50304},         {"gpt2-xl qkv", 16384, 1600, 4800},
    {"gpt2-xl out", 16384, 1600, 1600},      {"gpt2-xl fc1", 16384, 1600, 6400},      {"gpt2-xl fc2", 16384, 6400, 1600},
    {"llama-1b qkv", 16384, 2048, 3072},     {"llama-1b out", 16384, 2048, 2048},     {"llama-1b up", 16384, 2048, 16384},
    {"llama-1b down", 16384, 8192, 2048},    {"llama-8b qkv", 8192, 4096, 6144},      {"llama-8b out", 8192, 4096, 4096},
    {"llama-8b up", 8192, 4096, 28672},      {"llama-8b down", 8192, 14336, 4096},    {"qwen-7b qkv", 8192, 3584, 4608},
    {"qwen-7b out", 8192, 3584, 3584},       {"qwen-7b up", 8192, 3584, 37888},       {"qwen-7b down", 8192, 18944, 3584},
    {"nam56r mamba3 in", 32768, 4096, 24992}, {"nam56r mamba3 out", 32768, 8192, 4096}, {"nam56r m2rnn in", 32768, 4096, 1811},
    {"nam56r m2rnn out", 32768, 816, 4096},  {"nam56r mla down", 32768, 4096, 192},   {"nam56r mla up, K=64 up-projection", 32768, 64, 4096},
    {"nam56r mla out", 32768, 2048, 4096},   {"nam56r shared", 32768, 4096, 1024},    {"square", 8192, 8192, 8192},
};

Case row(const Shape& s) {
  Case c{"model_gemm", std::string(s.name) + " " + std::to_string(s.tokens) + "x" + std::to_string(s.in) + "->" + std::to_string(s.out), {at::kBFloat16},
         [s](const Build& b) {
           at::manual_seed(b.seed);
           Instance i;
           i.inputs = {normal(b, {s.tokens, s.in})};
           i.weights.push_back({"w", normal(b, {s.out, s.in}) / std::sqrt(static_cast<double>(s.in)), {}});
           i.op = [](const std::vector<at::Tensor>& x, std::deque<Weight>& w, const Policy& p) {
             return std::vector<at::Tensor>{linear(x[0], w[0], {}, nullptr, p)};
           };
           const double flops = 2.0 * static_cast<double>(s.tokens) * static_cast<double>(s.in * s.out);
           const double moved = 2.0 * static_cast<double>(s.tokens * s.in + s.in * s.out + s.tokens * s.out);
           i.cost = {flops, moved, 2 * flops, 2 * moved};
           i.peer = "at::linear", i.peer_op = [](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& w) { return std::vector<at::Tensor>{at::linear(x[0], w[0])}; };
           return i;
         }};
  c.grad = false, c.check = false, c.perf = true;
  return c;
}

}  // namespace

std::vector<Case> model_shape_cases() {
  std::vector<Case> all;
  for (const Shape& s : kShapes) all.push_back(row(s));
  return all;
}

}  // namespace weft::ops::cases
