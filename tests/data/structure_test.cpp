// prepare --structure cpp on a small tree whose streams are written down here by hand, from the description in docs/structure.md.
// Tokens are single bytes (a vocabulary of 257), so that a stream is a text of the same length as the source.
#include "data/structure/prepare_structure.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "data/dataset.h"
#include "data/inspect_streams.h"
#include "data/prepare_state.h"
#include "data/side_streams.h"
#include "data/structure/compile_flags.h"
#include "data/structure/node_types.h"
#include "data/structure/shared_prefix.h"
#include "data/tokenizers.h"
#include "folder.h"

namespace weft::data {
namespace {

constexpr const char* kMathH = R"(#pragma once
namespace small {
struct Pair {
  int first;
  int second;
};
using Number = int;
int twice(int x);
int both(const Pair& p);
}  // namespace small
)";
constexpr const char* kMathCpp = R"(#include "math.h"

namespace small {

// Two times x.
int twice(int x) {
  return x + x;
}

int leaf() { return 7; }

int both(const Pair& p) {
  return twice(p.first) + leaf();
}

}  // namespace small
)";
constexpr const char* kMainCpp = R"(#include "../lib/math.h"

int main() {
  small::Pair p{1, 2};
  return small::both(p);
}
)";

bool have_libclang() {
  try {
    clang::Library::open();
    return true;
  } catch (const UnavailableError&) {
    return false;
  }
}
#define NEEDS_LIBCLANG() \
  if (!have_libclang()) GTEST_SKIP() << "libclang is not installed"

TokenizerMaker bytes() {
  text::BpeTrainOptions o;
  o.vocab_size = 257;
  return trained_bpe(o);
}
PrepareOptions options_for(const Folder& f) {
  PrepareOptions o;
  o.inputs = {f / "tree"};
  o.output = f / "out";
  o.hold_out_every = 0;
  return o;
}
void small_tree(const Folder& f) {
  f.write("tree/app/main.cpp", kMainCpp), f.write("tree/lib/math.cpp", kMathCpp), f.write("tree/lib/math.h", kMathH);
}

struct Doc {
  std::string text;
  std::array<std::vector<int32_t>, kNumStreams> streams;
  Json line;
};
std::vector<Doc> read_documents(const std::string& folder, const std::string& name = "train_text_document") {
  const std::string prefix = folder + "/" + name;
  const IndexedTokens set = IndexedTokens::open(prefix);
  const auto streams = SideStreams::open(prefix, set.tokens(), IndexCheck::kFull);
  const text::Tokenizer tokenizer = text::Tokenizer::load(folder + "/tokenizer.json");
  std::vector<Doc> out;
  const std::string lines = slurp(prefix + ".documents.jsonl");
  size_t at = 0;
  for (int64_t i = 0; i < set.sequences(); ++i) {
    Doc d;
    std::vector<int32_t> ids(static_cast<size_t>(set.length(i)));
    set.read(i, 0, set.length(i), ids.data());
    for (const int32_t id : ids) d.text += tokenizer.is_special(id) ? "" : tokenizer.token_bytes(id);
    for (int s = 0; s < kNumStreams; ++s) {
      d.streams[static_cast<size_t>(s)].resize(ids.size());
      streams->read(s, set.begin(i), set.length(i), d.streams[static_cast<size_t>(s)].data());
    }
    const size_t end = lines.find('\n', at);
    d.line = parse_json(lines.substr(at, end - at), "line");
    at = end + 1;
    out.push_back(std::move(d));
  }
  return out;
}
const Doc& by_root(const std::vector<Doc>& docs, const std::string& root) {
  for (const Doc& d : docs) {
    if (d.line["root"] == root) return d;
  }
  throw std::runtime_error("no document of " + root);
}
// A stream as text: digits, then letters (10 is 'a'), '-' where absent.
std::string drawn(const std::vector<int32_t>& values, size_t begin, size_t count) {
  std::string out;
  for (size_t i = begin; i < begin + count; ++i) out += values[i] < 0 ? '-' : values[i] < 10 ? static_cast<char>('0' + values[i]) : values[i] < 36 ? static_cast<char>('a' + values[i] - 10) : static_cast<char>('A' + values[i] - 36);
  return out;
}

}  // namespace

