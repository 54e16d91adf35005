// The layer-pattern language: one character is one residual branch.
//
//   pattern = main { "/" mtp }          mtp: one multi-token-prediction depth; all depths are the same string
//   main    = segment { "|" segment }   "|" is a pipeline boundary; a segment may be empty
//   segment = { letter }
//
// "M*E*-|M-/*-/*-": two pipeline segments of 5 and 2 layers and two prediction depths of two layers each.
// Letters have Megatron's meanings unless a recipe binds others: M Mamba-2, G gated delta net, * attention, + MLA, D DSA,
// - MLP, E MoE, and C H W the compressed, heavily compressed and window-only attention of the latent family.
// Goals: a text that anyone may parse alike (kVersion), problems with a column and a remedy. Not a goal: what a letter builds.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace weft::pattern {

inline constexpr int kVersion = 1;

struct Alphabet {
  std::string letters = "MG*+D-ECHW";
  std::string attention = "*", latent = "+DCHW";  // never both in one pattern: their caches and projections differ in kind
};

struct Pattern {
  std::vector<std::string> segments{""};  // of main, at least one
  std::string mtp;                        // the layers of one depth
  int mtp_depths = 0;

  std::string layers() const;  // of main, without boundaries
  int num_layers() const;      // of main
  int count(char letter) const;  // in main and in every prediction depth
  bool operator==(const Pattern&) const = default;
};

// ConfigError: unknown letter, "|" in a prediction depth, depths that differ, attention mixed with the latent family.
// A "/" with nothing after it means no prediction depth.
Pattern parse(std::string_view text, const Alphabet& = {});
std::string print(const Pattern&);  // parse(print(p)) == p

// Repeats the layers of `p` and cuts them at `num_layers`; ConfigError for a pattern with boundaries or without layers.
Pattern tile(const Pattern& p, int num_layers);

struct Stage {
  int rank, chunk;     // pipeline rank; virtual stage on it
  std::string layers;  // may be empty
  int offset;          // global index of its first layer, from 0
};

struct Split {  // how to cut a pattern
  int ranks = 1;
  int chunks = 1;                // virtual stages a rank
  int first = -1, last = -1;     // layers on the first and last rank; -1 is the even share
};

// In order of depth: stage i lies on rank i % ranks as chunk i / ranks. With boundaries their number decides the chunks
// (`chunks` is 1 or that number); without, an even cut, or first and last as told and the middle even, and one chunk a rank.
std::vector<Stage> split(const Pattern&, const Split&);

// Layers of recurrent branches M with round(num_layers * attention) attention and round(num_layers * mlp) MLP ones spread
// evenly, as Megatron's old ratio flags placed them.
std::string from_ratios(int num_layers, double attention, double mlp = 0);

// Other alphabets, letter by letter; ConfigError for a letter that is not in `table`. "|" and "/" pass.
std::string translate(std::string_view text, const std::map<char, char>& table);

// `text` with the letters at the given ranks among all `from` changed to `to`: with_ranks("*E*E*E", '*', {1}, 'D') is "*EDE*E".
std::string with_ranks(std::string_view text, char from, const std::vector<int>& ranks, char to);

}  // namespace weft::pattern
