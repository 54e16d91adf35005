#include "base/config.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace weft {
namespace {

enum class Kind : uint8_t { kWsd, kCosine, kInverseSqrt };
constexpr std::array<const char*, 3> names(Kind) { return {"wsd", "cosine", "inverse_sqrt"}; }

struct Attention {
  static constexpr const char* kKind = "gqa";
  int heads = 8, kv_heads = 8;
  template <class Self, class Visitor>
  static void fields(Self& s, Visitor& visit) {
    visit("heads", s.heads, "Query heads.", Range{1, 256});
    visit("kv_heads", s.kv_heads, "Key heads.", Range{1, 256});
  }
  void check(std::vector<Problem>& out) const {
    if (heads % kv_heads != 0) out.push_back({"kv_heads", "does not divide heads"});
  }
};

struct Scan {
  static constexpr const char* kKind = "mamba2";
  int state = 64;
  template <class Self, class Visitor>
  static void fields(Self& s, Visitor& visit) { visit("state", s.state, "State size.", Range{1, 1024}); }
};

struct Moe {
  int num_experts = 8, top_k = 2;
  template <class Self, class Visitor>
  static void fields(Self& s, Visitor& visit) {
    visit("num_experts", s.num_experts, "Routed experts in one layer.", Range{1, 4096});
    visit("top_k", s.top_k, "Experts that each token goes to.", Range{1, 64});
  }
  void check(std::vector<Problem>& out) const {
    if (top_k > num_experts) out.push_back({"top_k", "is above num_experts"});
  }
};

struct Settings {
  std::string out = "runs/x";
  bool resume = true;
  float lr = 0.1f;
  double eps = 1e-8;
  int64_t steps = 100, warmup = -1;
  uint64_t seed = 1234;
  uint8_t small = 3;
  Kind schedule = Kind::kWsd;
  std::vector<double> weights{0.5, 0.5};
  std::vector<std::string> files;
  std::vector<Moe> many;
  Moe moe;
  std::map<char, std::variant<Attention, Scan>> symbols{{'*', Attention{}}, {'M', Scan{}}};
  std::map<std::string, std::variant<Attention, Scan>> overrides;
  std::map<std::string, int> limits;
  template <class Self, class Visitor>
  static void fields(Self& s, Visitor& visit) {
    visit("out", s.out, "Folder of the run.", Alias{"save"});
    visit("resume", s.resume, "Go on from the last checkpoint.");
    visit("lr", s.lr, "Peak learning rate.", Range{0, 10}, Live{});
    visit("eps", s.eps, "Adam's epsilon.", Range{0, 1});
    visit("steps", s.steps, "Optimizer steps.", Range{1, 1e12}, Unit{"steps"}, Alias{"train_iters"});
    visit("warmup", s.warmup, "Warm-up steps; -1 is a tenth of steps.", Range{-1, 1e12}, Unit{"steps"});
    visit("seed", s.seed, "Seed of everything random.");
    visit("small", s.small, "A small number.");
    visit("schedule", s.schedule, "Shape of the learning rate.");
    visit("weights", s.weights, "Blend weights.", Range{0, 1});
    visit("files", s.files, "Inputs.");
    visit("many", s.many, "A list of tables.");
    visit("moe", s.moe, "Mixture of experts.");
    visit("symbols", s.symbols, "What each letter of the pattern builds.");
    visit("overrides", s.overrides, "By layer.");
    visit("limits", s.limits, "Limits by name.", Range{0, 9});
  }
  void derive() {
    if (warmup < 0) warmup = steps / 10;
  }
  void check(std::vector<Problem>& out) const {
    if (warmup > steps) out.push_back({"warmup", "is above steps"});
  }
};

std::vector<Problem> read(Settings& run, const std::string& toml, std::vector<std::string> sets = {}) {
  const auto node = config::bind(run);
  std::vector<Problem> out;
  config::read_toml(*node, toml, "run.toml", out);
  for (const std::string& s : sets) config::set(*node, s, out);
  return out;
}

std::string text(const std::vector<Problem>& problems) {
  std::string out;
  for (const Problem& p : problems) out += p.path + ": " + p.text + "\n";
  return out;
}

}  // namespace

