// A small driver for fuzz targets where the compiler brings none: it changes seeds at random, by a fixed seed, and runs the
// target on each. Usage: fuzz_X RUNS SEED_FILE... ; a fault ends the process with a signal and leaves the input in crash.bin.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>
#include <fcntl.h>
#include <vector>

#include "base/files.h"
#include "base/rng.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size);

namespace {

std::string current;

void on_fault(int signal) {
  const int fd = open("crash.bin", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0 && write(fd, current.data(), current.size()) < 0) _exit(126);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

std::string changed(std::string s, const std::vector<std::string>& seeds, uint64_t key) {
  uint64_t n = 0;
  const auto draw = [&](uint64_t below) { return weft::rng::bits(key, n++) % (below == 0 ? 1 : below); };
  for (uint64_t changes = 1 + draw(4); changes > 0; --changes) {
    const size_t at = s.empty() ? 0 : static_cast<size_t>(draw(s.size()));
    switch (draw(7)) {
      case 0: if (!s.empty()) s[at] = static_cast<char>(s[at] ^ (1 << draw(8))); break;
      case 1: if (!s.empty()) s[at] = static_cast<char>(draw(256)); break;
      case 2: s.insert(at, 1, static_cast<char>(draw(256))); break;
      case 3: if (!s.empty()) s.erase(at, 1 + draw(8)); break;
      case 4: s.resize(at); break;
      case 5: {  // a part of another seed
        const std::string& other = seeds[draw(seeds.size())];
        const size_t from = static_cast<size_t>(draw(other.size()));
        s.insert(at, other.substr(from, draw(32)));
        break;
      }
      default: {  // a whole number that is often a boundary
        constexpr uint64_t values[] = {0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF};
        const uint64_t value = values[draw(11)];
        const size_t width = size_t{1} << draw(4);
        for (size_t k = 0; k < width && at + k < s.size(); ++k) s[at + k] = static_cast<char>(value >> (8 * k));
      }
    }
  }
  return s;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::vector<std::string> seeds;
  for (int i = 2; i < argc; ++i) seeds.push_back(weft::read_file(argv[i]));
  for (int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, on_fault);
  const uint64_t runs = std::strtoull(argv[1], nullptr, 10);
  for (uint64_t i = 0; i < runs; ++i) {
    const std::string& seed = seeds[i % seeds.size()];
    current = i < seeds.size() ? seed : changed(seed, seeds, i);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(current.data()), current.size());
  }
  std::printf("%llu inputs, no fault\n", static_cast<unsigned long long>(runs));
  return 0;
}
