// How fast the data path is, beside the plain algorithms that it replaces, in the same run. For `weft bench data`.
#pragma once
#include <cstdint>
#include <string>

#include "base/json.h"

namespace weft::data {

struct BenchOptions {
  std::string folder;                  // for temporary files; needs about 10 bytes a token
  int64_t tokens = int64_t{1} << 27;   // of the file that is read
  int64_t index_documents = 4000000;   // of the index that is built
  int64_t seq_len = 4096;
};
// Keys: index_build_s, index_threads, index_plain_s, index_ratio, index_samples, index_equal; megatron ("equal", or why it was not
// run), megatron_index_s, megatron_walk_s, megatron_ratio with a Python in WEFT_ORACLES; open_full_s, open_stamped_s;
// read_tokens_per_s (samples of a shuffled order, one thread, from the page cache). Throws when the two indices differ.
Json bench_files(const BenchOptions&);
// The same index by megatron-core with its compiled helper. InternalError when it differs.
Json bench_megatron(const BenchOptions&, const class IndexedTokens& set, const class GptIndex& ours, int64_t seq_len, uint32_t seed);
// A set of very many documents (its .bin is a hole): cold_open_s with the full check, warm_open_s with its stamp, cold_plan_s (all
// three index arrays of an epoch, and their files), warm_plan_s (their files opened), samples, peak_bytes. About 30 bytes a document
// of disk, 6 of memory.
Json bench_scale(const std::string& folder, int64_t documents);
// batch_tokens_per_s, batch_tokens_per_core_s (of this thread's own time): whole batches of tensors, made in the calling thread. In the library with tensors.
Json bench_batches(const BenchOptions&);

}  // namespace weft::data
