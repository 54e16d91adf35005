// weft_tensor_check [--small] [--perf] [names...]: the tensor-core kernels against fp64; with --perf, their times at the goal shapes.
#include <algorithm>

#include "harness.h"

namespace weft::check {
void check_attention(bool small);
void perf_attention();
void check_decode(bool small);
void perf_decode();
void check_ssd(bool small);
void perf_ssd();
void check_mamba3(bool small);
void perf_mamba3();
void check_m2rnn(bool small);
void perf_m2rnn();
void check_indexer(bool small);
void perf_indexer();
void check_gdn(bool small);
void perf_gdn();
void check_delta(bool small);
void perf_delta();
void check_indexer_loss(bool small);
void perf_indexer_loss();
void check_sparse_mla(bool small);
void perf_sparse_mla();
void check_grouped_general(bool small);
void perf_grouped_general();
void check_linear_xent(bool small);
void perf_linear_xent();
void check_grouped_gemm(bool small);
void perf_grouped_gemm();
void check_gemm(bool small);
void perf_gemm();
void perf_scaled_gemm();
}  // namespace weft::check

int main(int argc, char** argv) {
  using namespace weft::check;
  struct Entry {
    const char* name;
    void (*check)(bool);
    void (*perf)();
  };
  const Entry all[] = {
      {"attention", check_attention, perf_attention},
      {"decode", check_decode, perf_decode},
      {"ssd", check_ssd, perf_ssd},
      {"mamba3", check_mamba3, perf_mamba3},
      {"sparse_mla", check_sparse_mla, perf_sparse_mla},
      {"m2rnn", check_m2rnn, perf_m2rnn},
      {"indexer", check_indexer, perf_indexer},
      {"gdn", check_gdn, perf_gdn},
      {"delta", check_delta, perf_delta},
      {"indexer_loss", check_indexer_loss, perf_indexer_loss},
      {"grouped_general", check_grouped_general, perf_grouped_general},
      {"linear_xent", check_linear_xent, perf_linear_xent},
#if !defined(WEFT_EMULATE)
      {"grouped_gemm", check_grouped_gemm, perf_grouped_gemm},
      {"gemm", check_gemm, perf_gemm},
      {"scaled_gemm", [](bool) {}, perf_scaled_gemm},  // its check is gemm's
#endif
  };
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);  // what a crash follows is seen
  bool small = false, perf = false;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--small") small = true; else if (arg == "--perf") perf = true; else names.push_back(arg);
  }
  for (const Entry& e : all) {
    bool wanted = names.empty();
    for (const auto& n : names) wanted |= n == e.name;
    if (!wanted) continue;
    if (perf) e.perf(); else e.check(small);
    std::fflush(stdout);
  }
  if (!perf) std::printf("%d rows, %d failed\n", rows(), failures());
  return failures() == 0 ? 0 : 1;
}