TEST(Config, ReadsEveryTypeOfMember) {
  Settings run;
  const auto problems = read(run, R"(
out = "runs/y"
resume = false
lr = 3e-4
train_iters = 1_000_000
schedule = "cosine"
weights = [1, 0]
files = ["a", "b"]
many = [{top_k = 1}, {num_experts = 4}]
limits = {x = 1, y = 2}
[moe]
top_k = 4
[symbols."*"]
heads = 16
[symbols.R]
kind = "mamba2"
state = 128
)");
  ASSERT_EQ(text(problems), "");
  EXPECT_EQ(run.out, "runs/y");
  EXPECT_FALSE(run.resume);
  EXPECT_EQ(run.lr, 3e-4f);
  EXPECT_EQ(run.steps, 1000000);
  EXPECT_EQ(run.schedule, Kind::kCosine);
  EXPECT_EQ(run.weights, (std::vector<double>{1, 0}));
  EXPECT_EQ(run.many.size(), 2u);
  EXPECT_EQ(run.many[1].num_experts, 4);
  EXPECT_EQ(run.moe.top_k, 4);
  EXPECT_EQ(run.moe.num_experts, 8);
  EXPECT_EQ(std::get<Attention>(run.symbols['*']).heads, 16);
  EXPECT_EQ(std::get<Attention>(run.symbols['*']).kv_heads, 8);
  EXPECT_EQ(std::get<Scan>(run.symbols['R']).state, 128);
  EXPECT_EQ(run.limits.at("y"), 2);
}

TEST(Config, ReportsAllProblemsAtOnceWithPlaceAndNearestKey) {
  Settings run;
  const auto problems = read(run, "lrr = 1\nsteps = \"many\"\nschedule = \"cosin\"\nsmall = 256\nseed = -1\ntop_k = 3\nresume = 1\n"
                                  "[moe]\ntopk = 2\n[symbols]\nQ = {heads = 2}\nAB = {kind = \"gqa\"}\nM = {kind = \"mamba\"}\n",
                             {"steps=1.5", "nonsense", "eps=nan", "moe.top_k.x=1"});
  EXPECT_EQ(text(problems),
            "run.toml:1: lrr: unknown key; did you mean lr?\n"
            "run.toml:2: steps: got \"many\", want an integer\n"
            "run.toml:3: schedule: got \"cosin\", want wsd | cosine | inverse_sqrt; did you mean cosine?\n"
            "run.toml:4: small: got 256, want an integer of unsigned 8 bits\n"
            "run.toml:5: seed: got -1, want an integer of unsigned 64 bits\n"
            "run.toml:6: top_k: unknown key; did you mean moe.top_k?\n"
            "run.toml:7: resume: got 1, want true | false\n"
            "run.toml:9: moe.topk: unknown key; did you mean moe.top_k?\n"
            "run.toml:11: symbols.Q: is new and has no kind; want kind = gqa | mamba2\n"
            "run.toml:12: symbols.AB: the key must be one character\n"
            "run.toml:13: symbols.M.kind: got \"mamba\", want gqa | mamba2; did you mean mamba2?\n"
            "--set steps: got 1.5, want an integer\n"
            "--set nonsense: want KEY=VALUE, such as moe.top_k=4\n"
            "--set eps: got null, want a finite number\n"
            "--set moe.top_k: got a table, want an integer\n");
}

TEST(Config, BadTomlIsOneProblemWithItsLine) {
  Settings run;
  const auto problems = read(run, "lr = 1\nsteps = = 2\n");
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].path, "run.toml:2");
  EXPECT_EQ(text(read(run, "out = 2024-01-01")), "run.toml:1: out: got a date or time, which no setting takes\n");
}

TEST(Config, SetTakesTomlValuesBareWordsAndQuotedKeys) {
  Settings run;
  const auto problems = read(run, "", {"out=123", "lr=1e-3", "moe.top_k = 4", "schedule=cosine", "weights=[0.25, 0.75]", "files=[\"a=b\"]",
                                       "symbols.\"*\".heads=4", "symbols.M={kind=\"gqa\", heads=3}", "limits.\"a.b\"=7"});
  ASSERT_EQ(text(problems), "");
  EXPECT_EQ(text(read(run, "", {"save=7"})), "");
  EXPECT_EQ(run.out, "7");
  read(run, "", {"out=123"});
  EXPECT_EQ(run.out, "123");
  EXPECT_EQ(run.moe.top_k, 4);
  EXPECT_EQ(run.schedule, Kind::kCosine);
  EXPECT_EQ(run.files, std::vector<std::string>{"a=b"});
  EXPECT_EQ(std::get<Attention>(run.symbols['*']).heads, 4);
  EXPECT_EQ(std::get<Attention>(run.symbols['M']).heads, 3);
  EXPECT_EQ(run.limits.at("a.b"), 7);
}

