"""BPE and Unigram vocabularies that Weft trains against Hugging Face's trainers on the same texts.

Usage: training.py TEXT_TOOL [MEGABYTES]. BPE: the same vocabulary and merges. Unigram: at least 90 in 100 pieces are the same, and the corpus
takes within 3 % of upstream's number of tokens (1.5 % is the most seen, on the modules of Debian's Python). Exit code 77: tokenizers is not installed.
"""
import glob, json, os, subprocess, sys, tempfile, time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
try:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
except ImportError as error:
    print("skipped: tokenizers:", error)
    sys.exit(77)

tool, size = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.5
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
folder = tempfile.mkdtemp()
texts, total = [], 0
for path in sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), "**/*.py"), recursive=True)):
    text = open(path, encoding="utf-8", errors="replace").read()
    texts.append(text)
    total += len(text)
    if total > size * 1e6:
        break
corpus = os.path.join(folder, "texts")
with open(corpus, "w") as f:
    f.writelines(json.dumps(t) + "\n" for t in texts)


def ours(verb, vocab_size):
    out = os.path.join(folder, verb + ".json")
    run = subprocess.run([tool, verb, out, str(vocab_size), corpus], capture_output=True, text=True)
    if run.returncode:
        sys.exit(verb + ": " + run.stderr)
    return out, json.loads(run.stdout)


def upstream(model, trainer):
    t = Tokenizer(model)
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    begin = time.time()
    t.train_from_iterator(texts, trainer)
    return t, time.time() - begin


def tokens(t):
    return sum(len(e.ids) for e in t.encode_batch_fast(texts, add_special_tokens=False))


failed = 0
alphabet = pre_tokenizers.ByteLevel.alphabet()
for vocab_size in (1000, 8000):
    t, seconds = upstream(models.BPE(), trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False))
    path, own = ours("train", vocab_size)
    a, b = json.load(open(path))["model"], json.loads(t.to_str())["model"]
    same = a["vocab"] == b["vocab"] and [list(m) for m in a["merges"]] == [list(m) for m in b["merges"]]
    failed += not same
    own_s = own["count_s"] + own["train_s"]
    print(f"bpe {vocab_size}: {total / 1e6:.1f} MB, {'equal' if same else 'DIFFERENT'}, {own_s:.2f} s against {seconds:.2f} s, {seconds / own_s:.1f} times")
for vocab_size in (1000, 4000):
    t, seconds = upstream(models.Unigram(), trainers.UnigramTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False))
    path, own = ours("train-unigram", vocab_size)
    a = {piece: score for piece, score in json.load(open(path))["model"]["vocab"]}
    b = {piece: score for piece, score in json.loads(t.to_str())["model"]["vocab"] if piece != "<|endoftext|>"}
    both = a.keys() & b.keys()
    share = len(both) / len(b)
    learned = [p for p in both if len(p) > 1]
    difference = sum(abs(a[p] - b[p]) for p in learned) / max(1, len(learned))
    mine, theirs = tokens(Tokenizer.from_file(path)), tokens(t)
    ok = len(a) == len(b) and share >= 0.90 and abs(mine / theirs - 1) <= 0.03
    failed += not ok
    own_s = own["count_s"] + own["train_s"]
    print(f"unigram {vocab_size}: {len(a)} pieces, {share:.2%} the same, scores differ by {difference:.5f}, {mine} tokens against {theirs}, "
          f"{own['bits_per_byte']:.4f} bits per byte, {own_s:.2f} s against {seconds:.2f} s {'' if ok else 'TOO DIFFERENT'}")
sys.exit(1 if failed else 0)
