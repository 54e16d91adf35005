// A small driver for fuzz targets where the compiler brings none: it changes seeds at random, by a fixed seed, and runs the
// target on each. Usage: fuzz_X COUNT[:SECONDS[:FIRST]] SEED_FILE... ; input number N is the same on every machine, and 0 is no limit.
// A fault, or an input that takes more than a minute, ends the process with a signal, says "fault at input N" and leaves the input
// in crash.bin. All targets at once, with a table: run_all.py.
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>
#include <fcntl.h>
#include <vector>

#include "base/files.h"
#include "base/rng.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size);

namespace {

constexpr unsigned kLongestSeconds = 60;
std::string current;
unsigned long long number = 0;

void on_fault(int signal) {
  const int fd = open("crash.bin", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0 && write(fd, current.data(), current.size()) < 0) _exit(126);
  char text[64];
  const int n = std::snprintf(text, sizeof text, "fault at input %llu\n", number);
  if (write(2, text, static_cast<size_t>(n)) < 0) _exit(126);
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
  if (argc < 3 || std::strspn(argv[1], "0123456789:") != std::strlen(argv[1])) return 2;
  std::vector<std::string> seeds;
  for (int i = 2; i < argc; ++i) seeds.push_back(weft::read_file(argv[i]));
  for (int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGALRM}) std::signal(signal, on_fault);
  char* at = argv[1];
  unsigned long long limits[3] = {0, 0, 0};  // count, seconds, first
  for (auto& limit : limits) {
    limit = std::strtoull(at, &at, 10);
    if (*at != ':') break;
    ++at;
  }
  const auto begin = std::chrono::steady_clock::now();
  unsigned long long done = 0;
  for (; limits[0] == 0 || done < limits[0]; ++done) {
    if (limits[1] > 0 && done % 64 == 0 && std::chrono::steady_clock::now() - begin >= std::chrono::seconds(limits[1])) break;
    number = limits[2] + done;
    const std::string& seed = seeds[number % seeds.size()];
    current = number < seeds.size() ? seed : changed(seed, seeds, number);
    alarm(kLongestSeconds);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(current.data()), current.size());
  }
  std::printf("%llu inputs, no fault\n", done);
  return 0;
}
