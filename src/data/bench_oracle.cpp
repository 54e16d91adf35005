#include <stdlib.h>
#include <sys/wait.h>
#include <zlib.h>

#include "base/error.h"
#include "base/files.h"
#include "data/bench.h"
#include "data/gpt_index.h"

namespace weft::data {
namespace {

// What megatron-core's GPTDataset does to build its indices of one epoch: numpy's shuffles around its compiled walk.
constexpr const char* kScript = R"(import json, sys, time, zlib
import numpy
from megatron.core.datasets import helpers
folder, seq_len, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
lengths = numpy.fromfile(folder + "/lengths.bin", numpy.int32)
best = walk = 1e30
for _ in range(3):
    begin = time.perf_counter()
    random = numpy.random.RandomState(seed)
    documents = numpy.arange(len(lengths), dtype=numpy.int32)
    random.shuffle(documents)
    tokens = int(lengths.sum())
    at = time.perf_counter()
    samples = helpers.build_sample_idx(lengths, documents, seq_len, 1, tokens, True, True)
    walk = min(walk, time.perf_counter() - at)
    shuffle = numpy.arange(len(samples) - 1, dtype=numpy.uint32)
    random.shuffle(shuffle)
    best = min(best, time.perf_counter() - begin)
print(json.dumps({"s": best, "walk_s": walk, "crc": [zlib.crc32(numpy.ascontiguousarray(a).data) for a in (documents, samples, shuffle)]}))
)";

uint64_t crc_of(const void* bytes, size_t count) { return crc32_z(0, static_cast<const Bytef*>(bytes), count); }

}  // namespace

Json bench_megatron(const BenchOptions& o, const IndexedTokens& set, const GptIndex& ours, int64_t seq_len, uint32_t seed) {
  const char* python = std::getenv("WEFT_ORACLES");
  if (python == nullptr || *python == '\0') return {{"megatron", "not run: WEFT_ORACLES names no Python"}};
  write_file_atomic(o.folder + "/lengths.bin", {reinterpret_cast<const char*>(set.raw_lengths().data()), set.raw_lengths().size()});
  write_file_atomic(o.folder + "/index.py", kScript);
  const std::string out = o.folder + "/index.json";
  const std::string command = "OMP_NUM_THREADS=1 '" + std::string(python) + "' -W ignore '" + o.folder + "/index.py' '" + o.folder + "' " + std::to_string(seq_len) + " " + std::to_string(seed) + " > '" + out + "' 2> '" + o.folder + "/index.err'";
  const int status = std::system(command.c_str());
  if (status != 0) {
    std::string error = read_file(o.folder + "/index.err");
    while (!error.empty() && error.back() == '\n') error.pop_back();
    return {{"megatron", "not run: " + error.substr(error.rfind('\n') + 1)}};
  }
  const Json r = read_json_file(out);
  const std::vector<uint64_t> want{crc_of(ours.document_index().data(), ours.document_index().size_bytes()), crc_of(ours.sample_index().data(), ours.sample_index().size_bytes()),
                                   crc_of(ours.shuffle_index().data(), ours.shuffle_index().size_bytes())};
  if (r.at("crc").get<std::vector<uint64_t>>() != want) throw InternalError("bench data: the index differs from megatron-core's");
  return {{"megatron", "equal"}, {"megatron_index_s", r.at("s")}, {"megatron_walk_s", r.at("walk_s")}};
}

}  // namespace weft::data
