// weft bench data: tokenizing beside Hugging Face's tokenizers, on the same text and tokenizer, one thread each.
#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>

#include "app/bench.h"
#include "base/error.h"
#include "base/files.h"
#include "text/bpe_train.h"
#include "text/unicode.h"
#include "text/unigram_train.h"

namespace weft::app {
namespace {

// Arguments: tokenizer.json, texts (JSON lines), vocabulary size, a file with the split pattern. Prints one JSON object.
constexpr const char* kPeer = R"(
import json, os, sys, time
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers as P, trainers
texts = [json.loads(line) for line in open(sys.argv[2], encoding="utf-8")]
size = sum(len(t.encode()) for t in texts)
t = Tokenizer.from_file(sys.argv[1])
t.encode_special_tokens = True
out = {"version": tokenizers.__version__}
for name, encode in (("encode_batch", t.encode_batch), ("encode_batch_fast", t.encode_batch_fast)):
    best = 1e9
    for _ in range(2):
        begin = time.thread_time()
        encoded = encode(texts, add_special_tokens=False)
        best = min(best, time.thread_time() - begin)
    out[name + "_mb_s"] = size / best / 1e6
out["tokens"] = sum(len(e.ids) for e in encoded)
h = 0
for e in encoded:
    for i in e.ids:
        h = (h * 31 + i) & 0xFFFFFFFF
out["hash"] = h
alphabet, specials = P.ByteLevel.alphabet(), ["<|endoftext|>"]
for name, model, trainer in (("bpe", models.BPE(), trainers.BpeTrainer(vocab_size=int(sys.argv[3]), initial_alphabet=alphabet, special_tokens=specials, show_progress=False)),
                             ("unigram", models.Unigram(), trainers.UnigramTrainer(vocab_size=int(sys.argv[3]), initial_alphabet=alphabet, special_tokens=specials, show_progress=False))):
    n = Tokenizer(model)
    n.pre_tokenizer = P.Sequence([P.Split(Regex(open(sys.argv[4]).read()), "isolated"), P.ByteLevel(add_prefix_space=False, use_regex=False)])
    begin = time.process_time()
    n.train_from_iterator(texts, trainer)
    out[name + "_train_s"] = time.process_time() - begin
print(json.dumps(out))
)";

double cpu_seconds(clockid_t clock = CLOCK_THREAD_CPUTIME_ID) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// A file, or the files of a folder: at most `most` bytes in all.
std::vector<std::string> texts_of(const std::string& root, size_t most) {
  namespace fs = std::filesystem;
  std::vector<std::string> files, out;
  if (!fs::exists(root)) throw InputError(root + ": not found");
  if (fs::is_directory(root)) {
    for (const auto& e : fs::recursive_directory_iterator(root))
      if (e.is_regular_file() && !e.is_symlink()) files.push_back(e.path().string());
  } else {
    files.push_back(root);
  }
  std::sort(files.begin(), files.end());
  size_t bytes = 0;
  for (const std::string& file : files) {
    if (bytes >= most) break;
    std::string text = text::replace_invalid_utf8(read_file(file));
    text.resize(std::min(text.size(), most - bytes));
    text.resize(text.size() - text::unfinished_utf8_suffix(text));
    bytes += text.size();
    if (!text.empty()) out.push_back(std::move(text));
  }
  if (out.empty()) throw InputError(root + ": has no text");
  return out;
}

Json run_peer(const std::string& folder, int32_t vocab_size) {
  const char* python = std::getenv("WEFT_ORACLES");
  if (python == nullptr) return nullptr;
  write_file_atomic(folder + "/peer.py", kPeer);
  const std::string command = fmt::format("'{0}' '{1}/peer.py' '{1}/tokenizer.json' '{1}/texts.jsonl' {2} '{1}/pattern' 2>/dev/null", python, folder, vocab_size);
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return nullptr;
  std::string out;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
  return ::pclose(pipe) == 0 ? parse_json(out, "peer") : Json(nullptr);
}

template <class Trainer, class Options>
std::pair<text::Tokenizer, double> trained(const std::vector<std::string_view>& texts, int32_t vocab_size) {
  Options o;
  o.vocab_size = vocab_size, o.threads = 1;
  const double begin = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
  Trainer trainer(o);
  trainer.add(texts);
  text::Tokenizer t = trainer.train();
  return {std::move(t), cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - begin};
}

}  // namespace

Json bench_tokenizer(const TokenizerBench& o, const std::string& folder) {
  const std::vector<std::string> texts = texts_of(o.text, static_cast<size_t>(o.megabytes) * 1000000);
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  std::string lines;
  size_t bytes = 0;
  for (const std::string& t : texts) lines += Json(t).dump() + "\n", bytes += t.size();
  auto [bpe, bpe_s] = trained<text::BpeTrainer, text::BpeTrainOptions>(views, o.vocab_size);
  const double unigram_s = trained<text::UnigramTrainer, text::UnigramTrainOptions>(views, o.vocab_size).second;
  bpe.save(folder + "/tokenizer.json");
  write_file_atomic(folder + "/texts.jsonl", lines);
  write_file_atomic(folder + "/pattern", text::kDefaultPattern);
  Json out = {{"tokenizer_text_mb", static_cast<double>(bytes) / 1e6}, {"tokenizer_vocab_size", bpe.vocab_size()}};
  std::vector<int32_t> ids;
  double best = 1e30;
  for (int pass = 0; pass < 5; ++pass) {
    ids.clear();
    const double begin = cpu_seconds();
    for (const std::string_view t : views) bpe.encode_append(t, {}, ids);
    best = std::min(best, cpu_seconds() - begin);
  }
  uint32_t hash = 0;
  for (const int32_t id : ids) hash = hash * 31 + static_cast<uint32_t>(id);
  out["tokenizer_encode_mb_s"] = static_cast<double>(bytes) / best / 1e6;
  out["tokenizer_bpe_train_s"] = bpe_s, out["tokenizer_unigram_train_s"] = unigram_s;
  const Json peer = run_peer(folder, o.vocab_size);
  if (peer.is_null()) {
    out["tokenizer_peer"] = "absent: set WEFT_ORACLES to a Python that has tokenizers";
    return out;
  }
  if (peer["tokens"] != ids.size() || peer["hash"] != hash) throw InternalError("bench data: ids differ from those of tokenizers " + peer["version"].get<std::string>());
  out["tokenizer_peer"] = "tokenizers " + peer["version"].get<std::string>() + ", equal ids";
  for (const char* key : {"encode_batch_mb_s", "encode_batch_fast_mb_s", "bpe_train_s", "unigram_train_s"}) out[std::string("tokenizer_peer_") + key] = peer[key];
  out["tokenizer_encode_ratio"] = out["tokenizer_encode_mb_s"].get<double>() / peer["encode_batch_mb_s"].get<double>();
  out["tokenizer_bpe_train_ratio"] = peer["bpe_train_s"].get<double>() / bpe_s;
  out["tokenizer_unigram_train_ratio"] = peer["unigram_train_s"].get<double>() / unigram_s;
  return out;
}

}  // namespace weft::app
