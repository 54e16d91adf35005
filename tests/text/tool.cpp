// A small command line over the tokenizer library for the oracle tests. Lines in and out are JSON.
//   encode FILE [--special] [--add] [--offsets]   JSON string -> list of ids (with --offsets: [ids, [[begin, end], ...]] in bytes);
//                                                 --raw: instead, int32 in binary: how many ids, then they
//   decode FILE [--skip-special]                  list of ids -> JSON string, whole and streamed (they must agree)
//   train OUT SIZE TEXTS [--pattern P] [--min N]  JSON strings, one a text; writes a tokenizer.json
//   train-unigram OUT SIZE TEXTS [--pattern P]
//   rewrite IN OUT                                any vocabulary file -> tokenizer.json
//   template FILE                                 each line an object of variables -> JSON string, or {"error": ...}
//   bench FILE TEXT SECONDS                       MB/s of this thread's own time of encode, TEXT's lines of JSON strings
#include <chrono>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "text/bpe_train.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "text/unigram_train.h"

namespace weft::text {
namespace {

using nlohmann::json;

std::vector<std::string> lines_of(const std::string& file) {
  std::vector<std::string> out;
  const std::string all = read_file(file);
  for (size_t at = 0; at < all.size();) {
    const size_t end = std::min(all.find('\n', at), all.size());
    out.push_back(json::parse(all.begin() + static_cast<std::ptrdiff_t>(at), all.begin() + static_cast<std::ptrdiff_t>(end)).get<std::string>());
    at = end + 1;
  }
  return out;
}

int encode_raw(const Tokenizer& t, EncodeOptions options) {
  std::string line;
  std::vector<int32_t> out;
  const auto flush = [&] {
    std::cout.write(reinterpret_cast<const char*>(out.data()), static_cast<std::streamsize>(out.size() * sizeof(int32_t)));
    out.clear();
  };
  while (std::getline(std::cin, line)) {
    const size_t at = out.size();
    out.push_back(0);
    t.encode_append(json::parse(line).get_ref<const std::string&>(), options, out);
    out[at] = static_cast<int32_t>(out.size() - at - 1);
    if (out.size() > 1 << 16) flush();
  }
  flush();
  return 0;
}

int encode(const Tokenizer& t, EncodeOptions options, bool offsets) {
  std::string line;
  while (std::getline(std::cin, line)) {
    const std::string text = json::parse(line).get<std::string>();
    const std::vector<int32_t> ids = t.encode(text, options);
    if (!offsets) {
      std::cout << json(ids).dump() << '\n';
      continue;
    }
    const Encoding e = t.encode_with_offsets(text, options);
    if (e.ids != ids) throw std::runtime_error("ids with and without offsets differ for " + line);
    json ranges = json::array();
    for (const ByteRange& r : e.offsets) ranges.push_back({r.begin, r.end});
    std::cout << json{e.ids, ranges}.dump() << '\n';
  }
  return 0;
}

int decode(const Tokenizer& t, bool skip) {
  std::string line;
  while (std::getline(std::cin, line)) {
    const std::vector<int32_t> ids = json::parse(line).get<std::vector<int32_t>>();
    const std::string whole = t.decode(ids, skip);
    StreamDecoder stream(t, skip);
    std::string parts;
    for (const int32_t id : ids) {
      const std::string part = stream.push(id);
      json(part).dump();  // throws where a part is not UTF-8
      parts += part;
    }
    parts += stream.finish();
    if (parts != whole) throw std::runtime_error("streamed and whole decoding differ for " + line + ": " + json(parts).dump() + " " + json(whole).dump());
    std::cout << json(whole).dump() << '\n';
  }
  return 0;
}

int render(const std::string& file) {
  const ChatTemplate t(read_file(file), file);
  std::string line;
  while (std::getline(std::cin, line)) {
    try {
      const RenderedChat chat = t.render(nlohmann::ordered_json::parse(line), {.now = 1767225600});
      json ranges = json::array();
      for (const auto& r : chat.generated) ranges.push_back({r.begin, r.end});
      std::cout << json{{"text", chat.text}, {"generated", ranges}}.dump() << '\n';
    } catch (const std::exception& e) {
      std::cout << json{{"error", e.what()}}.dump() << '\n';
    }
  }
  return 0;
}

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

int bench(const Tokenizer& t, const std::string& file, double seconds) {
  const std::vector<std::string> texts = lines_of(file);
  size_t bytes = 0, ids = 0;
  for (const std::string& text : texts) bytes += text.size();
  std::vector<int32_t> out;
  double best = 1e30;
  for (const double start = cpu_seconds(); cpu_seconds() - start < seconds;) {
    const double begin = cpu_seconds();
    ids = 0;
    for (const std::string& text : texts) {
      out.clear();
      t.encode_append(text, {}, out);
      ids += out.size();
    }
    best = std::min(best, cpu_seconds() - begin);
  }
  std::cout << json{{"mb_per_s", static_cast<double>(bytes) / best / 1e6}, {"ids", ids}}.dump() << '\n';
  return 0;
}

template <class Trainer, class Options>
int train(Options options, const std::string& texts_file, const std::string& out) {
  Trainer trainer(options);
  const std::vector<std::string> texts = lines_of(texts_file);
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const auto start = std::chrono::steady_clock::now();
  trainer.add(views);
  const auto counted = std::chrono::steady_clock::now();
  const Tokenizer t = trainer.train();
  const auto end = std::chrono::steady_clock::now();
  t.save(out);
  std::cout << json{{"count_s", std::chrono::duration<double>(counted - start).count()}, {"train_s", std::chrono::duration<double>(end - counted).count()},
                    {"words", trainer.stats().words}, {"merges", trainer.stats().merges}, {"rounds", trainer.stats().rounds},
                    {"bits_per_byte", trainer.stats().bits_per_byte}}.dump() << '\n';
  return 0;
}

int run(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const auto has = [&](const char* flag) { return std::find(args.begin(), args.end(), flag) != args.end(); };
  const auto value = [&](const char* flag, const std::string& fallback) {
    const auto it = std::find(args.begin(), args.end(), flag);
    return it != args.end() && it + 1 != args.end() ? *(it + 1) : fallback;
  };
  const std::string verb = args.empty() ? "" : args[0];
  if (verb == "encode" && has("--raw")) return encode_raw(Tokenizer::load(args[1]), {has("--special"), has("--add")});
  if (verb == "encode" && args.size() >= 2) return encode(Tokenizer::load(args[1]), {has("--special"), has("--add")}, has("--offsets"));
  if (verb == "decode" && args.size() >= 2) return decode(Tokenizer::load(args[1]), has("--skip-special"));
  if (verb == "rewrite" && args.size() >= 3) return Tokenizer::load(args[1]).save(args[2]), 0;
  if (verb == "template" && args.size() >= 2) return render(args[1]);
  if (verb == "bench" && args.size() >= 4) return bench(Tokenizer::load(args[1]), args[2], std::stod(args[3]));
  if (verb == "train" && args.size() >= 4) {
    BpeTrainOptions options;
    options.vocab_size = std::stoi(args[2]);
    options.pattern = value("--pattern", "");
    options.min_frequency = std::stoi(value("--min", "0"));
    options.max_token_bytes = std::stoi(value("--longest", "0"));
    options.threads = std::stoi(value("--threads", "1"));
    return train<BpeTrainer>(options, args[3], args[1]);
  }
  if (verb == "train-unigram" && args.size() >= 4) {
    UnigramTrainOptions options;
    options.vocab_size = std::stoi(args[2]);
    options.pattern = value("--pattern", "");
    options.threads = std::stoi(value("--threads", "1"));
    return train<UnigramTrainer>(options, args[3], args[1]);
  }
  std::cerr << "usage: text_tool encode|decode|train|rewrite|template|bench ...\n";
  return 2;
}

}  // namespace
}  // namespace weft::text

int main(int argc, char** argv) {
  try {
    return weft::text::run(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 65;
  }
}