TEST(CallGraph, LevelsCountFromLeavesAndCyclesStandAbove) {
  // 0 -> 1 -> 2, 0 -> 2 (a longer way counts); 3 <-> 4 in a cycle, 5 -> 3 above it, 4 -> 2
  CallGraph g;
  for (const std::vector<int32_t>& list : std::vector<std::vector<int32_t>>{{2, 1}, {2}, {}, {4}, {3, 2}, {3}}) {
    g.callees.insert(g.callees.end(), list.begin(), list.end());
    g.first.push_back(static_cast<int64_t>(g.callees.size()));
  }
  EXPECT_EQ(dep_levels(g), (std::vector<int32_t>{2, 1, 0, 3, 3, 3}));
  std::vector<int32_t> seen(6, -1), found;
  for_each_callee(g, 5, 2, seen, 5, [&](int32_t c) { return found.push_back(c), true; });
  EXPECT_EQ(found, (std::vector<int32_t>{3, 4}));  // 2 is three calls away
}

TEST(Structure, SymbolIdIsTheEndOfTheDigest) {
  EXPECT_EQ(symbol_id("small::twice"), 1370168512);
  EXPECT_EQ(symbol_id("main"), 741330273);
}

TEST(Structure, NodeTypesCoverTenGroupsAndTheDocsShowThem) {
  std::set<std::string> groups;
  for (const NodeType& t : node_types()) groups.insert(t.group);
  EXPECT_EQ(groups.size(), 10u);
  EXPECT_STREQ(node_types()[static_cast<size_t>(node_type_of_kind(clang::kCall))].name, "call");
  EXPECT_STREQ(node_types()[static_cast<size_t>(node_type_of_kind(300))].name, "other");
  EXPECT_EQ(node_type_of_kind(100000), kOtherNode);
  EXPECT_NE(slurp(std::string(WEFT_SOURCE_DIR) + "/docs/structure.md").find(structure_markdown()), std::string::npos)
      << "docs/structure.md should hold:\n" << structure_markdown();
}

TEST(Structure, CommandsAreSplitAsAShellDoes) {
  EXPECT_EQ(split_command(R"(c++ -DA="x y" 'b c' d\ e "" -I/a)"), (std::vector<std::string>{"c++", "-DA=x y", "b c", "d e", "", "-I/a"}));
}

