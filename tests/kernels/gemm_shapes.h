// Thirty products of real models: y[tokens, out] = x[tokens, in] w[out, in]^T.
#pragma once
#include <cstddef>
#include <vector>

namespace weft::check {

struct GemmShape {
  const char* name;
  int tokens, out, in;
};

inline const std::vector<GemmShape>& gemm_shapes() {
  static const std::vector<GemmShape> all{
      {"gpt2 qkv 32768x2304x768", 32768, 2304, 768},
      {"gpt2 out 32768x768x768", 32768, 768, 768},
      {"gpt2 fc1 32768x3072x768", 32768, 3072, 768},
      {"gpt2 fc2 32768x768x3072", 32768, 768, 3072},
      {"gpt2 head 8192x50304x768", 8192, 50304, 768},
      {"gpt2-xl qkv 16384x4800x1600", 16384, 4800, 1600},
      {"gpt2-xl out 16384x1600x1600", 16384, 1600, 1600},
      {"gpt2-xl fc1 16384x6400x1600", 16384, 6400, 1600},
      {"gpt2-xl fc2 16384x1600x6400", 16384, 1600, 6400},
      {"llama-1b qkv 16384x3072x2048", 16384, 3072, 2048},
      {"llama-1b out 16384x2048x2048", 16384, 2048, 2048},
      {"llama-1b up 16384x16384x2048", 16384, 16384, 2048},
      {"llama-1b down 16384x2048x8192", 16384, 2048, 8192},
      {"llama-8b qkv 8192x6144x4096", 8192, 6144, 4096},
      {"llama-8b out 8192x4096x4096", 8192, 4096, 4096},
      {"llama-8b up 8192x28672x4096", 8192, 28672, 4096},
      {"llama-8b down 8192x4096x14336", 8192, 4096, 14336},
      {"qwen-7b qkv 8192x4608x3584", 8192, 4608, 3584},
      {"qwen-7b out 8192x3584x3584", 8192, 3584, 3584},
      {"qwen-7b up 8192x37888x3584", 8192, 37888, 3584},
      {"qwen-7b down 8192x3584x18944", 8192, 3584, 18944},
      {"nam56r mamba3 in 32768x24992x4096", 32768, 24992, 4096},
      {"nam56r mamba3 out 32768x4096x8192", 32768, 4096, 8192},
      {"nam56r m2rnn in 32768x1811x4096", 32768, 1811, 4096},
      {"nam56r m2rnn out 32768x4096x816", 32768, 4096, 816},
      {"nam56r mla down 32768x192x4096", 32768, 192, 4096},
      {"nam56r mla up 32768x4096x64", 32768, 4096, 64},
      {"nam56r mla out 32768x4096x2048", 32768, 4096, 2048},
      {"nam56r shared 32768x1024x4096", 32768, 1024, 4096},
      {"square 8192x8192x8192", 8192, 8192, 8192},
  };
  return all;
}

inline size_t gemm_shapes_most() {  // elements of the largest tensor
  size_t most = 0;
  for (const GemmShape& s : gemm_shapes())
    for (const size_t n : {static_cast<size_t>(s.tokens) * s.out, static_cast<size_t>(s.tokens) * s.in, static_cast<size_t>(s.out) * s.in}) most = n > most ? n : most;
  return most;
}

}  // namespace weft::check
