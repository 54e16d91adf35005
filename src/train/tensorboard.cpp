#include "train/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/files.h"

namespace weft::train {
namespace {

constexpr std::array<uint32_t, 256> kTable = [] {
  std::array<uint32_t, 256> t{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? 0x82F63B78u ^ (c >> 1) : c >> 1;
    t[i] = c;
  }
  return t;
}();

uint32_t masked(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

template <class T>
std::string raw(T v) { return {reinterpret_cast<const char*>(&v), sizeof v}; }

std::string varint(uint64_t v) {
  std::string s;
  for (; v >= 0x80; v >>= 7) s += static_cast<char>(v | 0x80);
  return s + static_cast<char>(v);
}

// Fields in wire form: number and wire type in one key.
std::string integer(int field, uint64_t v) { return varint(static_cast<uint64_t>(field) << 3) + varint(v); }
std::string fixed64(int field, double v) { return varint(static_cast<uint64_t>(field) << 3 | 1) + raw(v); }
std::string fixed32(int field, float v) { return varint(static_cast<uint64_t>(field) << 3 | 5) + raw(v); }
std::string bytes(int field, std::string_view v) { return varint(static_cast<uint64_t>(field) << 3 | 2) + varint(v.size()) + std::string(v); }

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

}  // namespace

uint32_t crc32c(std::string_view data) {
  uint32_t c = ~0u;
  for (const char b : data) c = kTable[(c ^ static_cast<uint8_t>(b)) & 0xff] ^ (c >> 8);
  return ~c;
}

EventWriter::EventWriter(const std::string& folder, int64_t purge_from) {
  make_folders(folder);
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  path_ = fmt::format("{}/events.out.tfevents.{:010}.{}.{}", folder, static_cast<int64_t>(now()), host, ::getpid());
  record(fixed64(1, now()) + bytes(3, "brain.Event:2"));
  if (purge_from > 1) record(fixed64(1, now()) + integer(2, static_cast<uint64_t>(purge_from)) + bytes(7, integer(1, 1)));  // session log: START
}

void EventWriter::record(const std::string& event) {
  const std::string length = raw(static_cast<uint64_t>(event.size()));
  append_file(path_, length + raw(masked(length)) + event + raw(masked(event)));
}

void EventWriter::scalars(int64_t step, std::span<const std::pair<std::string, double>> values) {
  std::string summary;
  for (const auto& [tag, value] : values) summary += bytes(1, bytes(1, tag) + fixed32(2, static_cast<float>(value)));
  record(fixed64(1, now()) + integer(2, static_cast<uint64_t>(step)) + bytes(5, summary));
}

Verdict TensorBoard::on_step(const StepReport& r) {
  std::vector<std::pair<std::string, double>> v{{"train/loss", r.loss}, {"train/grad_norm", r.grad_norm}, {"train/lr", r.lr},
                                                {"speed/tokens_per_second", r.tokens_per_second}, {"speed/peak_fraction", r.peak_fraction},
                                                {"memory/bytes", static_cast<double>(r.memory_bytes)}};
  if (r.bits_per_byte > 0) v.emplace_back("train/bits_per_byte", r.bits_per_byte);
  for (const auto& [key, value] : r.figures) v.emplace_back("model/" + key, value);
  writer_.scalars(r.step, v);
  return Verdict::kGoOn;
}

void TensorBoard::on_eval(const EvalReport& e) {
  std::vector<std::pair<std::string, double>> v{{"val/loss", e.loss}, {"val/perplexity", e.perplexity}};
  if (e.bits_per_byte > 0) v.emplace_back("val/bits_per_byte", e.bits_per_byte);
  writer_.scalars(e.step, v);
}

}  // namespace weft::train