TEST(Structure, DocumentOfASmallTreeIsWhatTheDescriptionSays) {
  NEEDS_LIBCLANG();
  Folder f;
  small_tree(f);
  const StructureReport r = prepare_structure(options_for(f), {}, bytes());
  EXPECT_EQ(r.found.functions, 4);
  EXPECT_EQ(r.found.errors, 0) << (r.faults.empty() ? "" : r.faults[0]);
  EXPECT_EQ(r.found.calls, 3);
  EXPECT_EQ(r.found.without_functions, 1);
  const std::vector<Doc> docs = read_documents(f / "out");
  ASSERT_EQ(docs.size(), 4u);
  const Doc& d = by_root(docs, "main");
  const std::string preamble = "#include \"../lib/math.h\"\n\n", twice = "// Two times x.\nint twice(int x) {\n  return x + x;\n}\n\n", leaf = "int leaf() { return 7; }\n\n",
                    both = "int both(const Pair& p) {\n  return twice(p.first) + leaf();\n}\n\n", root = "int main() {\n  small::Pair p{1, 2};\n  return small::both(p);\n}\n\n";
  ASSERT_EQ(d.text, preamble + twice + leaf + both + root);
  const auto repeat = [](char c, size_t n) { return std::string(n, c); };
  EXPECT_EQ(drawn(d.streams[1], 0, d.text.size()), repeat('0', preamble.size() + twice.size() + leaf.size()) + repeat('1', both.size()) + repeat('2', root.size()));
  EXPECT_EQ(drawn(d.streams[0], 0, preamble.size()), repeat('1', preamble.size() - 2) + "00");
  // twice: namespace 1, function 2, parameter and block 3, return 4, sum 5, its operands' conversions 6, their names 7.
  const size_t at = preamble.size();
  const std::string source = "// Two times x.|int twice(int x) {|  return x + x;|}||";  // '|' for a line's end
  const std::string depths_ = "1111111111111111" "2222222222" "33333" "22" "3333" "4444444" "7" "555" "7" "333" "--";
  const std::string places_ = "0000000000000000" "0000000000" "00000" "00" "1111" "0000000" "0" "000" "0" "111" "--";
  ASSERT_EQ(source.size(), twice.size());
  EXPECT_EQ(drawn(d.streams[0], at, twice.size()), std::string(15, '6') + std::string(18, '2') + std::string(19, '3') + "00");
  EXPECT_EQ(drawn(d.streams[2], at, twice.size()), depths_);
  EXPECT_EQ(drawn(d.streams[3], at, twice.size()), places_);
  const auto type = [](const std::string& name) {
    for (size_t i = 0; i < node_types().size(); ++i) {
      if (node_types()[i].name == name) return static_cast<int32_t>(i);
    }
    return -2;
  };
  std::vector<int32_t> nodes;
  for (const auto& [name, count] : std::vector<std::pair<std::string, int>>{{"comment", 15}, {"namespace", 1}, {"function", 10}, {"parameter", 5}, {"function", 2}, {"block", 4}, {"return", 7}, {"value", 1},
                                                                            {"binary", 3}, {"value", 1}, {"block", 3}})
    nodes.insert(nodes.end(), static_cast<size_t>(count), type(name));
  nodes.insert(nodes.end(), 2, -1);
  EXPECT_EQ(std::vector<int32_t>(d.streams[4].begin() + static_cast<int64_t>(at), d.streams[4].begin() + static_cast<int64_t>(at + twice.size())), nodes);
  // The line of the document.
  ASSERT_EQ(d.line["chunks"].size(), 5u);
  EXPECT_EQ(d.line["chunks"][0]["kind"], 0);
  EXPECT_EQ(d.line["chunks"][1]["name"], "small::twice");
  EXPECT_EQ(d.line["chunks"][1]["symbol_id"], symbol_id("small::twice"));
  EXPECT_EQ(d.line["chunks"][1]["line"], 5);
  EXPECT_EQ(d.line["call_edges"], Json::array({Json::array({3, 1}), Json::array({3, 2}), Json::array({4, 3})}));
}

TEST(Structure, ClassesOfAPreamble) {
  NEEDS_LIBCLANG();
  Folder f;
  f.write("tree/a.cpp", "#define N 3\nnamespace a {\ntypedef int Int;\nstruct S {\n  int f;  // one\n  void m();\n};\nint v = N;\nint g() { return v; }\n}\n");
  PrepareOptions o = options_for(f);
  prepare_structure(o, {}, bytes());
  const Doc d = read_documents(f / "out")[0];
  const std::string text = "#define N 3\nnamespace a {\ntypedef int Int;\nstruct S {\n  int f;  // one\n  void m();\n};\nint v = N;\n\nint g() { return v; }\n\n";
  ASSERT_EQ(d.text, text);
  EXPECT_EQ(drawn(d.streams[0], 0, text.size()),
            "111111111111" "88888888888888" "777777777777777" "88" "4444444444444" "55555" "444" "666666" "444" "55555555" "44" "4" "88" "111111111" "8" "00" "22222222" "3333333333333"
            "00")
      << d.text;
  EXPECT_EQ(drawn(d.streams[4], text.find("N 3"), 3), "444");  // macro definition
  EXPECT_EQ(drawn(d.streams[4], text.find("N;"), 1), "5");     // macro use
}

