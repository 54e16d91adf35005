// A dataset is a function of the index: nothing is kept between calls, so a position is one integer.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/indexed.h"
#include "data/side_streams.h"
#include "data/token_weights.h"

namespace weft::data {

struct Sample {  // n inputs and their targets
  std::vector<int32_t> tokens;           // [n + 1]: inputs are the first n, targets the last n
  std::vector<float> loss_weights;       // [n]: weight of predicting tokens[i + 1] from what stands before; 0 across documents
  std::vector<int32_t> document_starts;  // increasing, the first is 0, all below n: documents packed in a row
  std::vector<std::vector<int32_t>> streams;  // of the inputs, by kStreamKinds, -1 where absent: each [n], or empty when the set lacks it; none without side streams
  int64_t inputs() const { return static_cast<int64_t>(loss_weights.size()); }
};

struct DocumentStarts {  // of a sample, as in Sample
  std::vector<int32_t> starts;
  int64_t inputs = 0;
};

class Dataset {  // calls from several threads at once are fine
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  virtual void read(int64_t index, Sample& out) const = 0;  // reuses the vectors of `out`; InputError outside [0, size)
  Sample at(int64_t index) const {
    Sample s;
    read(index, s);
    return s;
  }
  // What `read` gives, for a plan of more samples than are read. Sets that know it without reading their tokens say so.
  virtual DocumentStarts starts(int64_t index) const {
    const Sample s = at(index);
    return {s.document_starts, s.inputs()};
  }
};

// Windows of `seq_len` tokens over the documents of an indexed file, one after another; consecutive windows share one token.
// No index is built and nothing is shuffled here (SampleOrder does that). The weight of a document's first token is 0; of the
// others it is 1, or what PREFIX.weights says.
class TokenWindows final : public Dataset {
 public:
  // `keep_last`: the shorter window at the end counts too, filled up with token 0 at weight 0, as a document of its own.
  TokenWindows(std::shared_ptr<const IndexedTokens> tokens, int64_t seq_len, bool keep_last);
  int64_t size() const override { return size_; }
  void read(int64_t index, Sample& out) const override;
  DocumentStarts starts(int64_t index) const override;

 private:
  int64_t document_at(int64_t token) const;
  int64_t check(int64_t index) const;  // the window's first token
  template <class F> DocumentStarts starts_from(int64_t begin, const F& found) const;  // found(start): of each document but the first
  std::shared_ptr<const IndexedTokens> tokens_;
  std::shared_ptr<const SideStreams> streams_;  // PREFIX.idx.json; null when there is none
  std::shared_ptr<const TokenWeights> weights_;  // null: all 1
  int64_t seq_len_, size_;
};

// Every id below the vocabulary's size; InputError names file, token and id. Walks the .bin once.
void check_vocabulary(const IndexedTokens&, int64_t vocab_size);

}  // namespace weft::data