TEST(Config, ResolveChecksRangesThenDerivesThenChecksRules) {
  Settings run;
  auto node = config::bind(run);
  std::vector<Problem> out;
  config::resolve(*node, out);
  EXPECT_EQ(text(out), "");  // defaults lie within their own ranges
  EXPECT_EQ(run.warmup, 10);

  Settings bad;
  read(bad, "steps = 0\nlr = 11\nweights = [0.5, 2]\nlimits = {x = 10}\n[symbols.\"*\"]\nheads = 0\n[moe]\ntop_k = 9");
  out.clear();
  config::resolve(*config::bind(bad), out);
  EXPECT_EQ(text(out), "lr: got 11, want 0 to 10\nsteps: got 0, want 1 to 1000000000000\nweights[1]: got 2, want 0 to 1\n"
                       "symbols.\"*\".heads: got 0, want 1 to 256\nlimits.x: got 10, want 0 to 9\n");
  Settings rules;
  read(rules, "warmup = 200\nmany = [{top_k = 9}]\n[symbols.\"*\"]\nheads = 7\n[moe]\ntop_k = 9");
  out.clear();
  config::resolve(*config::bind(rules), out);
  EXPECT_EQ(text(out), "warmup: is above steps\nmany[0].top_k: is above num_experts\nmoe.top_k: is above num_experts\n"
                       "symbols.\"*\".kv_heads: does not divide heads\n");
  try {
    config::throw_if_any(out, "run.toml");
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_TRUE(std::string(e.what()).starts_with("run.toml: 4 problems\n  warmup: is above steps\n"));
  }
}

TEST(Config, TomlAndJsonRoundTripToTheBit) {
  Settings run;
  read(run, "lr = 0.3\neps = 1.0000000000000002e-8\nseed = 9223372036854775807\nout = \"a \\\"b\\\" \\n \\u00e9\"\nmany = [{top_k = 1}]\n"
            "limits = {\"x.y\" = 3}\n[symbols.Q]\nkind = \"gqa\"\n");
  const auto node = config::bind(run);
  Settings again;
  ASSERT_EQ(text(read(again, config::to_toml(*node))), "") << config::to_toml(*node);
  EXPECT_EQ(config::to_json(again), config::to_json(run));
  EXPECT_EQ(again.lr, run.lr);
  EXPECT_EQ(again.eps, run.eps);
  Settings big;
  big.seed = ~0ull;
  EXPECT_EQ(config::from_json<Settings>(parse_json(config::to_json(big).dump(), "x"), "x").seed, ~0ull);
  EXPECT_NE(config::to_toml(*node).find("lr = 0.3\n"), std::string::npos);  // floats are written short
}

TEST(Config, DiffNamesWhatChangedAndWhatMayChange) {
  Settings a, b;
  read(b, "lr = 0.2\n[symbols.\"*\"]\nheads = 4\nkv_heads=4\n[symbols.M]\nkind = \"gqa\"");
  const auto changes = config::diff(*config::bind(a), *config::bind(b));
  std::string shown;
  for (const auto& c : changes) shown += c.path + " " + c.before + "->" + c.after + (c.live ? " live" : "") + "\n";
  EXPECT_EQ(shown, "lr 0.1->0.2 live\nsymbols.\"*\".heads 8->4\nsymbols.\"*\".kv_heads 8->4\nsymbols.M.kind \"mamba2\"->\"gqa\"\n"
                   "symbols.M.state 64->\nsymbols.M.heads ->8\nsymbols.M.kv_heads ->8\n");
}

TEST(Config, HelpDocsAndRecipeNameEveryKey) {
  Settings run;
  const auto node = config::bind(run);
  const std::string help = config::help(*node), docs = config::markdown(*node), recipe = config::recipe(*node);
  for (const std::string& key : config::keys(*node)) EXPECT_NE(help.find(key), std::string::npos) << key;
  EXPECT_NE(help.find("steps"), std::string::npos);
  EXPECT_NE(docs.find("## symbols.KEY (kind = \"mamba2\")"), std::string::npos) << docs;
  EXPECT_NE(docs.find("| `top_k` | integer, 1 to 64 | `2` |"), std::string::npos) << docs;
  EXPECT_NE(docs.find("## overrides.KEY\n\nBy layer.\n\nThe same tables as `symbols.KEY`.\n"), std::string::npos) << docs;
  EXPECT_NE(recipe.find("# By layer.\n# [overrides.KEY]\n"), std::string::npos) << recipe;
  Settings from_recipe;
  EXPECT_EQ(text(read(from_recipe, recipe)), "") << recipe;
  EXPECT_EQ(config::to_json(from_recipe), config::to_json(Settings{}));
  std::string live;  // with the comment marks of keys removed it still reads
  size_t begin = 0;
  for (size_t end; (end = recipe.find('\n', begin)) != std::string::npos; begin = end + 1) {
    std::string line = recipe.substr(begin, end - begin);
    if (line.starts_with("# ") && line.find(" = ") != std::string::npos && line.find('(') == std::string::npos) line = line.substr(2);
    live += line + "\n";
  }
  EXPECT_EQ(text(read(from_recipe, live)), "") << live;
}

}  // namespace weft