TEST(Structure, WorkersAndInterruptionsChangeNoByte) {
  NEEDS_LIBCLANG();
  Folder f;
  small_tree(f);
  for (int i = 0; i < 6; ++i) f.write("tree/more/f" + std::to_string(i) + ".cc", "#include \"../lib/math.h\"\nint f" + std::to_string(i) + "() { return small::twice(" + std::to_string(i) + "); }\n");
  PrepareOptions o = options_for(f);
  o.hold_out_every = 4;
  o.append_eod = true;
  const StructureReport one = prepare_structure(o, {}, bytes());
  EXPECT_GT(one.prepare.val.documents, 0);
  o.output = f / "three";
  o.workers = 3;
  prepare_structure(o, {}, bytes());
  o.output = f / "stopped";
  std::atomic<bool> stop = false;
  o.stop = &stop;
  int calls = 0;
  o.progress = [&](const PrepareProgress& p) { stop = std::string(p.stage) == "parse" && ++calls == 3; };
  EXPECT_THROW(prepare_structure(o, {}, bytes()), Interrupted);
  stop = false, o.progress = {};
  const StructureReport again = prepare_structure(o, {}, bytes());
  EXPECT_TRUE(again.prepare.resumed);
  for (const std::string name : {"train_text_document", "val_text_document"}) {
    for (const std::string end : {".bin", ".idx", ".hashes", ".idx.json", ".documents.jsonl", "_token_ast_depth.bin", "_token_structure_ids.bin", "_token_dep_levels.bin"}) {
      EXPECT_EQ(slurp(f / "out/" + name + end), slurp(f / "three/" + name + end)) << name << end;
      EXPECT_EQ(slurp(f / "out/" + name + end), slurp(f / "stopped/" + name + end)) << name << end;
    }
  }
  EXPECT_FALSE(std::filesystem::exists(f / "out/sources.part"));
  EXPECT_TRUE(prepare_structure(o, {}, bytes()).prepare.reused);
  // Nothing of a held-out file stands in a training document.
  std::set<std::string> held;
  for (const Doc& d : read_documents(f / "out", "val_text_document")) held.insert(d.line["file"].get<std::string>());
  for (const Doc& d : read_documents(f / "out")) {
    for (const Json& c : d.line["chunks"]) EXPECT_FALSE(held.contains(c["file"].get<std::string>()));
  }
}

TEST(Structure, LimitsDuplicatesAndShortDocuments) {
  NEEDS_LIBCLANG();
  Folder f;
  small_tree(f);
  f.write("tree/copy/math.cpp", kMathCpp), f.write("tree/copy/math.h", kMathH);
  f.write("tree/s.cpp", "int s(){return 1;}");
  PrepareOptions o = options_for(f);
  StructureOptions s;
  const StructureReport r = prepare_structure(o, s, bytes());
  EXPECT_EQ(r.prepare.duplicates, 3);
  EXPECT_EQ(r.prepare.filtered, 0);  // with the empty line behind it: 20 bytes
  o.output = f / "short";
  s.min_tokens = 21;
  EXPECT_EQ(prepare_structure(o, s, bytes()).prepare.filtered, 1);
  o.output = f / "limited";
  s.document_tokens = 130;
  const StructureReport limited = prepare_structure(o, s, bytes());
  EXPECT_GT(limited.left_out, 0);
  for (const Doc& d : read_documents(f / "limited")) EXPECT_LE(d.text.size(), 130u);
}

TEST(Structure, BrokenSourcesAreCountedAndNeverFatal) {
  NEEDS_LIBCLANG();
  Folder f;
  small_tree(f);
  f.write("tree/bad.cpp", "#include \"nowhere.h\"\nint good(int a, int b) { return a * b; }\nclass { ] ) int x(;;\n");
  f.write("tree/notes.md", "text\n");
  f.write("tree/latin.cpp", "// caf\xE9\nint latin(int a, int b) { return a - b; }\n");
  const StructureReport r = prepare_structure(options_for(f), {}, bytes());
  EXPECT_EQ(r.found.with_errors, 1);
  ASSERT_EQ(r.faults.size(), 1u);
  EXPECT_NE(r.faults[0].find("bad.cpp"), std::string::npos);
  EXPECT_NE(r.faults[0].find("nowhere.h"), std::string::npos);
  EXPECT_EQ(r.prepare.replaced_utf8, 1);
  EXPECT_NE(by_root(read_documents(f / "out"), "latin").text.find("caf\xEF\xBF\xBD\nint"), std::string::npos);
  EXPECT_EQ(r.prepare.skipped.at("not C or C++"), 1);
  EXPECT_NO_THROW(by_root(read_documents(f / "out"), "good"));
}

