// Fill in the middle (Bavarian et al. 2022): parts of a sample are re-ordered so that a model learns to write what belongs
// between a prefix and a suffix. Random numbers are a function of (seed, sample), so any order of reading gives the same samples.
#pragma once
#include <memory>

#include "base/config.h"
#include "data/dataset.h"
#include "text/tokenizer.h"

namespace weft::data {

struct FimConfig {
  double rate = 0.5;           // of segments (documents within the sample)
  double spm_rate = 0.5;       // of those: suffix first
  double fragment_rate = 0.5;  // with `split`: of the fragments within a segment that was chosen
  std::string no_prefix;       // segments that begin with this text are left alone
  std::string prefix = "<fim_prefix>", middle = "<fim_middle>", suffix = "<fim_suffix>", pad = "<fim_pad>", eod = "<|endoftext|>";
  std::string split;           // token between fragments (files), empty: none
  uint64_t seed = 1234;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("rate", self.rate, "Share of documents that are re-ordered. 0: off.", Range{0, 1});
    visit("spm_rate", self.spm_rate, "Of those: suffix, prefix, middle instead of prefix, suffix, middle.", Range{0, 1});
    visit("fragment_rate", self.fragment_rate, "With `split`: of the fragments within a document that was chosen.", Range{0, 1});
    visit("no_prefix", self.no_prefix, "Documents that begin with this text are left alone.");
    visit("prefix", self.prefix, "Token before the prefix.");
    visit("middle", self.middle, "Token before the middle.");
    visit("suffix", self.suffix, "Token before the suffix.");
    visit("pad", self.pad, "Token that fills up a sample.");
    visit("eod", self.eod, "Token between documents.");
    visit("split", self.split, "Token between fragments (files) of a document. Empty: none.");
    visit("seed", self.seed, "Of what is re-ordered and where it is cut.");
  }
};

class FimDataset final : public Dataset {
 public:
  // ConfigError when the tokenizer lacks one of the tokens or a rate is outside [0, 1].
  FimDataset(std::shared_ptr<const Dataset> base, std::shared_ptr<const text::Tokenizer> tokenizer, const FimConfig& config);
  int64_t size() const override { return base_->size(); }
  // As long as the base's sample: cut, or filled with the pad token at weight 0.
  void read(int64_t index, Sample& out) const override;

 private:
  void permute_segment(std::span<const int32_t> segment, uint64_t key, double rate, std::vector<int32_t>& out) const;
  std::shared_ptr<const Dataset> base_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  FimConfig config_;
  int32_t prefix_, middle_, suffix_, pad_, eod_, split_ = -1;
};

}  // namespace weft::data
