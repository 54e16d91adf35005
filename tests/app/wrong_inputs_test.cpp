// Runs the program with wrong inputs and asserts what it says and the code it ends with. Prints the table.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <regex>

#include "base/text.h"
#include "program.h"

namespace weft {
namespace fs = std::filesystem;
namespace {

struct Case {
  const char *what, *command;  // run by a shell in a fresh folder; $weft is the program
  int code;
  const char* says;  // regular expression in standard error, as long as the message
};

const Case kCases[] = {
    {"unknown verb", "$weft trian", 2, "unknown verb 'trian'.*try: weft help"},
    {"near verb", "$weft docter", 2, "unknown verb 'docter': did you mean doctor\\?"},
    {"flag before a verb", "$weft --threads 2 doctor", 2, "got flag --threads before a verb"},
    {"unknown flag", "$weft doctor --theads 2", 2, "doctor: unknown flag --theads: did you mean --threads\\?"},
    {"stray argument", "$weft version now", 2, "version: unexpected argument 'now'"},
    {"flag without its value", "$weft doctor --json", 2, "doctor: --json"},
    {"value of a wrong type", "$weft doctor --threads many", 2, "--threads"},
    {"value out of range", "$weft doctor --threads -3", 2, "--threads.*-3"},
    {"unknown device", "$weft doctor --quick --device tpu", 2, "--device: got 'tpu', want auto, cpu, cuda or cuda:N"},
    {"device that is not there", "$weft doctor --quick --device cuda:77", 69, "--device cuda:77: "},
    {"missing recipe", "$weft config show none.toml", 65, "none.toml: cannot be read: No such file"},
    {"recipe is a folder", "$weft config show .", 65, "\\.: cannot be read: Is a directory"},
    {"recipe is not TOML", "printf 'a = = 1' > r.toml; $weft config show r.toml", 2, "r.toml:1: not TOML"},
    {"unknown key", "printf '[parallel]\\netpp = 2\\n' > r.toml; $weft config show r.toml", 2, "r.toml:2: parallel.etpp: unknown key; did you mean parallel.etp\\?"},
    {"several problems at once", "printf '[parallel]\\ntp = \"two\"\\npp = 1.5\\n' > r.toml; $weft config show r.toml --set parallel.ep=0x", 2,
     "r.toml: 3 problems.*r.toml:2: parallel.tp: got \"two\", want an integer.*r.toml:3: parallel.pp: got 1.5.*--set parallel.ep: got \"0x\""},
    {"setting out of range", "$weft config show --set parallel.tp=0", 2, "parallel.tp: got 0, want 1 to 1024"},
    {"--set without a value", "$weft config show --set parallel.tp", 2, "--set parallel.tp: want KEY=VALUE"},
    {"file is there already", "touch r.toml; $weft init r.toml", 2, "init: r.toml is there already.*try: --force"},
    {"full disk", "$weft doctor --quick --json /dev/full", 74, "/dev/full"},
    {"missing input", "$weft prepare none -o d", 65, "none"},
    {"empty corpus", "mkdir e; $weft prepare e -o d", 65, "e"},
    {"empty file", "touch a.txt; $weft prepare a.txt -o d", 65, "a.txt|no text|empty"},
    {"size that is none", "echo hello > a.txt; $weft prepare a.txt -o d --memory lots", 2, "--memory: got 'lots', want a size"},
    {"no room to work in", "echo hello > a.txt; $weft prepare a.txt -o d --memory 1k", 2, "memory"},
    {"vocabulary below the bytes", "echo hello > a.txt; $weft prepare a.txt -o d --vocab-size 5", 2, "--vocab-size.*257"},
    {"tokenizer that is none", "echo hello > a.txt; echo '{}' > t.json; $weft prepare a.txt -o d --tokenizer t.json", 65, "t.json"},
    {"line that is not JSON", "printf '{\"text\": \"a\"}\\n{\"text\": \\n' > a.jsonl; $weft prepare a.jsonl -o d", 65, "a.jsonl.*2"},
    {"line without the key", "printf '{\"body\": \"a\"}\\n' > a.jsonl; $weft prepare a.jsonl -o d", 65, "a.jsonl.*1.*text"},
    {"line of one gigabyte", "printf '{\"text\":\"' > a.jsonl; truncate -s 1G a.jsonl; $weft prepare a.jsonl -o d --vocab-size 300 --memory 256MiB", 65, "a.jsonl' line 1: the line is too long.*try: --max-line"},
    {"key that is there twice", "printf '{\"text\":\"a\",\"text\":\"b\"}\\n' > a.jsonl; $weft prepare a.jsonl -o d", 65, "a.jsonl' line 1, column [0-9]+: duplicate key \"text\""},
    {"Parquet that is none", "printf 'PAR1 and no more' > a.parquet; $weft prepare a.parquet -o d", 65, "a.parquet': the file is cut off: it does not end with PAR1"},
    {"conversations without a tokenizer", "echo '{}' > a.jsonl; $weft prepare a.jsonl -o d --chat", 2, "--chat.*try: --tokenizer"},
    {"no chat template", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null; echo '{\"messages\":[]}' > c.jsonl; $weft prepare c.jsonl -o e --chat --tokenizer d/tokenizer.json", 2,
     "no chat template beside.*try: a Jinja file"},
    {"filter that is no pattern", "echo hello > a.txt; $weft prepare a.txt -o d --drop 'path~(x'", 2, "--drop 'path~\\(x': "},
    {"filter without a pattern", "echo hello > a.txt; $weft prepare a.txt -o d --keep lang~", 2, "--keep: got 'lang~', want \\[FIELD~\\]PATTERN"},
    {"share above one", "echo hello > a.txt; $weft prepare a.txt -o d --max-symbols 7", 2, "--max-symbols.*7"},
    {"filters that keep nothing", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 --keep nowhere", 65, "no document for training|no text|empty"},
    {"text filter of conversations", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null; echo '{\"messages\":[]}' > c.jsonl; echo x > t.jinja; $weft prepare c.jsonl -o e --tokenizer d --chat-template t.jinja --max-symbols 0.5", 2,
     "filters of conversations see the members of a line, not its text: got --max-symbols 0.5"},
    {"index that is cut off", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null; truncate -s -1 d/train_text_document.idx; $weft inspect data d", 65, "train_text_document.idx': rule index-size broken at byte"},
    {"damaged tokens", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null; printf zz | dd of=d/train_text_document.bin bs=1 seek=9 conv=notrunc 2>/dev/null; $weft inspect data d/train_text_document", 65,
     "train_text_document.bin.*block 0"},
    {"ids above a vocabulary", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null; $weft inspect data d/train_text_document --vocab-size 10", 65, "token id above the vocabulary at token [0-9]+: got [0-9]+, want below 10"},
    {"data with ids that the model does not have", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null; $weft train --run r --set 'data.source={kind=\"megatron\",blend=[\"d/train_text_document\"],split=\"1\"}' --set data.seq_len=16 --set model.vocab_size=40 --set model.model_dim=32 --set model.pattern=- --set train.precision=fp32 --set train.batch=2 --set train.micro_batch=2 --set eval.every=0 --no-peak --steps 2", 65,
     "batch: sample [0-9]+: token id outside the vocabulary: got [0-9]+, want below 40"},
    {"output is a file", "echo hello > a.txt; touch d; $weft prepare a.txt -o d", 74, "d"},
    {"output holds other data", "seq 9999 > a.txt; seq 99999 > b.txt; $weft prepare a.txt -o d --vocab-size 300; $weft prepare b.txt -o d --vocab-size 300", 2,
     "holds other data.*try: another -o, or --overwrite"},
    {"row that is not there", "$weft bench ops no_such_op --support", 2, "no row is named 'no_such_op'"},
    {"no data to train on", "$weft train --run r", 2, "data.path: not set.*try: weft prepare"},
    {"data that is not there", "$weft train --data none --run r", 65, "none"},
    {"unknown preset", "$weft train --preset gpt2-125m --data d --run r", 2, "gpt2-125m.*gpt2-124m"},
    {"wrong type of a setting", "$weft train --data d --set train.steps=many", 2, "train.steps: got \"many\", want an integer"},
    {"batch that cannot be cut", "$weft train --data d --set train.batch=10 --set train.micro_batch=4", 2, "train.batch.*is not a multiple of micro_batch"},
    {"unknown letter of a pattern", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null && $weft train --data d --run r --set data.seq_len=16 --set model.model_dim=32 --set train.precision=fp32 --set train.batch=2 --set train.micro_batch=2 --set eval.every=0 --no-peak --set model.pattern=-Q", 2, "Q"},
    {"more experts a token than experts", "$weft config show --set model.symbols.E.top_k=9", 2, "top_k.*is above num_experts"},
    {"sample longer than the corpus", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null && $weft train --data d --run r --set data.seq_len=1000000", 65, "is too short: got [0-9]+ tokens, want at least 1000001"},
    {"checkpoint of another shape", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null && $weft train --data d --run r --set data.seq_len=16 --set model.model_dim=32 --set train.precision=fp32 --set train.batch=2 --set train.micro_batch=2 --set eval.every=0 --no-peak --steps 1 --set model.pattern=- 2>/dev/null && $weft train --data d --run r --set data.seq_len=16 --set model.model_dim=32 --set train.precision=fp32 --set train.batch=2 --set train.micro_batch=2 --set eval.every=0 --no-peak --steps 1 --set model.pattern=--", 2,
     "the run was made with other settings.*model.pattern: was \"-\", now \"--\""},
    {"damaged checkpoint", "seq 999 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null && $weft train --data d --run r --set data.seq_len=16 --set model.model_dim=32 --set train.precision=fp32 --set train.batch=2 --set train.micro_batch=2 --set eval.every=0 --no-peak --steps 1 --set model.pattern=- 2>/dev/null && truncate -s -1 r/checkpoints/step-00000001/model-00000.safetensors; $weft eval r", 20,
     "none of 1 checkpoints is valid.*cut short"},
    {"run that is not there", "$weft eval none", 65, "none: no checkpoint"},
    {"nothing to inspect", "$weft inspect none", 65, "none: not found"},
    {"inspect without a path", "$weft inspect", 2, "want a path.*try: weft help inspect"},
    {"tokens without a tokenizer", "$weft inspect tokens", 2, "--tokenizer is required"},
    {"ids that are none", "seq 99 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null; printf '[1]\\n[99999]\\n' | $weft inspect tokens --tokenizer d --decode", 65, "standard input: line 2: got 99999, want a token id of this vocabulary"},
    {"lone surrogate", "seq 99 > a.txt; $weft prepare a.txt -o d --vocab-size 300 2>/dev/null; printf '\"\\\\ud800\"\\n' | $weft inspect tokens --tokenizer d --json-lines", 65, "standard input: line 1"},
    {"unknown normalizer", "echo '{\"normalizer\": {\"type\": \"Shout\"}, \"model\": {\"type\": \"WordLevel\", \"unk_token\": \"u\", \"vocab\": {\"u\": 0}}}' > t.json; echo a | $weft inspect tokens --tokenizer t.json", 65, "t.json.normalizer.*Shout"},
    {"folder without a template", "echo '[]' > m.json; mkdir f; $weft inspect template f --messages m.json", 65, "f: no chat template"},
    {"template that refuses", "echo '[]' > m.json; echo '{{ raise_exception(\"no user\") }}' > t.jinja; $weft inspect template t.jinja --messages m.json", 65, "t.jinja: line 1: .*no user"},
    {"template that never ends", "echo '[]' > m.json; echo '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}' > t.jinja; $weft inspect template t.jinja --messages m.json", 65, "call each other deeper"},
    {"messages that are none", "echo 7 > m.json; echo x > t.jinja; $weft inspect template t.jinja --messages m.json", 65, "m.json: got number, want a list of messages"},
    {"unknown shell", "$weft completion tcsh", 2, "got shell 'tcsh', want bash, zsh or fish"},
};

struct Result { int code; std::string error; };

Result run(const fs::path& dir, const std::string& command) {
  fs::create_directories(dir);
  const int code = run_program(dir, command);
  std::ifstream in(dir / "err");
  return {code, {std::istreambuf_iterator<char>(in), {}}};
}

}  // namespace

TEST(WrongInputs, EachHasItsMessageAndItsCode) {
  const fs::path root = fs::temp_directory_path() / ("weft_wrong_" + std::to_string(::getpid()));
  printf("%-28s %4s  %s\n", "input", "code", "message");
  int i = 0;
  for (const Case& c : kCases) {
    const Result got = run(root / std::to_string(i++), c.command);
    std::string flat = got.error;
    std::replace(flat.begin(), flat.end(), '\n', ' ');
    printf("%-28s %4d  %s\n", c.what, got.code, flat.c_str());
    EXPECT_EQ(got.code, c.code) << c.what << ": " << c.command;
    EXPECT_TRUE(std::regex_search(flat, std::regex(c.says))) << c.what << ": got '" << flat << "', want '" << c.says << "'";
    EXPECT_LE(std::count(got.error.begin(), got.error.end(), '\n'), 8) << "a message, not a report";
    EXPECT_EQ(got.error.find("Exception raised from"), std::string::npos);
  }
  fs::remove_all(root);
}

TEST(WrongInputs, AClosedPipeEndsQuietly) {
  const fs::path dir = fs::temp_directory_path() / ("weft_pipe_" + std::to_string(::getpid()));
  const Result got = run(dir, "bash -c 'set -o pipefail; for i in 1 2 3 4 5 6 7 8; do $0 help settings; done | true; exit ${PIPESTATUS[0]}' $weft");
  EXPECT_EQ(got.code, 0);
  EXPECT_EQ(got.error, "");
  fs::remove_all(dir);
}

}  // namespace weft