TEST(Structure, SaysWhatIsMissing) {
  Folder f;
  f.write("tree/only.h", "#pragma once\nint declared(int);\n");
  const char* before = std::getenv("WEFT_LIBCLANG");
  const std::string kept = before == nullptr ? "" : before;
  ::setenv("WEFT_LIBCLANG", "/nonexistent", 1);
  const std::string message = error_of<UnavailableError>([&] { prepare_structure(options_for(f), {}, bytes()); });
  if (before == nullptr) ::unsetenv("WEFT_LIBCLANG");
  else ::setenv("WEFT_LIBCLANG", kept.c_str(), 1);
  EXPECT_NE(message.find("apt-get install libclang1"), std::string::npos) << message;
  EXPECT_NE(message.find("/nonexistent"), std::string::npos) << message;
  NEEDS_LIBCLANG();
  EXPECT_NE(error_of<InputError>([&] { prepare_structure(options_for(f), {}, bytes()); }).find("no function with a body"), std::string::npos);
  Folder g;
  g.write("tree/a.txt", "x");
  EXPECT_NE(error_of<InputError>([&] { prepare_structure(options_for(g), {}, bytes()); }).find("no C or C++ file"), std::string::npos);
}

// A header that a build precompiles with another compiler is read as text.
TEST(Structure, PrecompiledHeadersOfOthersAreLeftAlone) {
  NEEDS_LIBCLANG();
  Folder f;
  f.write("tree/a.cpp", "Number wanted(Number a, Number b) { return a + b * a - b + a + b; }\n");
  f.write("tree/all.hxx", "using Number = int;\n");
  f.write("tree/all.hxx.gch", "gpch.014 of a compiler that is not clang");
  f.write("tree/kernel.cu", "__global__ void k() {}\n");
  f.write("tree/compile_commands.json", R"([{"directory": ")" + f.path() + R"(/tree", "arguments": ["c++", "-Winvalid-pch", "-include", "all.hxx", "-c", "a.cpp"], "file": "a.cpp"}])");
  const StructureReport r = prepare_structure(options_for(f), {}, bytes());
  EXPECT_EQ(r.found.errors, 0) << (r.faults.empty() ? "" : r.faults[0]);
  EXPECT_NO_THROW(by_root(read_documents(f / "out"), "wanted"));
  EXPECT_EQ(r.prepare.skipped.at("CUDA (.cu, .cuh), which --structure cpp does not read"), 1);
}

TEST(Structure, SharedPrefixesChangeNoByte) {
  NEEDS_LIBCLANG();
  // Files with equal commands share a parsed prefix; with a macro of its own each parses it again.
  const auto prepared = [](const std::string& name, bool equal, Folder& f) {
    const std::string tree = f / name;
    f.write(name + "/all.hxx", "#pragma once\n#include <vector>\n#define TWICE(x) ((x) + (x))\nstruct Box { int side; int area() const { return side * side; } };\n"
                               "constexpr int four() { return 4; }\ntemplate <class T> T larger(T a, T b) { return a < b ? b : a; }\nUnknown broken();\n");
    std::string commands;
    for (int i = 0; i < 4; ++i) {
      const std::string n = std::to_string(i), file = "f" + n + ".cpp";
      f.write(name + "/" + file, "template <class T> T own(T x) {\n  return x + x;\n}\nint f" + n + "(const Box& b) {\n  int room[four()] = {" + n + "};\n  std::vector<int> v{room[0], TWICE(b.area())};\n  return larger(v[0], static_cast<int>(v.size())) + own(2);\n}\n");
      commands += (i == 0 ? "" : ", ") + std::string(R"({"directory": ")") + tree + R"(", "arguments": ["c++", "-include", "all.hxx", )" + (equal ? "" : "\"-DOWN" + n + "\", ") + R"("-c", ")" + file +
                  R"("], "file": ")" + file + R"("})";
    }
    f.write(name + "/compile_commands.json", "[" + commands + "]");
    PrepareOptions o = options_for(f);
    o.inputs = {tree}, o.output = f / (name + "_out");
    return prepare_structure(o, {}, bytes());
  };
  Folder f;
  const StructureReport shared = prepared("shared", true, f), own = prepared("own", false, f);
  EXPECT_EQ(shared.found.functions, own.found.functions);
  EXPECT_EQ(shared.found.calls, own.found.calls);
  EXPECT_EQ(shared.found.with_errors, own.found.with_errors);
  EXPECT_EQ(shared.found.errors, own.found.errors);
  EXPECT_GT(own.found.calls, 4);
  EXPECT_GT(own.found.with_errors, 3);  // of the prefix: every file behind it
  for (const char* end : {".bin", ".idx", "_token_ast_depth.bin", "_token_structure_ids.bin", "_token_dep_levels.bin", "_token_sibling_index.bin", "_token_ast_node_type.bin"}) {
    EXPECT_EQ(slurp(f / ("shared_out/train_text_document" + std::string(end))), slurp(f / ("own_out/train_text_document" + std::string(end)))) << end;
  }
  EXPECT_FALSE(std::filesystem::exists(f / "shared_out/prefixes.part"));
}

