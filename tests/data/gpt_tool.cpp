// Test program: opens GPT data sets from a list of configurations, so that a script can compare what it leaves in the cache
// folders, and the samples it prints, with Megatron's. Usage: gpt_tool CASES.json
#include <cstdio>
#include <exception>

#include "base/error.h"
#include "data/gpt_dataset.h"
#include "data/order.h"

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

}  // namespace
}  // namespace weft::data

int main(int argc, char** argv) {
  using namespace weft;
  try {
    if (argc != 3) throw ConfigError("usage: gpt_tool CASES.json OUT.json");
    const Json in = read_json_file(argv[1]);
    Json out;
    out["cases"] = Json::array();
    for (const Json& c : in.at("cases")) out["cases"].push_back(data::run(c));
    out["cyclic"] = data::permutations(in.at("cyclic"));
    write_json_file(argv[2], out);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
