"""Lines that tokenizers find hard: many scripts, odd white space, marks, special tokens as text, long runs."""
import glob, os, random

BLOCKS = [(0x20, 0x7e)] * 6 + [
    (0, 0x20), (0xa0, 0xff), (0x100, 0x17f), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x4ff), (0x590, 0x5ff), (0x600, 0x6ff),
    (0x900, 0x97f), (0xe00, 0xe7f), (0x1100, 0x11ff), (0x1e00, 0x1eff), (0x2000, 0x206f), (0x2070, 0x209f), (0x2100, 0x214f),
    (0x2150, 0x218f), (0x2460, 0x24ff), (0x3000, 0x303f), (0x3040, 0x30ff), (0x3100, 0x312f), (0x4e00, 0x9fff), (0xac00, 0xd7a3),
    (0xf900, 0xfaff), (0xfb00, 0xfdff), (0xfe00, 0xfe0f), (0xff00, 0xffef), (0x10000, 0x10fff), (0x1d400, 0x1d7ff),
    (0x1f000, 0x1faff), (0x20000, 0x2ffff), (0xe0000, 0xe01ef), (0xd7b0, 0xd7ff), (0xe000, 0xe010)]
WORDS = ["the", "don't", "I'LL", "'S", "they've", " 's", "\u017f", "'\u017f", "hello", "123", "1234567", "  ", "   \n", "\r\n",
         "\n\n\t", "\u00a0", "\u3000", "\u2028", "\ufeff", "\u200d", "\u0130", "\ufb01", "<|endoftext|>", "<s>", "</s>", "[CLS]",
         "[MASK]", "<unk>", "\u1100\u1161\u11a8", "e\u0301", "\u0344", "\u212b", "\u2126", "...", "!?",
         "def f(x):\n    return x", "http://a.b/c?d=e", "\u00df", "\u1e9e", "\u03c2\u03a3", "#" * 5, "=" * 20, "a" * 70, "\u2581",
         "##ing", "<0x0A>", "\u0000"]


def fuzz_line(rng):
    s = ""
    for _ in range(rng.randrange(1, 14)):
        k = rng.random()
        if k < 0.25:
            s += rng.choice(WORDS)
        elif k < 0.4:
            s += rng.choice([" ", "  ", "\n", "\t", " \n ", "\r\n", " " * rng.randrange(1, 9)])
        else:
            low, high = rng.choice(BLOCKS)
            for _ in range(rng.randrange(1, 8)):
                c = rng.randrange(low, high + 1)
                if not 0xD800 <= c < 0xE000:
                    s += chr(c)
    return s


def fuzz_lines(seed, count):
    rng = random.Random(seed)
    return [fuzz_line(rng) for _ in range(count)]


def every_code_point():
    """Each alone, between letters and behind a space."""
    return ["%c" % c if k == 0 else "a%cb %c" % (c, c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 for k in (0, 1)]


def training_texts(count=12):
    """Sources of the Python that runs this."""
    files = sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), "*.py")))[:count]
    return [open(f, encoding="utf-8", errors="replace").read() for f in files]
