// Test program for the scripts that compare with Python packages. Usage:
//   data_tool gpt CASES.json OUT.json   opens GPT data sets; leaves their caches and prints samples
//   data_tool bench FOLDER [DOCUMENTS]  prints the figures of data/bench.h
//   data_tool structure TREE OUT        prepares C++ with single bytes as tokens; prints the arguments of each file as JSON
//   data_tool parquet FILE FIRST COLUMN...  prints the rows from number FIRST as JSON lines
//   data_tool scale FOLDER DOCUMENTS    prints the figures of bench_scale
//   data_tool write SETS.json           writes indexed files: {prefix, type, documents: [[sequence, ...], ...], merge: [prefix, ...]}
#include <cstdio>
#include <exception>

#include "base/error.h"
#include "data/bench.h"
#include "data/gpt_dataset.h"
#include "data/order.h"
#include "data/structure/compile_flags.h"
#include "data/structure/prepare_structure.h"
#include "data/tokenizers.h"
#include "data/parquet_rows.h"

namespace weft::data {
namespace {

std::optional<Blend> blend_of(const Json& j) {
  if (j.is_null()) return std::nullopt;
  return Blend{j.at(0).get<std::vector<std::string>>(), j.at(1).is_null() ? std::vector<double>{} : j.at(1).get<std::vector<double>>()};
}

Json run(const Json& c) {
  GptDataConfig config;
  config.blend = blend_of(c.at("blend"));
  if (!config.blend) {
    for (size_t s = 0; s < 3; ++s) config.blend_per_split[s] = blend_of(c.at("blend_per_split").at(s));
  } else {
    config.split = c.at("split").get<std::string>();
  }
  for (size_t s = 0; s < 3; ++s) {
    if (!c.at("sizes").at(s).is_null()) config.sizes[s] = c.at("sizes").at(s).get<int64_t>();
  }
  config.seq_len = c.at("seq_len").get<int64_t>();
  config.seed = c.at("seed").get<uint32_t>();
  config.drop_last_partial_validation = c.at("drop_last").get<bool>();
  config.cache_folder = c.at("cache").get<std::string>();
  config.tokenizer = c.at("tokenizer");
  config.samples.eod = c.at("eod").get<int32_t>();
  config.samples.pad = c.at("pad").get<int32_t>();
  config.samples.eod_mask_loss = c.at("eod_mask_loss").get<bool>();
  config.samples.isolate_documents = false;
  Json out = Json::array();
  for (Split s : {Split::kTrain, Split::kValid, Split::kTest}) {
    Json split;
    try {
      const auto set = open_gpt(config, s);
      if (!set) {
        out.push_back(nullptr);
        continue;
      }
      split["size"] = set->size();
      split["samples"] = Json::array();
      for (int64_t i = 0; i < std::min<int64_t>(set->size(), c.at("show").get<int64_t>()); ++i) {
        const Sample sample = set->at(set->size() - 1 - i);
        split["samples"].push_back({sample.tokens, sample.loss_weights});
      }
    } catch (const Error& e) {
      split["error"] = e.what();
    }
    out.push_back(split);
  }
  return out;
}

Json permutations(const Json& c) {
  Json out = Json::array();
  for (const Json& n : c) {
    const CyclicOrder order(n.at(0), n.at(1), n.at(2), n.at(3));
    Json places = Json::array();
    for (int64_t i = 0; i < n.at(4).get<int64_t>(); ++i) places.push_back(order.at(i));
    out.push_back(places);
  }
  return out;
}

void write_set(const Json& c) {
  const int code = c.at("type").get<int>();
  IndexedWriter writer(c.at("prefix").get<std::string>(), static_cast<TokenType>(code));
  for (const Json& document : c.at("documents")) {
    for (const Json& sequence : document) writer.add_sequence(sequence.get<std::vector<int32_t>>());
    writer.end_document();
  }
  for (const Json& other : c.at("merge")) writer.append(IndexedTokens::open(other.get<std::string>()));
  writer.finish();
}

Json structure(const std::string& tree, const std::string& out) {
  text::BpeTrainOptions single;
  single.vocab_size = 257;
  PrepareOptions options;
  options.inputs = {tree};
  options.output = out;
  options.hold_out_every = 0;
  StructureOptions whole;
  whole.document_tokens = 0;
  prepare_structure(options, whole, trained_bpe(single));
  std::vector<std::string> files;
  for (const CorpusFile& f : list_corpus({tree}).files) files.push_back(f.path);
  const CompileFlags flags({tree}, files, "", {});
  bool found = false;
  const std::vector<std::string> headers = clang::Library::open()->header_arguments(&found);
  Json j = Json::object();
  for (const std::string& f : files) {
    if (cpp_language(f) == CppLanguage::kNone) continue;
    std::vector<std::string> arguments = flags.of(f);
    arguments.insert(arguments.end(), headers.begin(), headers.end());
    j[f] = arguments;
  }
  return j;
}

}  // namespace
}  // namespace weft::data

int main(int argc, char** argv) {
  using namespace weft;
  try {
    const std::string verb = argc > 2 ? argv[1] : "";
    if (verb == "gpt" && argc == 4) {
      const Json in = read_json_file(argv[2]);
      Json out;
      out["cases"] = Json::array();
      for (const Json& c : in.at("cases")) out["cases"].push_back(data::run(c));
      out["cyclic"] = data::permutations(in.at("cyclic"));
      write_json_file(argv[3], out);
    } else if (verb == "write" && argc == 3) {
      for (const Json& c : read_json_file(argv[2])) data::write_set(c);
    } else if (verb == "structure" && argc == 4) {
      std::printf("%s\n", data::structure(argv[2], argv[3]).dump().c_str());
    } else if (verb == "parquet" && argc >= 5) {
      data::ParquetRows rows(argv[2], std::vector<std::string>(argv + 4, argv + argc), std::stoll(argv[3]));
      for (std::string line; rows.next(line);) std::printf("%s\n", line.c_str());
    } else if (verb == "scale" && argc == 4) {
      std::printf("%s\n", data::bench_scale(argv[2], std::stoll(argv[3])).dump(2).c_str());
    } else if (verb == "bench" && argc >= 3) {
      data::BenchOptions options{argv[2]};
      if (argc > 3) options.index_documents = std::stoll(argv[3]);
      std::printf("%s\n", data::bench_files(options).dump(2).c_str());
    } else {
      throw ConfigError("usage: data_tool gpt CASES.json OUT.json | data_tool write SETS.json | data_tool bench FOLDER [DOCUMENTS] | data_tool structure TREE OUT");
    }
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