TEST(Structure, EachPrefixHasFilesOfItsOwn) {
  NEEDS_LIBCLANG();
  Folder f;
  f.write("all.hxx", "struct Box { int side; };\n");
  const auto library = clang::Library::open();
  SharedPrefixes prefixes(*library, f / "prefixes");
  const auto of = [&](const char* macro) { return prefixes.of({"-x", "c++", macro, "-Xclang", "-include", "-Xclang", f / "all.hxx"}); };
  EXPECT_FALSE(of("-DA").shared);
  EXPECT_FALSE(of("-DB").shared);
  const Prefixed a = of("-DA"), b = of("-DB");  // both are known by now
  ASSERT_TRUE(a.shared && b.shared);
  EXPECT_NE(a.arguments.back(), b.arguments.back());
  EXPECT_EQ(of("-DA").arguments, a.arguments);
  EXPECT_EQ(prefixes.of({"-x", "c++"}).arguments, (std::vector<std::string>{"-x", "c++"}));
}

TEST(Structure, CompileCommandsAreFollowed) {
  NEEDS_LIBCLANG();
  Folder f;
  f.write("tree/src/a.cpp", "#ifdef WANTED\nint wanted(int a, int b) { return a + b + DEEP; }\n#endif\n#include <deep.h>\n");
  f.write("tree/other/deep.h", "#pragma once\n");
  f.write("tree/build/compile_commands.json", R"([{"directory": ")" + f.path() + R"(/tree/build", "command": "c++ -O2 -DWANTED=1 -DDEEP=3 -I../other -Wall -o a.o -c ../src/a.cpp", "file": "../src/a.cpp"}])");
  const StructureReport r = prepare_structure(options_for(f), {}, bytes());
  EXPECT_EQ(r.found.errors, 0) << (r.faults.empty() ? "" : r.faults[0]);
  EXPECT_EQ(r.compile_commands, f / "tree/build/compile_commands.json");
  EXPECT_NO_THROW(by_root(read_documents(f / "out"), "wanted"));
  f.write("tree/build/compile_commands.json", "[{}]");
  EXPECT_NE(error_of<InputError>([&] { prepare_structure(options_for(f), {}, bytes()); }).find("compilation database"), std::string::npos);
}

// -- the streams of any data ---------------------------------------------------------------------------------------

