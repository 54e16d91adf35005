"""Tokenizers of many configurations, built with Hugging Face's library: every model, normalizer, pre-tokenizer, post-processor
and decoder, and the combinations that known model families use. `build(name, lines)` trains one on the lines and on Python sources.
"""
from tokenizers import (AddedToken, Regex, Tokenizer, decoders as D, models, normalizers as N, pre_tokenizers as P,
                        processors as X, trainers as T)

from lines import training_texts

CONFIGURATIONS = {}
_texts = []

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{SHORT}|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{SHORT}"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = (rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}&&[^\p{{Han}}]]*[{LOWER}&&[^\p{{Han}}]]+{SHORT}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK_LETTERS = (r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-Ⴥა-ჺჽ-ჿᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕ]+")
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FALLBACK = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]


def fit(t, trainer, vocab_size=1500, **options):
    t.train_from_iterator(_texts, trainer(vocab_size=vocab_size, show_progress=False, **options))
    return t


def split(pattern, behavior="isolated", **options):
    return P.Split(pattern, behavior, **options)


def plain_bytes():
    return P.ByteLevel(add_prefix_space=False, use_regex=False)


def configuration(f):
    CONFIGURATIONS[f.__name__] = f
    return f


def build(name, lines):
    _texts[:] = lines[:400] + training_texts()
    return CONFIGURATIONS[name]()


@configuration
def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder, t.post_processor = P.ByteLevel(add_prefix_space=False), D.ByteLevel(), X.ByteLevel(trim_offsets=False)
    return fit(t, T.BpeTrainer, initial_alphabet=P.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"])


@configuration
def roberta():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = P.ByteLevel(add_prefix_space=True), D.ByteLevel()
    fit(t, T.BpeTrainer, initial_alphabet=P.ByteLevel.alphabet(), special_tokens=["<s>", "</s>", "<unk>", "<mask>"])
    t.post_processor = X.RobertaProcessing(("</s>", 1), ("<s>", 0))
    t.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return t


@configuration
def nfc_qwen():
    t = gpt2()
    t.normalizer = N.NFC()
    t.pre_tokenizer = P.Sequence([split(Regex(QWEN)), plain_bytes()])
    t.add_tokens(["hello", "###", AddedToken("don't", single_word=True)])
    return t


@configuration
def deepseek():
    t = gpt2()
    t.pre_tokenizer = P.Sequence([
        split(Regex(r"[\r\n]")), split(Regex(DEEPSEEK_LETTERS)), split(Regex(r"\s?[!-/:-~！-／：-～‘-‟　-。]+")), split(Regex(r"\s+$")),
        split(Regex(r"[一-龥ࠀ-一가-퟿]+")), P.Digits(True), plain_bytes()])
    return t


@configuration
def o200k():
    t = gpt2()
    t.pre_tokenizer = P.Sequence([split(Regex(O200K), "removed", invert=True), plain_bytes()])
    return t


@configuration
def kimi():
    t = gpt2()
    t.pre_tokenizer = P.Sequence([split(Regex(KIMI)), plain_bytes()])
    return t


@configuration
def llama2():
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    t.normalizer = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    fit(t, T.BpeTrainer, special_tokens=FALLBACK, limit_alphabet=200)
    t.decoder = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    t.post_processor = X.TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    return t


@configuration
def gemma():
    t = llama2()
    t.normalizer, t.pre_tokenizer = N.Replace(" ", "▁"), P.Split(" ", "merged_with_previous")
    return t


@configuration
def mistral_metaspace():
    t = llama2()
    t.normalizer, t.pre_tokenizer = None, P.Metaspace(prepend_scheme="first", split=False)
    return t


@configuration
def t5():
    t = Tokenizer(models.Unigram())
    t.normalizer = N.Sequence([N.Nmt(), N.NFKC(), N.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = P.Metaspace()
    fit(t, T.UnigramTrainer, 9000, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    t.decoder = D.Metaspace()
    t.post_processor = X.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return t


@configuration
def unigram_first():
    t = t5()
    t.normalizer, t.pre_tokenizer = None, P.Sequence([P.WhitespaceSplit(), P.Metaspace(prepend_scheme="first")])
    return t


@configuration
def bert():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer, t.decoder = N.BertNormalizer(), P.BertPreTokenizer(), D.WordPiece()
    fit(t, T.WordPieceTrainer, special_tokens=BERT_SPECIAL)
    t.post_processor = X.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return t


@configuration
def bert_cased():
    t = bert()
    t.normalizer = N.BertNormalizer(lowercase=False, strip_accents=True, clean_text=False)
    t.add_tokens(["Hello", AddedToken("ABC", normalized=True)])
    t.decoder = D.WordPiece(cleanup=False)
    return t


@configuration
def lower_added():
    t = bert()
    t.normalizer = N.Sequence([N.NFD(), N.StripAccents(), N.Lowercase(), N.Strip()])
    t.add_tokens([AddedToken("HELLO"), AddedToken("É", normalized=True), AddedToken("xx", rstrip=True, normalized=False)])
    t.pre_tokenizer = P.Sequence([P.Whitespace(), P.Punctuation(), P.Digits()])
    return t


@configuration
def wordlevel():
    t = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = N.NFKD(), P.Sequence([P.UnicodeScripts(), P.Whitespace()])
    return fit(t, T.WordLevelTrainer, special_tokens=["[UNK]"])


@configuration
def charsplit():
    t = wordlevel()
    t.normalizer = N.Strip(left=False)
    t.pre_tokenizer = P.Sequence([P.CharDelimiterSplit("e"), P.Punctuation("contiguous"), P.FixedLength(3)])
    return t


@configuration
def openai_gpt():
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.normalizer, t.pre_tokenizer = N.BertNormalizer(), P.BertPreTokenizer()
    fit(t, T.BpeTrainer, special_tokens=["<unk>"], end_of_word_suffix="</w>")
    t.decoder = D.BPEDecoder(suffix="</w>")
    return t


@configuration
def cont_prefix():
    t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="@@", fuse_unk=False))
    t.pre_tokenizer = P.Whitespace()
    return fit(t, T.BpeTrainer, special_tokens=["<unk>"], continuing_subword_prefix="@@", limit_alphabet=100)


@configuration
def norm_bytelevel():
    t = Tokenizer(models.BPE())
    t.normalizer, t.pre_tokenizer, t.decoder = N.ByteLevel(), P.Split(Regex("Ġ"), "merged_with_next"), D.ByteLevel()
    return fit(t, T.BpeTrainer, initial_alphabet=P.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"])


@configuration
def merged():
    t = gpt2()
    t.pre_tokenizer = P.Sequence([split(",", "merged_with_previous"), split(Regex("[aeiou]+"), "merged_with_next"),
                                  split(Regex("\\d"), "contiguous"), P.ByteLevel(add_prefix_space=True, use_regex=True)])
    return t


@configuration
def ctc():
    t = wordlevel()
    t.decoder = D.CTC(pad_token="a", word_delimiter_token="|")
    return t
