#include "data/bench.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <optional>

#include "base/cpu.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/rng.h"
#include "data/gpt_dataset.h"
#include "data/numpy_random.h"
#include "data/order.h"

namespace weft::data {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A set whose .bin is a hole: lengths are all that index building reads. Not forced to the disk: it is thrown away.
void write_hollow_set(const std::string& prefix, int64_t documents) {
  std::ofstream idx(prefix + ".idx", std::ios::binary);
  const auto put = [&](auto value) { idx.write(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto length = [](int64_t i) { return 1 + static_cast<int32_t>((static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u >> 32) % 1500); };
  constexpr int64_t kPart = 1 << 16;
  const auto put_all = [&](int64_t count, auto value_of) {
    std::vector<decltype(value_of(int64_t{0}))> part;
    for (int64_t first = 0; first < count; first += kPart) {
      part.clear();
      for (int64_t i = first; i < std::min(count, first + kPart); ++i) part.push_back(value_of(i));
      idx.write(reinterpret_cast<const char*>(part.data()), static_cast<std::streamsize>(part.size() * sizeof part[0]));
    }
  };
  idx.write("MMIDIDX\0\0", 9);
  put(uint64_t{1}), put(static_cast<uint8_t>(TokenType::kU16)), put(static_cast<uint64_t>(documents)), put(static_cast<uint64_t>(documents + 1));
  int64_t at = 0;
  put_all(documents, length);
  put_all(documents, [&](int64_t i) {
    const int64_t begin = at;
    at += 2 * int64_t{length(i)};
    return begin;
  });
  put_all(documents + 1, [](int64_t i) { return i; });
  idx.close();
  if (!idx) throw IoError("bench data: cannot write '" + prefix + ".idx'");
  write_file_atomic(prefix + ".bin", "");
  std::filesystem::resize_file(prefix + ".bin", static_cast<uintmax_t>(at));
}

// The textbook versions: one draw, one swap; one length, one subtraction.
struct PlainIndex {
  std::vector<int32_t> documents, sample;
  std::vector<uint32_t> shuffle;
};
template <class T>
void plain_shuffle(NumpyRandom& random, std::vector<T>& values) {
  for (size_t i = values.size(); i-- > 1;) std::swap(values[i], values[random.interval(i)]);
}
PlainIndex plain_index(const std::vector<int32_t>& lengths, int64_t seq_len, uint32_t seed) {
  PlainIndex out;
  NumpyRandom random(seed);
  out.documents.resize(lengths.size());
  std::iota(out.documents.begin(), out.documents.end(), 0);
  plain_shuffle(random, out.documents);
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const int64_t samples = (tokens - 1) / seq_len;
  out.sample.resize(2 * static_cast<size_t>(samples + 1));
  int32_t place = 0, offset = 0;
  for (int64_t i = 1; i <= samples; ++i) {
    int32_t need = static_cast<int32_t>(seq_len) + 1;
    while (need > 0) {
      const int32_t rest = lengths[static_cast<size_t>(out.documents[static_cast<size_t>(place)])] - offset;
      need -= rest;
      if (need <= 0) offset += need + rest - 1;
      else ++place, offset = 0;
    }
    out.sample[2 * static_cast<size_t>(i)] = place;
    out.sample[2 * static_cast<size_t>(i) + 1] = offset;
  }
  out.shuffle.resize(static_cast<size_t>(samples));
  std::iota(out.shuffle.begin(), out.shuffle.end(), 0u);
  plain_shuffle(random, out.shuffle);
  return out;
}

void bench_index(const BenchOptions& o, Json& out) {
  const std::string prefix = o.folder + "/index";
  write_hollow_set(prefix, o.index_documents);
  double t = now();
  const IndexedTokens set = IndexedTokens::open(prefix, IndexCheck::kStamped);
  out["open_full_s"] = now() - t;
  t = now();
  IndexedTokens::open(prefix, IndexCheck::kStamped);
  out["open_stamped_s"] = now() - t;
  std::vector<int32_t> lengths(static_cast<size_t>(set.sequences()));
  std::memcpy(lengths.data(), set.raw_lengths().data(), set.raw_lengths().size());
  const int64_t seq_len = std::min<int64_t>(o.seq_len, 1024);
  double own = 1e30, plain = 1e30;
  std::optional<GptIndex> last;
  for (int repeat = 0; repeat < 3; ++repeat) {
    t = now();
    const PlainIndex want = plain_index(lengths, seq_len, 1234);
    plain = std::min(plain, now() - t);
    t = now();
    const GptIndex got = GptIndex::build(set, {0, set.sequences()}, {seq_len, 1234, std::nullopt, true, true});
    own = std::min(own, now() - t);
    const bool equal = std::equal(want.documents.begin(), want.documents.end(), got.document_index().begin(), got.document_index().end()) &&
                       std::equal(want.sample.begin(), want.sample.end(), got.sample_index().begin(), got.sample_index().end()) &&
                       std::equal(want.shuffle.begin(), want.shuffle.end(), got.shuffle_index().begin(), got.shuffle_index().end());
    if (!equal) throw InternalError("bench data: the index differs from the plain algorithm's");
    out["index_samples"] = got.samples();
    last = got;
  }
  out["index_equal"] = true;
  out["index_build_s"] = own;
  out["index_plain_s"] = plain;
  out["index_ratio"] = plain / own;
  out["index_threads"] = std::min(cpu::threads(), 5);
  out.update(bench_megatron(o, set, *last, seq_len, 1234));
  if (out.contains("megatron_index_s")) out["megatron_ratio"] = out["megatron_index_s"].get<double>() / own;
}

void bench_reading(const BenchOptions& o, Json& out) {
  const std::string prefix = o.folder + "/read";
  IndexedWriter writer(prefix, TokenType::kU16);
  std::vector<int32_t> document;
  for (int64_t d = 0; writer.tokens() < o.tokens; ++d) {
    document.resize(static_cast<size_t>(1 + rng::bits(2, static_cast<uint64_t>(d)) % 3000));
    std::iota(document.begin(), document.end(), static_cast<int32_t>(d % 30000));
    writer.add_document(document);
  }
  writer.finish();
  const auto tokens = std::make_shared<const IndexedTokens>(IndexedTokens::open(prefix));
  const TokenWindows windows(tokens, o.seq_len, false);
  const EpochOrder order(windows.size(), 7, true);
  Sample sample;
  double best = 0;
  for (int pass = 0; pass < 3; ++pass) {  // the first pass fills the page cache
    const double t = now();
    int64_t sum = 0;
    for (int64_t i = 0; i < windows.size(); ++i) windows.read(order.at(i), sample), sum += sample.tokens[0];
    WEFT_CHECK(sum >= 0, "reading gives ids");
    best = std::max(best, static_cast<double>(windows.size() * o.seq_len) / (now() - t));
  }
  out["read_tokens_per_s"] = best;
}

}  // namespace

Json bench_scale(const std::string& folder, int64_t documents) {
  make_folders(folder);
  const std::string prefix = folder + "/scale";
  const double begin = now();
  write_hollow_set(prefix, documents);
  log::info(fmt::format("written: {:.3f}", now() - begin));
  Json out{{"documents", documents}};
  const auto timed = [&](const char* key, auto&& call) {
    const double t = now();
    auto result = call();
    out[key] = now() - t;
    log::info(fmt::format("{}: {:.3f}", key, now() - t));
    return result;
  };
  timed("cold_open_s", [&] { return IndexedTokens::open(prefix, IndexCheck::kStamped).tokens(); });
  const IndexedTokens set = timed("warm_open_s", [&] { return IndexedTokens::open(prefix, IndexCheck::kStamped); });
  GptCacheKey key;
  key.dataset_path = prefix, key.seq_len = 4096;
  const GptIndexConfig config{4096, 1234, std::nullopt, true, true};
  const auto plan = [&] { return open_gpt_index(set, key, config, {0, set.sequences()}, folder + "/cache").samples(); };
  out["samples"] = timed("cold_plan_s", plan);
  timed("warm_plan_s", plan);
  out["peak_bytes"] = cpu::memory_peak();
  return out;
}

Json bench_files(const BenchOptions& options) {
  make_folders(options.folder);
  Json out;
  bench_index(options, out);
  bench_reading(options, out);
  return out;
}

}  // namespace weft::data