TEST(SideStreams, MisalignmentIsCaught) {
  Folder f;
  const std::string prefix = f / "set";
  IndexedWriter tokens(prefix, TokenType::kU16);
  SideStreamWriter writer(prefix, 0);
  std::string lines;
  for (int32_t d = 0; d < 3; ++d) {
    const std::vector<int32_t> ids{5, 6, 7, 8}, levels{0, 0, d + 1, d + 1}, plain{1, 2, 3, 3}, deep{1, -1, 70000, 3};
    tokens.add_document(ids);
    writer.add({std::span<const int32_t>(plain), levels, deep, plain, plain});
    lines += R"({"tokens": 4, "chunks": [{"start": 0, "end": 2, "kind": 0, "dep_level": 0}, {"start": 2, "end": 4, "kind": 4, "dep_level": )" + std::to_string(d + 1) + "}]}\n";
  }
  tokens.finish(), writer.finish();
  f.write("set.documents.jsonl", lines);
  const auto streams = SideStreams::open(prefix, 12, IndexCheck::kFull);
  std::vector<int32_t> got(4);
  streams->read(2, 4, 4, got.data());
  EXPECT_EQ(got, (std::vector<int32_t>{1, -1, 65534, 3}));
  EXPECT_NO_THROW(check_streams(prefix));
  const std::string level_file = prefix + "_token_dep_levels.bin", good = slurp(level_file), json = slurp(prefix + ".idx.json");
  const auto opened = [&] { return error_of<InputError>([&] { SideStreams::open(prefix, 12, IndexCheck::kFull); }); };
  // One value short.
  f.write("set_token_dep_levels.bin", good.substr(2));
  EXPECT_NE(opened().find("not one value a token: got 22 bytes, want 24"), std::string::npos) << opened();
  // Shifted by one token: the hash no longer fits ...
  const std::string shifted = std::string(2, '\0') + good.substr(0, good.size() - 2);
  f.write("set_token_dep_levels.bin", shifted);
  EXPECT_NE(opened().find("the file was changed"), std::string::npos) << opened();
  // ... and with a hash that was made to fit, the chunks of the documents do not.
  Json j = parse_json(json, "json");
  j["side_channel_paths"]["token_dep_levels"]["xxh3_128"] = hex_hash(shifted);
  f.write("set.idx.json", j.dump());
  EXPECT_EQ(opened(), "");
  EXPECT_NE(error_of<InputError>([&] { check_streams(prefix); }).find("dep level"), std::string::npos);
  f.write("set_token_dep_levels.bin", good);
  for (const auto& [change, word] : std::vector<std::pair<std::string, std::string>>{
           {R"({"side_channel_paths": {"token_dep_levels": {"path": "../x", "dtype": "uint16"}}})", "outside the folder"},
           {R"({"side_channel_paths": {"token_dep_levels": {"path": "set_token_dep_levels.bin", "dtype": "float"}}})", "unknown dtype"},
           {R"({"token_count": 5, "side_channel_paths": {}})", "token_count"},
           {R"({"side_channel_paths": {"token_dep_levels": 3}})", "damaged"}}) {
    f.write("set.idx.json", change);
    EXPECT_NE(opened().find(word), std::string::npos) << opened();
  }
  // The short names, signed values, streams that are not ours.
  f.write("set_x.bin", std::string("\xFF\x02", 2) + std::string(10, '\1'));
  f.write("set.idx.json", R"({"side_channel_paths": {"structure_ids": {"path": "set_x.bin", "dtype": "int8"}, "doc_ids": {"path": "none.bin", "dtype": "int8"}}})");
  const auto other = SideStreams::open(prefix, 12, IndexCheck::kStamped);
  other->read(0, 0, 4, got.data());
  EXPECT_EQ(got, (std::vector<int32_t>{-1, 2, 1, 1}));
  EXPECT_FALSE(other->has(1));
  EXPECT_EQ(other->others(), std::vector<std::string>{"doc_ids"});
}

TEST(SideStreams, WindowsCarryThemBesideTheTokens) {
  Folder f;
  const std::string prefix = f / "set";
  IndexedWriter tokens(prefix, TokenType::kU16);
  SideStreamWriter writer(prefix, 0);
  int32_t next = 0;
  for (const int n : {5, 3, 6}) {
    std::vector<int32_t> ids, low;
    for (int i = 0; i < n; ++i, ++next) ids.push_back(next), low.push_back(next % 200);
    tokens.add_document(ids);
    writer.add({std::span<const int32_t>(low), ids, ids, ids, ids});
  }
  tokens.finish(), writer.finish();
  const TokenWindows windows(std::make_shared<IndexedTokens>(IndexedTokens::open(prefix)), 4, true);
  for (int64_t i = 0; i < windows.size(); ++i) {
    const Sample s = windows.at(i);
    ASSERT_EQ(s.streams.size(), static_cast<size_t>(kNumStreams));
    for (const auto& row : s.streams) {
      ASSERT_EQ(row.size(), 4u);
      for (size_t t = 0; t < 4; ++t) {
        const bool there = i * 4 + static_cast<int64_t>(t) < 14;
        EXPECT_EQ(row[t], there ? s.tokens[t] : -1);
      }
    }
  }
}

}  // namespace weft::data
