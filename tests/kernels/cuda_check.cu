// weft_cuda_check [--perf] [--small] [--filter NAME]: every own CUDA kernel against fp64 on the host; see check.h.
#include <cstdio>
#include <cstring>
#include <exception>

#include "check.h"

namespace weft::check {
void check_norms(Checker&);
void check_elementwise(Checker&);
void check_optimizer(Checker&);
void check_group_norms(Checker&);
void check_embedding(Checker&);
void check_moe(Checker&);
void check_sequence(Checker&);
void check_quantize(Checker&);
void check_mhc(Checker&);
void check_kl(Checker&);

namespace {
constexpr Suite kSuites[] = {
    {"norms", check_norms},
    {"elementwise", check_elementwise},
    {"optimizer", check_optimizer},
    {"group_norms", check_group_norms},
    {"embedding", check_embedding},
    {"moe", check_moe},
    {"sequence", check_sequence},
    {"quantize", check_quantize},
    {"mhc", check_mhc},
    {"kl", check_kl},
};
}  // namespace
}  // namespace weft::check

int main(int argc, char** argv) {
  using namespace weft::check;
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--perf") == 0)
      options.perf = true;
    else if (std::strcmp(argv[i], "--small") == 0)
      options.small = true;
    else if (std::strcmp(argv[i], "--filter") == 0 && i + 1 < argc)
      options.filter = argv[++i];
    else
      return std::fprintf(stderr, "weft_cuda_check: unknown argument: got %s, want --perf, --small or --filter NAME\n", argv[i]),
             2;
  }
  int suites_failed = 0;
  try {
    Checker checker(options);
    for (const Suite& suite : kSuites) {
      try {
        suite.run(checker);
      } catch (const std::exception& e) {  // the other suites still run
        std::printf("suite name=%s ok=0 why=\"%s\"\n", suite.name, e.what());
        ++suites_failed;
      }
    }
    return checker.finish() != 0 || suites_failed > 0 ? 1 : 0;
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "weft_cuda_check: %s\n", e.what()), 1;
  }
}
