// What is added to the word embedding: rows found by hashes of the last tokens (nam56r.md 7), and the place of a token in its source
// (nam56r.md 8). Both end in a matrix that starts at zero: at first they change nothing.
#pragma once
#include "base/config.h"
#include "nn/module.h"

namespace weft::nn {

struct NgramConfig {
  int rows = 0, heads = 8, dim = 16, max_order = 3;
  bool cross_documents = false;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("rows", self.rows, "Rows of each hash table, rounded up to primes. 0: no n-gram embedding. 499800 gives NAM56R's tables.", Range{0, 1 << 28});
    visit("heads", self.heads, "Tables of each order.", Range{1, 64});
    visit("dim", self.dim, "Width of a row.", Range{1, 1 << 12});
    visit("max_order", self.max_order, "Longest n-gram; orders begin at 2.", Range{2, 8});
    visit("cross_documents", self.cross_documents, "The tokens before a document's first count too, as in the published NAM56R runs.");
  }
  int tables() const { return heads * (max_order - 1); }
};
std::vector<int64_t> ngram_primes(const NgramConfig&);  // the first tables() primes from `rows` on

struct StructureConfig {
  int dim = 0, streams = 2, dep_levels = 16, depths = 64, siblings = 64, node_types = 64;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("dim", self.dim, "Width of the structure table. 0: no structure embedding; 64 in NAM56R. The data needs side streams (weft prepare --structure cpp).", Range{0, 1 << 12});
    visit("streams", self.streams, "How many are used of: structure, dep level, depth, sibling, node type. 2: the core of NAM56R.", Range{1, 5});
    visit("dep_levels", self.dep_levels, "Rows for the dep level; larger ones count as the last. The same for the next three.", Range{1, 65535});
    visit("depths", self.depths, "Rows for the depth in the syntax tree.", Range{1, 65535});
    visit("siblings", self.siblings, "Rows for the place among siblings.", Range{1, 65535});
    visit("node_types", self.node_types, "Rows for the node type; docs/structure.md has 64.", Range{1, 65535});
  }
  std::vector<int64_t> classes() const;  // of the streams in use
};

// x_TD += W e, e [T, tables x dim] rows of "table" [sum of primes, dim]. Buffers "mult", "bias", "prime", "offset" are kept with the
// checkpoint. While decoding, the last tokens of each sequence are a state.
class NgramEmbedding final : public Module {
 public:
  NgramEmbedding(const NgramConfig&, int64_t model_dim);
  std::vector<StateSpec> states() const override;
  void fill_buffers(uint64_t seed) override;

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  at::Tensor rows(const CtxPtr&);
  NgramConfig config_;
  ops::Weight &table_, &out_;
  at::Tensor &mult_, &bias_, &prime_, &offset_;
  at::Tensor orders_;  // [tables] int32, on the device of the tokens
};

// x_TD += W sum_c scale_c S[offset_c + id_c]; nothing where ctx.streams_ST is undefined (generated text has no streams).
// Parameters "table" [sum of classes, dim], "scale" [streams] fp32 from 1 / streams, "up.weight" [D, dim].
class StructureEmbedding final : public Module {
 public:
  StructureEmbedding(const StructureConfig&, int64_t model_dim);

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  std::vector<int64_t> classes_;
  ops::Weight &table_, &scale_, &up_;
};

}  // namespace weft::nn
